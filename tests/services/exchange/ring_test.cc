// A ring gives its memory back in any order, and survives whatever the other process writes in it.

#include "services/exchange/ring.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "worker/experts/frame.h"

namespace conclave::services {
namespace {

using ::testing::HasSubstr;
using worker::FrameBody;
using worker::FrameHeader;
using worker::FrameHeaderBytes;
using What = RingReceiver::Taken::What;

constexpr RingShape kShape = {.slots = 8, .arena = 64 << 10};
constexpr uint64_t kMaxArena = 1 << 20;

FrameHeaderBytes Numbered(uint64_t number) {
  return worker::EncodeHeader(FrameHeader{.request = number});
}

class Ring : public ::testing::Test {
 protected:
  Ring() {
    auto memory = RingMemory::Create(kShape);
    EXPECT_TRUE(memory.ok()) << memory.status();
    sender_ = std::make_shared<RingSender>(*std::move(memory));
    auto mapped = RingMemory::Map(dup(sender_->fd()), sender_->shape(), kMaxArena);
    EXPECT_TRUE(mapped.ok()) << mapped.status();
    receiver_ = std::make_shared<RingReceiver>(*std::move(mapped));
  }
  // Frames on their way keep the ring.
  ~Ring() override { sender_->Abandon(); }

  bool Send(uint64_t number, size_t size) {
    auto body = sender_->Reserve(size);
    if (!body.has_value()) return false;
    std::memset(body->bytes().data(), static_cast<int>(number), size);
    return sender_->Send(Numbered(number), *std::move(body)) != RingSender::Sent::kNoRoom;
  }

  FrameBody Take(uint64_t number, size_t size) {
    RingReceiver::Taken taken = receiver_->Take();
    EXPECT_EQ(taken.what, What::kFrame);
    EXPECT_EQ(taken.header, Numbered(number));
    EXPECT_EQ(taken.body.bytes().size(), size);
    for (const std::byte byte : taken.body.bytes()) {
      EXPECT_EQ(byte, static_cast<std::byte>(number));
    }
    return std::move(taken.body);
  }

  std::shared_ptr<RingSender> sender_;
  std::shared_ptr<RingReceiver> receiver_;
};

TEST_F(Ring, CarriesBodiesWithoutCopies) {
  ASSERT_TRUE(Send(1, 100));
  ASSERT_TRUE(Send(2, 0));
  ASSERT_TRUE(Send(3, 5000));
  FrameBody first = Take(1, 100);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(first.bytes().data()) % worker::kFrameAlignment, 0u);
  Take(2, 0);
  Take(3, 5000);
  EXPECT_EQ(receiver_->Take().what, What::kNothing);
}

TEST_F(Ring, HasRoomForItsSlotsAndNoMoreUntilTheFirstIsFree) {
  for (uint64_t i = 0; i < kShape.slots; ++i) ASSERT_TRUE(Send(i, 64));
  EXPECT_FALSE(Send(9, 64));
  std::vector<FrameBody> bodies;
  for (uint64_t i = 0; i < kShape.slots; ++i) bodies.push_back(Take(i, 64));
  // The second is free, but its slot comes after the first's.
  bodies.erase(bodies.begin() + 1);
  EXPECT_FALSE(Send(9, 64));
  bodies.erase(bodies.begin());
  EXPECT_TRUE(Send(9, 64));
  EXPECT_TRUE(Send(10, 64));
  EXPECT_FALSE(Send(11, 64));
}

TEST_F(Ring, HasRoomForItsArenaAndNoMore) {
  ASSERT_TRUE(Send(1, kShape.arena / 2));
  ASSERT_TRUE(Send(2, kShape.arena / 2));
  EXPECT_FALSE(sender_->Reserve(1).has_value());
  Take(1, kShape.arena / 2);
  EXPECT_TRUE(sender_->Reserve(kShape.arena / 2).has_value());
  EXPECT_FALSE(sender_->Reserve(kShape.arena / 2 + 1).has_value());
  Take(2, kShape.arena / 2);
  EXPECT_TRUE(sender_->Reserve(kShape.arena).has_value());
  EXPECT_FALSE(sender_->Reserve(kShape.arena + 1).has_value());
}

TEST_F(Ring, UsesTheSameLittleMemoryAgainAndAgain) {
  std::byte* first = nullptr;
  for (uint64_t i = 0; i < 1000; ++i) {
    ASSERT_TRUE(Send(i % 256, 4096));
    const FrameBody body = Take(i % 256, 4096);
    if (first == nullptr) first = body.bytes().data();
    ASSERT_EQ(body.bytes().data(), first);
  }
}

TEST_F(Ring, TakesBackWhatWasReservedAndNotSent) {
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(sender_->Reserve(kShape.arena).has_value());
}

TEST_F(Ring, LetsAFrameBeSentWhileAnotherOnesBodyIsStillBeingWritten) {
  auto slow = sender_->Reserve(1000);
  ASSERT_TRUE(Send(2, 100));
  Take(2, 100);
  std::memset(slow->bytes().data(), 1, 1000);
  ASSERT_EQ(sender_->Send(Numbered(1), *std::move(slow)), RingSender::Sent::kSent);
  Take(1, 1000);
}

TEST_F(Ring, WakesOnlyWhoSleeps) {
  ASSERT_EQ(sender_->Send(Numbered(1), {}), RingSender::Sent::kWake);  // it sleeps at first
  ASSERT_EQ(sender_->Send(Numbered(2), {}), RingSender::Sent::kSent);  // woken once is enough
  EXPECT_FALSE(receiver_->Sleep());                                    // there is something
  Take(1, 0);
  Take(2, 0);
  EXPECT_TRUE(receiver_->Sleep());
  receiver_->WakeUp();
  ASSERT_EQ(sender_->Send(Numbered(3), {}), RingSender::Sent::kSent);
}

TEST_F(Ring, OutlivesItsEndsWhileSomebodyReads) {
  ASSERT_TRUE(Send(1, 100));
  const FrameBody body = Take(1, 100);
  sender_->Abandon();
  receiver_.reset();
  EXPECT_FALSE(sender_->Reserve(1).has_value());
  EXPECT_EQ(body.bytes()[99], std::byte{1});
}

// What a hostile sender can write: the layout is known, its memory is shared.
class HostileRing : public Ring {
 protected:
  static constexpr size_t kSent = 0, kSlots = 128, kOffset = 128, kSize = 136;

  HostileRing() {
    data_ = static_cast<std::byte*>(
        mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, sender_->fd(), 0));
    EXPECT_NE(data_, MAP_FAILED);
  }
  ~HostileRing() override { munmap(data_, 4096); }

  void Write(size_t at, uint64_t value) { std::memcpy(data_ + at, &value, sizeof value); }

  std::byte* data_ = nullptr;
};

TEST_F(HostileRing, IsNonsenseWhenItSaysThatMoreWasSentThanFits) {
  Write(kSent, kShape.slots + 1);
  EXPECT_EQ(receiver_->Take().what, What::kNonsense);
  Write(kSent, ~uint64_t{0});
  EXPECT_EQ(receiver_->Take().what, What::kNonsense);
}

TEST_F(HostileRing, IsNonsenseWhenABodyIsNotInItsArena) {
  const struct {
    uint64_t offset, size;
  } bodies[] = {{kShape.arena, 1},       {kShape.arena - 64, 65}, {0, kShape.arena + 1},
                {~uint64_t{0} - 63, 64}, {64, ~uint64_t{0} - 63}, {1, 1},
                {uint64_t{1} << 63, 1}};
  ASSERT_TRUE(Send(1, 64));
  for (const auto& body : bodies) {
    Write(kSlots + kOffset, body.offset);
    Write(kSlots + kSize, body.size);
    EXPECT_EQ(receiver_->Take().what, What::kNonsense) << body.offset << " " << body.size;
  }
  Write(kSlots + kOffset, kShape.arena - 64);
  Write(kSlots + kSize, 64);
  EXPECT_EQ(receiver_->Take().what, What::kFrame);  // just inside
}

int MakeMemfd(uint64_t bytes, unsigned seals) {
  const int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  EXPECT_EQ(ftruncate(fd, static_cast<off_t>(bytes)), 0);
  EXPECT_EQ(fcntl(fd, F_ADD_SEALS, seals), 0);
  return fd;
}

std::string RefusalOf(int fd, const RingShape& shape) {
  const auto memory = RingMemory::Map(fd, shape, kMaxArena);
  return memory.ok() ? "taken" : std::string(memory.status().message());
}

TEST(RingMemory, IsRefusedUnlessItIsWhatItSaysAndStaysSo) {
  const uint64_t bytes = RingMemory::BytesOf(kShape);
  const unsigned seals = F_SEAL_SHRINK | F_SEAL_GROW;
  EXPECT_EQ(RefusalOf(MakeMemfd(bytes, seals), kShape), "taken");
  EXPECT_THAT(RefusalOf(MakeMemfd(bytes, F_SEAL_GROW), kShape), HasSubstr("shrink"));
  EXPECT_THAT(RefusalOf(MakeMemfd(bytes - 4096, seals), kShape), HasSubstr("another size"));
  EXPECT_THAT(RefusalOf(open("/dev/zero", O_RDWR | O_CLOEXEC), kShape), HasSubstr("another size"));
  EXPECT_THAT(RefusalOf(-1, kShape), HasSubstr("another size"));
}

TEST(RingMemory, IsRefusedWhenItsShapeIsPastItsLimits) {
  const auto refusal = [](uint32_t slots, uint64_t arena) {
    return RefusalOf(-1, {.slots = slots, .arena = arena});
  };
  EXPECT_THAT(refusal(0, 4096), HasSubstr("0 slots"));
  EXPECT_THAT(refusal(3, 4096), HasSubstr("3 slots"));
  EXPECT_THAT(refusal(RingMemory::kMaxSlots * 2, 4096), HasSubstr("8192 slots"));
  EXPECT_THAT(refusal(RingMemory::kMaxSlots, 4096), HasSubstr("another size"));
  EXPECT_THAT(refusal(8, 0), HasSubstr("an arena of 0 bytes"));
  EXPECT_THAT(refusal(8, 4097), HasSubstr("an arena of 4097 bytes"));
  EXPECT_THAT(refusal(8, kMaxArena + 4096), HasSubstr("an arena of"));
  EXPECT_THAT(refusal(8, kMaxArena), HasSubstr("another size"));
}

}  // namespace
}  // namespace conclave::services

// Whatever happens to the bytes between two transports: nothing hangs, no frame that is not what
// was sent is heard, and it is all counted.

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <string>

#include "tests/services/exchange/exchange_pair.h"
#include "tests/testing/faulty_proxy.h"

namespace conclave::services {
namespace {

using testing::FaultyProxy;
using worker::FrameHeader;
using worker::PeerIndex;
using Way = FaultyProxy::Way;

// A hello, then frames.
size_t SizeOfUnit(uint64_t before, std::span<const std::byte> bytes) {
  if (before == 0) return kHelloBytes;
  if (bytes.size() < worker::kFrameHeaderBytes) return 0;
  const auto header = worker::ParseHeader(bytes.first<worker::kFrameHeaderBytes>(), kTestLimits);
  EXPECT_TRUE(header.ok()) << header.status();
  return worker::kFrameHeaderBytes + (header.ok() ? header->body_bytes : 0);
}

// What a sends to b passes the proxy.
class Faults : public ::testing::Test {
 protected:
  explicit Faults(std::chrono::milliseconds silence = std::chrono::seconds(30))
      : a_(Silent(TestOptions("a", Carrier::kTcp), silence)),
        b_(Silent(TestOptions("b", Carrier::kTcp), silence)),
        proxy_(b_.transport->address(), /*seed=*/1, SizeOfUnit) {
    b_of_a_ = a_.transport->Connect(b_.AsPeer(proxy_.address()));
    a_of_b_ = b_.transport->Connect(a_.AsPeer());
    EXPECT_TRUE(WaitUp());
  }

  static PeerTransport::Options Silent(PeerTransport::Options options,
                                       std::chrono::milliseconds silence) {
    options.silence = silence;
    return options;
  }

  ::testing::AssertionResult WaitUp() {
    return WaitFor([&] { return IsUp(a_, b_of_a_) && IsUp(b_, a_of_b_); }, "both to be up");
  }

  // Sends frames, each filled with its number, until `enough`.
  template <typename Enough>
  void SendUntil(Enough enough, const std::string& what) {
    ASSERT_TRUE(WaitFor(
        [&] {
          // A few on their way at a time; those of a connection that ended are so no more.
          const size_t arrived = b_.sink.count();
          if (!IsUp(a_, b_of_a_)) lost_ = sent_ - arrived;
          if (sent_ < arrived + lost_ + 50) {
            if (SendRows(*a_.transport, b_of_a_, sent_, 16, Fill(sent_))) ++sent_;
          }
          return enough();
        },
        what));
  }

  // One frame gets through from now on, both ways.
  void ExpectHealed() {
    ASSERT_TRUE(WaitUp());
    lost_ = sent_ - b_.sink.count();
    const size_t before = b_.sink.count(), before_a = a_.sink.count();
    SendUntil([&] { return b_.sink.count() > before; }, "a frame");
    ASSERT_TRUE(
        WaitFor([&] { return SendRows(*b_.transport, a_of_b_, 1) && a_.sink.count() > before_a; },
                "one back"));
  }

  void ExpectOnlyWhatWasSent() {
    int64_t last = -1;
    for (const auto& heard : b_.sink.heard()) {
      const auto number = static_cast<int64_t>(heard.header.request);
      EXPECT_GT(number, last) << "twice or out of order";
      last = number;
      const auto rows = worker::RowsOf(heard.header, heard.body);
      for (const std::byte byte : rows) ASSERT_EQ(byte, Fill(heard.header.request)) << number;
    }
  }

  static std::byte Fill(uint64_t number) { return static_cast<std::byte>(number * 37 + 1); }
  uint64_t Losses(const Side& side, Loss loss) const {
    return side.transport->counts().losses[static_cast<size_t>(loss)];
  }

  Side a_, b_;
  FaultyProxy proxy_;
  PeerIndex b_of_a_ = -1, a_of_b_ = -1;
  uint64_t sent_ = 0, lost_ = 0;
};

TEST_F(Faults, OfCorruptBytesAreNeverHeard) {
  FaultyProxy proxy(b_.transport->address(), /*seed=*/7);
  a_.transport->Forget(b_of_a_);
  ASSERT_TRUE(WaitFor([&] { return !IsUp(a_, b_of_a_); }, "it to be forgotten"));
  a_.transport->Connect(b_.AsPeer(proxy.address()));
  ASSERT_TRUE(WaitUp());
  // One byte of 20,000: some frames pass, many do not.
  proxy.Set(Way::kThere, {.corrupt = 5e-5});
  SendUntil([&] { return b_.transport->stats().bad_frames >= 20 && b_.sink.count() > 100; },
            "damage that is noticed, and frames that arrive nevertheless");
  proxy.Set(Way::kThere, {});
  EXPECT_GE(proxy.counts().corrupted, 20u);
  EXPECT_GT(Losses(b_, Loss::kHeader) + Losses(b_, Loss::kBody), 0u);
  ExpectHealed();
  ExpectOnlyWhatWasSent();
}

TEST_F(Faults, OfOneByteInAHundredLetNothingWrongThrough) {
  FaultyProxy proxy(b_.transport->address(), /*seed=*/8);
  a_.transport->Forget(b_of_a_);
  ASSERT_TRUE(WaitFor([&] { return !IsUp(a_, b_of_a_); }, "it to be forgotten"));
  proxy.Set(Way::kThere, {.corrupt = 0.01});
  a_.transport->Connect(b_.AsPeer(proxy.address()));
  SendUntil([&] { return b_.transport->stats().bad_frames >= 20; }, "damage that is noticed");
  proxy.Set(Way::kThere, {});
  ExpectHealed();
  ExpectOnlyWhatWasSent();
}

TEST_F(Faults, OfTruncationAreLossesAndNoFrames) {
  for (const size_t after : {1u, 127u, 128u, 129u, 1000u, 3000u}) {
    const int downs = a_.sink.downs();
    const uint64_t truncated = proxy_.counts().truncated;
    proxy_.Truncate(Way::kThere, after);
    SendUntil([&] { return a_.sink.downs() > downs; }, "the loss");
    EXPECT_EQ(proxy_.counts().truncated, truncated + 1);
    ExpectHealed();
  }
  ExpectOnlyWhatWasSent();
}

TEST_F(Faults, OfAResetAreToldAndMended) {
  for (int i = 1; i <= 10; ++i) {
    proxy_.Reset();
    SendUntil([&] { return a_.sink.downs() >= i && b_.sink.downs() >= i; }, "the loss");
    ExpectHealed();
  }
  EXPECT_GE(proxy_.counts().resets, 10u);
  EXPECT_GE(a_.sink.ups(), 11);
  ExpectOnlyWhatWasSent();
}

TEST_F(Faults, OfOrderEndTheConnection) {
  for (uint64_t i = 1; i <= 5; ++i) {
    proxy_.Reorder();
    SendUntil([&] { return Losses(b_, Loss::kSequence) >= i; }, "the order to be missed");
    EXPECT_GE(proxy_.counts().reordered, i);
    ExpectHealed();
  }
  EXPECT_GE(b_.transport->stats().bad_frames, 5u);
  ExpectOnlyWhatWasSent();
}

TEST_F(Faults, OfDelayAreNone) {
  proxy_.Set(Way::kThere, {.delay = std::chrono::milliseconds(30)});
  const auto begin = std::chrono::steady_clock::now();
  ASSERT_TRUE(SendRows(*a_.transport, b_of_a_, 0, 16, Fill(0)));
  ASSERT_TRUE(WaitFor([&] { return b_.sink.count() == 1; }, "the frame"));
  EXPECT_GE(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(30));
  EXPECT_GE(proxy_.counts().delayed, 1u);
  EXPECT_EQ(a_.sink.downs() + b_.sink.downs(), 0);
}

TEST_F(Faults, OfOneClientAreNotTheOthers) {
  FaultyProxy proxy(b_.transport->address(), /*seed=*/1, SizeOfUnit,
                    [](std::span<const std::byte> unit) {
                      Hello hello;
                      EXPECT_EQ(ParseHello(unit.first<kHelloBytes>(), hello), Verdict::kWelcome);
                      return hello.from_id;
                    });
  Side c(TestOptions("c", Carrier::kTcp));
  a_.transport->Forget(b_of_a_);
  b_of_a_ = a_.transport->Connect(b_.AsPeer(proxy.address()));
  const PeerIndex b_of_c = c.transport->Connect(b_.AsPeer(proxy.address()));
  b_.transport->Connect(c.AsPeer());
  ASSERT_TRUE(WaitUp());
  ASSERT_TRUE(WaitFor([&] { return IsUp(c, b_of_c); }, "c to be up"));
  proxy.SetOf("c", Way::kThere, {.blackhole = true});
  ASSERT_TRUE(SendRows(*c.transport, b_of_c, 1'000'000));
  ASSERT_TRUE(WaitFor([&] { return proxy.counts().swallowed > 0; }, "c's frame to be swallowed"));
  SendUntil([&] { return b_.sink.count() >= 20; }, "those of a to arrive");
  ExpectOnlyWhatWasSent();
  proxy.Set(Way::kThere, {});
  ASSERT_TRUE(WaitFor(
      [&] {
        SendRows(*c.transport, b_of_c, 1'000'001);
        const auto heard = b_.sink.heard();
        return std::any_of(heard.begin(), heard.end(),
                           [](const auto& frame) { return frame.header.request == 1'000'001; });
      },
      "what c sends"));
}

class FaultsOfPeersThatMustNotBeSilent : public Faults {
 protected:
  FaultsOfPeersThatMustNotBeSilent() : Faults(std::chrono::milliseconds(300)) {}
};

TEST_F(FaultsOfPeersThatMustNotBeSilent, ABlackHoleOneWayIsNoticedByWhoHearsNothing) {
  proxy_.Set(Way::kThere, {.blackhole = true});
  SendUntil([&] { return Losses(b_, Loss::kSilent) >= 1; }, "the silence");
  EXPECT_GT(proxy_.counts().swallowed, 0u);
  ASSERT_TRUE(WaitFor([&] { return a_.sink.downs() > 0; }, "the other one to be told"));
  proxy_.Set(Way::kThere, {});
  ExpectHealed();
  ExpectOnlyWhatWasSent();
}

TEST_F(FaultsOfPeersThatMustNotBeSilent, ABlackHoleBothWaysIsNoticedAndLeft) {
  proxy_.Set(Way::kThere, {.blackhole = true});
  proxy_.Set(Way::kBack, {.blackhole = true});
  SendUntil([&] { return b_.sink.downs() > 0; }, "the silence");
  proxy_.Set(Way::kThere, {});
  proxy_.Set(Way::kBack, {});
  ExpectHealed();
  ExpectOnlyWhatWasSent();
}

TEST_F(FaultsOfPeersThatMustNotBeSilent, ALargeBodyOnASlowWayIsNoSilence) {
  // 66 kB take twice as long as a peer may be silent.
  FaultyProxy plain(b_.transport->address());
  plain.Set(Way::kThere, {.bytes_per_second = 110'000});
  a_.transport->Forget(b_of_a_);
  ASSERT_TRUE(WaitFor([&] { return !IsUp(a_, b_of_a_); }, "it to be forgotten"));
  a_.transport->Connect(b_.AsPeer(plain.address()));
  ASSERT_TRUE(WaitUp());
  ASSERT_TRUE(SendRows(*a_.transport, b_of_a_, 0, kTestLimits.rows, Fill(0)));
  ASSERT_TRUE(WaitFor([&] { return b_.sink.count() == 1; }, "the frame"));
  EXPECT_GT(plain.counts().throttled, 0u);
  EXPECT_EQ(Losses(b_, Loss::kSilent), 0u);
  ExpectOnlyWhatWasSent();
}

}  // namespace
}  // namespace conclave::services

// Memory that nobody can change once it is sealed.

#include "worker/experts/sealed_memory.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <string_view>

#include "worker/sha256.h"

namespace conclave::worker {
namespace {

TEST(SealedMemory, CannotBeWrittenResizedOrUnsealedOnceItIsSealed) {
  absl::StatusOr<SealedMemory> memory = SealedMemory::Create("test", 10);
  ASSERT_TRUE(memory.ok()) << memory.status();
  ASSERT_TRUE(memory->Append("01234").ok());
  ASSERT_TRUE(memory->Append("56789").ok());
  ASSERT_TRUE(memory->Seal().ok());

  EXPECT_EQ(pwrite(memory->fd(), "x", 1, 0), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(ftruncate(memory->fd(), 5), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(ftruncate(memory->fd(), 50), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(mmap(nullptr, 10, PROT_READ | PROT_WRITE, MAP_SHARED, memory->fd(), 0), MAP_FAILED);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(fcntl(memory->fd(), F_ADD_SEALS, F_SEAL_FUTURE_WRITE), -1);
  EXPECT_EQ(errno, EPERM);
}

TEST(SealedMemory, TakesWhatItHasRoomForAndIsSealedWhenItIsFull) {
  SealedMemory memory = *SealedMemory::Create("test", 4);
  EXPECT_EQ(memory.Append("12345").code(), absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(memory.Append("123").ok());
  EXPECT_EQ(memory.Seal().message(), "ended after 3 of 4 bytes");
  EXPECT_EQ(memory.Append("45").message(), "2 bytes where there is room for 1 of 4");
  ASSERT_TRUE(memory.Append("4").ok());
  EXPECT_TRUE(memory.Seal().ok());
}

TEST(SealedMemory, IsReadWhereItIsMappedAfterItsEnd) {
  void* const place =
      mmap(nullptr, 4, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ASSERT_NE(place, MAP_FAILED);
  {
    SealedMemory memory = *SealedMemory::Create("test", 4);
    ASSERT_TRUE(memory.Append("abcd").ok());
    ASSERT_TRUE(memory.Seal().ok());
    Sha256 hash;
    hash.Add("abcd");
    EXPECT_EQ(*memory.Sha256(), hash.Finish());
    ASSERT_TRUE(memory.MapAt(place).ok());
  }
  EXPECT_EQ(std::string_view(static_cast<const char*>(place), 4), "abcd");
  munmap(place, 4);
}

}  // namespace
}  // namespace conclave::worker

#include "services/identity.h"

#include <gtest/gtest.h>

#include "tests/worker/testing/tiny_checkpoint.h"

namespace conclave::services {
namespace {

using worker::testing::ReadFileOrDie;
using worker::testing::TempDir;
using worker::testing::WriteFileOrDie;

TEST(Identity, TakesIdsThatAreSafeEverywhere) {
  EXPECT_TRUE(ValidateId("worker-0.rack_7").ok());
  EXPECT_TRUE(ValidateId(std::string(kMaxIdBytes, 'a')).ok());
  for (const std::string& id : {std::string(), std::string("a b"), std::string("a/b"),
                                std::string("\xc3\xa4"), std::string(kMaxIdBytes + 1, 'a')}) {
    EXPECT_EQ(ValidateId(id).code(), absl::StatusCode::kInvalidArgument) << id;
  }
  EXPECT_TRUE(ValidateId(DefaultId()).ok());
}

TEST(Identity, SaysHowLongAnIdIsThatIsTooLong) {
  EXPECT_EQ(ValidateId(std::string(300, 'a')).message(),
            "worker id \"" + std::string(64, 'a') +
                "...\" has 300 bytes: want 1 to 64 of A-Z a-z 0-9 . _ -");
  EXPECT_EQ(ValidateId("a\nb").message(),
            "worker id \"a\\nb\" has 3 bytes: want 1 to 64 of A-Z a-z 0-9 . _ -");
}

TEST(Identity, GrowsWithEveryStart) {
  TempDir directory;
  uint64_t last = 0;
  for (int start = 0; start < 5; ++start) {
    const auto incarnation = NextIncarnation(directory.path());
    ASSERT_TRUE(incarnation.ok()) << incarnation.status();
    EXPECT_GT(*incarnation, last);
    last = *incarnation;
  }
}

TEST(Identity, GrowsEvenIfTheClockWentBack) {
  TempDir directory;
  WriteFileOrDie(directory.File("incarnation"), "9000000000000000000\n");
  EXPECT_EQ(*NextIncarnation(directory.path()), 9000000000000000001u);
  EXPECT_EQ(ReadFileOrDie(directory.File("incarnation")), "9000000000000000001\n");
}

TEST(Identity, DoesNotGuessWhenItsMemoryIsBroken) {
  TempDir directory;
  WriteFileOrDie(directory.File("incarnation"), "many\n");
  EXPECT_EQ(NextIncarnation(directory.path()).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(NextIncarnation("/proc/nowhere").status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace conclave::services

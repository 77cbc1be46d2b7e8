#include "services/failpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

namespace conclave::services {
namespace {

using ::testing::HasSubstr;

TEST(Failpoints, DoNothingUnlessSet) {
  EXPECT_TRUE(Failpoints().empty());
  EXPECT_TRUE(Failpoints().Hit("step.begin").ok());
}

TEST(Failpoints, RefuseWhatTheyDoNotKnow) {
  for (const char* setting :
       {"", "step.begin", "step.begun=kill", "step.begin=", "step.begin=die", "step.begin=kill@0",
        "step.begin=kill@x", "step.begin=delay", "step.begin=delay:0", "step.begin=delay:60001",
        "step.begin=error", "=kill"}) {
    SCOPED_TRACE(setting);
    const auto parsed = Failpoints::Parse({setting});
    ASSERT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr(setting));
  }
  EXPECT_FALSE(Failpoints::Parse({"step.begin=stop", "step.begin=kill"}).ok());
}

TEST(Failpoints, FailAlwaysOrAtOneHitOnly) {
  const auto always = Failpoints::Parse({"worker.submit=error"});
  const auto third = Failpoints::Parse({"worker.submit=error@3"});
  ASSERT_TRUE(always.ok() && third.ok());
  for (int hit = 1; hit <= 5; ++hit) {
    EXPECT_EQ(always->Hit("worker.submit").code(), absl::StatusCode::kInternal);
    EXPECT_EQ(third->Hit("worker.submit").ok(), hit != 3) << hit;
    EXPECT_TRUE(always->Hit("worker.heartbeat").ok());
  }
}

TEST(Failpoints, Delay) {
  const auto delay = Failpoints::Parse({"step.begin=delay:30@2"});
  ASSERT_TRUE(delay.ok());
  const auto timed = [&] {
    const auto begin = std::chrono::steady_clock::now();
    EXPECT_TRUE(delay->Hit("step.begin").ok());
    return std::chrono::steady_clock::now() - begin;
  };
  timed();
  EXPECT_GE(timed(), std::chrono::milliseconds(30));
}

TEST(FailpointsDeathTest, KillTheProcessAtTheHitThatWasNamed) {
  EXPECT_EXIT(
      {
        const auto kill = Failpoints::Parse({"step.begin=kill@2"});
        kill->Hit("step.begin").IgnoreError();
        std::fputs("alive\n", stderr);
        kill->Hit("step.begin").IgnoreError();
        std::fputs("survived\n", stderr);
      },
      ::testing::KilledBySignal(SIGKILL), "^alive\n$");
}

}  // namespace
}  // namespace conclave::services

// What the scheduler's log says of workers.

#include "services/membership_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace conclave::services {
namespace {

using scheduler::Membership;
using scheduler::Micros;
using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

class MembershipLogTest : public ::testing::Test {
 protected:
  void Beat(uint64_t incarnation = 1, bool draining = false) {
    members_.Heartbeat(
        {.id = "w0", .incarnation = incarnation, .address = "host:1", .draining = draining}, now_);
  }
  // The lines of what follows from so much silence; a bad one has a mark.
  std::vector<std::string> Pass(Micros silence = {}) {
    now_ += silence;
    members_.Tick(now_);
    std::vector<std::string> lines;
    for (const MembershipLog::Line& line : log_.Note(members_.Workers()))
      lines.push_back((line.bad ? "! " : "") + line.text);
    return lines;
  }

  Micros now_{1'000'000};
  Membership members_{{}, {}, now_};
  MembershipLog log_{{}, {}};
};

TEST_F(MembershipLogTest, NamesAWorkerWhenItJoinsAndNotWithEveryBeat) {
  Beat();
  EXPECT_THAT(Pass(), ElementsAre("worker w0 joined at host:1: incarnation 1"));
  Beat();
  EXPECT_THAT(Pass(), IsEmpty());
}

TEST_F(MembershipLogTest, FollowsAWorkerIntoSilenceAndBack) {
  Beat();
  Pass();
  EXPECT_THAT(Pass(milliseconds(500)),
              ElementsAre("! worker w0 is suspect: nothing was heard of it for 500 ms"));
  Beat();
  EXPECT_THAT(Pass(), ElementsAre("worker w0 is back: it is heard again"));
  EXPECT_THAT(Pass(milliseconds(2000)),
              ElementsAre("! worker w0 is dead: nothing was heard of it for 2000 ms"));
  EXPECT_THAT(Pass(milliseconds(2000)), IsEmpty());
  Beat();
  EXPECT_THAT(Pass(), ElementsAre("worker w0 is back: it is heard again"));
  EXPECT_EQ(log_.counts().deaths, 1u);
  EXPECT_EQ(log_.counts().restarts, 0u);
}

TEST_F(MembershipLogTest, TellsADeathThatPeersNoticedFromSilence) {
  Beat();
  Pass();
  members_.ReportBroken("w0", 1);
  EXPECT_THAT(Pass(milliseconds(300)),
              ElementsAre("! worker w0 is dead: its peers' connections to it broke, and nothing "
                          "was heard of it for 300 ms"));
}

TEST_F(MembershipLogTest, TellsARestartFromAReturn) {
  Beat();
  Pass(milliseconds(2000));
  Beat(7);
  EXPECT_THAT(Pass(), ElementsAre("worker w0 is back at host:1, restarted as incarnation 7"));
  Beat(8);
  EXPECT_THAT(Pass(), ElementsAre("worker w0 is back at host:1, restarted as incarnation 8"))
      << "so soon that nobody missed it";
  EXPECT_EQ(log_.counts().restarts, 2u);
}

TEST_F(MembershipLogTest, CountsNoDeathOfAWorkerThatWasLeaving) {
  Beat();
  Pass();
  Beat(1, /*draining=*/true);
  EXPECT_THAT(Pass(), ElementsAre("worker w0 is draining"));
  EXPECT_THAT(Pass(milliseconds(2000)),
              ElementsAre("worker w0 was draining and is gone: nothing was heard of it for 2000 "
                          "ms"));
  EXPECT_EQ(log_.counts().deaths, 0u);
  EXPECT_THAT(Pass(std::chrono::minutes(10)), ElementsAre("worker w0 is forgotten"));
}

TEST_F(MembershipLogTest, SaysNothingOfThoseThatWereKnownBeforeItBegan) {
  Beat();
  MembershipLog later({}, members_.Workers());
  EXPECT_THAT(later.Note(members_.Workers()), IsEmpty());
}

}  // namespace
}  // namespace conclave::services

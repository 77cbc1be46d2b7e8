#include "scheduler/membership.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace conclave::scheduler {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Heard = Membership::Heard;

constexpr Micros kStart = std::chrono::hours(1);
constexpr Micros kTick{1};

Membership::Beat BeatOf(const std::string& id, uint64_t incarnation = 1) {
  return {.id = id, .incarnation = incarnation, .address = id + ":1"};
}

class MembershipTest : public testing::Test {
 protected:
  WorkerState StateOf(const std::string& id) const {
    for (const Membership::Worker& worker : members_.Workers()) {
      if (worker.id == id) return worker.state;
    }
    ADD_FAILURE() << id << " is unknown";
    return WorkerState::kDead;
  }

  Membership members_{{}, {}, kStart};
};

TEST_F(MembershipTest, AWorkerThatIsHeardIsReady) {
  EXPECT_EQ(members_.Heartbeat(BeatOf("w0"), kStart), Heard::kAccepted);
  EXPECT_EQ(StateOf("w0"), WorkerState::kReady);
  EXPECT_EQ(members_.Workers()[0].address, "w0:1");
}

TEST_F(MembershipTest, AWorkerThatWasStoredIsNotHeardBeforeItBeatsAgain) {
  members_.Heartbeat(BeatOf("w0"), kStart);
  EXPECT_TRUE(members_.Workers()[0].heard);
  Membership restarted({}, members_.Save(), kStart);
  EXPECT_FALSE(restarted.Workers()[0].heard);
  restarted.Heartbeat(BeatOf("w0"), kStart);
  EXPECT_TRUE(restarted.Workers()[0].heard);
}

TEST_F(MembershipTest, ASilentWorkerIsSuspectThenDeadThenForgotten) {
  members_.Heartbeat(BeatOf("w0"), kStart);
  const auto at = [&](Micros silent) { return members_.Tick(kStart + silent); };
  EXPECT_FALSE(at(milliseconds(500) - kTick));
  EXPECT_EQ(StateOf("w0"), WorkerState::kReady);
  EXPECT_TRUE(at(milliseconds(500)));
  EXPECT_EQ(StateOf("w0"), WorkerState::kSuspect);
  EXPECT_FALSE(at(seconds(2) - kTick));
  EXPECT_EQ(StateOf("w0"), WorkerState::kSuspect);
  EXPECT_TRUE(at(seconds(2)));
  EXPECT_EQ(StateOf("w0"), WorkerState::kDead);
  EXPECT_FALSE(at(std::chrono::minutes(10) - kTick));
  EXPECT_EQ(StateOf("w0"), WorkerState::kDead);
  EXPECT_TRUE(at(std::chrono::minutes(10)));
  EXPECT_TRUE(members_.Workers().empty());
}

TEST_F(MembershipTest, ASuspectOrDeadWorkerThatIsHeardIsReadyAgain) {
  for (const Micros silence : {Micros(seconds(1)), Micros(seconds(3))}) {
    members_.Heartbeat(BeatOf("w0"), kStart);
    members_.Tick(kStart + silence);
    EXPECT_NE(StateOf("w0"), WorkerState::kReady);
    members_.Heartbeat(BeatOf("w0"), kStart + silence);
    EXPECT_EQ(StateOf("w0"), WorkerState::kReady);
    EXPECT_FALSE(members_.Tick(kStart + silence + milliseconds(499)));
  }
}

TEST_F(MembershipTest, ADrainingWorkerStaysDrainingUntilItIsDead) {
  Membership::Beat beat = BeatOf("w0");
  members_.Heartbeat(beat, kStart);
  beat.draining = true;
  members_.Heartbeat(beat, kStart);
  EXPECT_EQ(StateOf("w0"), WorkerState::kDraining);
  EXPECT_FALSE(members_.Tick(kStart + seconds(1)));
  EXPECT_EQ(StateOf("w0"), WorkerState::kDraining);
  EXPECT_TRUE(members_.Tick(kStart + seconds(2)));
  EXPECT_EQ(StateOf("w0"), WorkerState::kDead);
}

TEST_F(MembershipTest, AStaleIncarnationIsRefusedWithoutEffect) {
  members_.Heartbeat(BeatOf("w0", 7), kStart);
  const uint64_t version = members_.version();
  Membership::Beat stale = BeatOf("w0", 6);
  stale.address = "elsewhere:1";
  EXPECT_EQ(members_.Heartbeat(stale, kStart + milliseconds(400)), Heard::kStale);
  EXPECT_EQ(members_.version(), version);
  EXPECT_EQ(members_.Workers()[0].address, "w0:1");
  // Nor does it count as a sign of life.
  members_.Tick(kStart + milliseconds(500));
  EXPECT_EQ(StateOf("w0"), WorkerState::kSuspect);
}

TEST_F(MembershipTest, ALaterIncarnationReplacesADeadWorker) {
  members_.Heartbeat(BeatOf("w0", 7), kStart);
  members_.Tick(kStart + seconds(2));
  EXPECT_EQ(members_.Heartbeat(BeatOf("w0", 8), kStart + seconds(2)), Heard::kAccepted);
  EXPECT_EQ(StateOf("w0"), WorkerState::kReady);
  EXPECT_EQ(members_.Heartbeat(BeatOf("w0", 7), kStart + seconds(2)), Heard::kStale);
}

TEST_F(MembershipTest, TheVersionGrowsWithVisibleChangesOnly) {
  uint64_t version = members_.version();
  const auto grew = [&] { return std::exchange(version, members_.version()) < members_.version(); };
  Membership::Beat beat = BeatOf("w0");
  members_.Heartbeat(beat, kStart);
  EXPECT_TRUE(grew());
  members_.Heartbeat(beat, kStart + seconds(1));
  EXPECT_FALSE(grew());
  beat.address = "w0:2";
  members_.Heartbeat(beat, kStart + seconds(1));
  EXPECT_TRUE(grew());
  beat.incarnation = 2;
  members_.Heartbeat(beat, kStart + seconds(1));
  EXPECT_TRUE(grew());
  beat.draining = true;
  members_.Heartbeat(beat, kStart + seconds(1));
  EXPECT_TRUE(grew());
  members_.Tick(kStart + seconds(2));
  EXPECT_FALSE(grew());
  members_.Tick(kStart + seconds(6));
  EXPECT_TRUE(grew());
  members_.SetEpoch(1);
  EXPECT_TRUE(grew());
  members_.SetEpoch(1);
  EXPECT_TRUE(grew()) << "a placement is prepared, say";
}

TEST_F(MembershipTest, ALateTickOrBeatNeverTurnsTimeBack) {
  members_.Heartbeat(BeatOf("w0"), kStart + seconds(2));
  members_.Heartbeat(BeatOf("w0"), kStart);
  EXPECT_FALSE(members_.Tick(kStart + seconds(2) + milliseconds(499)));
  EXPECT_FALSE(members_.Tick(kStart));
  EXPECT_EQ(StateOf("w0"), WorkerState::kReady);
}

TEST_F(MembershipTest, NextChangeIsWhenATickWouldChangeSomething) {
  EXPECT_EQ(members_.NextChange(), std::nullopt);
  members_.Heartbeat(BeatOf("w1"), kStart + seconds(1));
  members_.Heartbeat(BeatOf("w0"), kStart);
  int changes = 0;
  while (const std::optional<Micros> next = members_.NextChange()) {
    EXPECT_FALSE(members_.Tick(*next - kTick));
    EXPECT_TRUE(members_.Tick(*next));
    ++changes;
  }
  EXPECT_EQ(changes, 6);  // each of the two: suspect, dead, forgotten
}

TEST_F(MembershipTest, AWorkerItsPeersLostIsDeadAfterTwoBeats) {
  members_.Heartbeat(BeatOf("w0", 7), kStart);
  members_.ReportBroken("w0", 7);
  EXPECT_EQ(members_.NextChange(), kStart + milliseconds(300));
  EXPECT_FALSE(members_.Tick(kStart + milliseconds(300) - kTick));
  EXPECT_TRUE(members_.Tick(kStart + milliseconds(300)));
  EXPECT_EQ(StateOf("w0"), WorkerState::kDead);
}

TEST_F(MembershipTest, AWorkerThatIsHeardIsThereWhateverItsPeersLost) {
  members_.Heartbeat(BeatOf("w0", 7), kStart);
  members_.ReportBroken("w0", 7);
  members_.Heartbeat(BeatOf("w0", 7), kStart + milliseconds(150));
  EXPECT_FALSE(members_.Tick(kStart + milliseconds(600)));
  EXPECT_EQ(StateOf("w0"), WorkerState::kReady);
}

TEST_F(MembershipTest, ALossOfAnotherProcessOrWorkerSaysNothing) {
  members_.Heartbeat(BeatOf("w0", 7), kStart);
  members_.ReportBroken("w0", 6);
  members_.ReportBroken("stranger", 1);
  EXPECT_FALSE(members_.Tick(kStart + milliseconds(400)));
}

TEST_F(MembershipTest, TimeInWhichNobodyCouldBeHeardIsNobodysSilence) {
  members_.Heartbeat(BeatOf("w0"), kStart);
  members_.Heartbeat(BeatOf("w1"), kStart + seconds(29));
  members_.Excuse(seconds(30), kStart + seconds(30));
  EXPECT_FALSE(members_.Tick(kStart + seconds(30) + milliseconds(499)));
  EXPECT_TRUE(members_.Tick(kStart + seconds(30) + milliseconds(500)));
  EXPECT_EQ(StateOf("w0"), WorkerState::kSuspect);
  EXPECT_EQ(StateOf("w1"), WorkerState::kSuspect) << "it is not excused beyond the present";
}

TEST_F(MembershipTest, ARestartChangesNothingThatCanBeSeen) {
  members_.Heartbeat(BeatOf("w0", 3), kStart);
  members_.Heartbeat(BeatOf("w1", 4), kStart + seconds(1));
  members_.SetEpoch(1);
  members_.Tick(kStart + seconds(1));

  // Another clock, long after.
  const Micros restart = std::chrono::seconds(1);
  Membership restored({}, members_.Save(), restart);
  EXPECT_EQ(restored.epoch(), 1u);
  EXPECT_EQ(restored.version(), members_.version());
  ASSERT_EQ(restored.Workers().size(), 2u);
  EXPECT_EQ(restored.Workers()[0].state, WorkerState::kSuspect);
  EXPECT_EQ(restored.Workers()[1].state, WorkerState::kReady);
  EXPECT_FALSE(restored.Tick(restart + milliseconds(500) - kTick));
  EXPECT_EQ(restored.Heartbeat(BeatOf("w0", 2), restart), Heard::kStale);
  EXPECT_EQ(restored.Heartbeat(BeatOf("w0", 3), restart), Heard::kAccepted);
}

TEST(Membership, KnowsAtMostMaxWorkers) {
  Membership members({.max_workers = 2}, {}, kStart);
  EXPECT_EQ(members.Heartbeat(BeatOf("w0"), kStart), Heard::kAccepted);
  EXPECT_EQ(members.Heartbeat(BeatOf("w1"), kStart), Heard::kAccepted);
  const uint64_t version = members.version();
  EXPECT_EQ(members.Heartbeat(BeatOf("w2"), kStart), Heard::kFull);
  EXPECT_EQ(members.version(), version);
  EXPECT_EQ(members.Heartbeat(BeatOf("w1"), kStart), Heard::kAccepted);
  members.Tick(kStart + std::chrono::minutes(10));
  EXPECT_EQ(members.Heartbeat(BeatOf("w2"), kStart), Heard::kAccepted);
}

}  // namespace
}  // namespace conclave::scheduler

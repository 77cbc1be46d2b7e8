#include "scheduler/placement_change.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

namespace conclave::scheduler {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;
using Phase = PlacementChange::Phase;
using Purpose = PlacementChange::Purpose;
using Verdict = PlacementChange::Proposal::Verdict;
using Member = PlacementChange::Member;
using Owners = std::vector<std::vector<int32_t>>;

constexpr Micros kStart = std::chrono::hours(1);

// A scheduler's change among workers "a", "b", "c", each doing at once what it is told, unless a
// test says otherwise.
class PlacementChangeTest : public testing::Test {
 protected:
  PlacementChangeTest() {
    for (const char* id : {"a", "b", "c"}) members_[id] = {.id = id};
  }

  std::vector<Member> members() const {
    std::vector<Member> all;
    for (const auto& [id, member] : members_) all.push_back(member);
    return all;
  }
  bool Step(Micros after = milliseconds(1)) { return change_.Step(members(), now_ += after); }
  PlacementChange::Proposal Propose(const Owners& owners = {{0}, {1}, {2}}) {
    return change_.Propose({.workers = {"a", "b", "c"}, .owners = owners}, members(), now_);
  }
  void Acknowledge(const std::string& id) {
    members_[id].acknowledged = change_.next().has_value() ? change_.next()->plan : 0;
  }
  PlacementChange::Proposal AddAdapter(const std::string& digest) {
    return change_.Propose(
        WithAdapter(*change_.current(), {.digest = digest, .source = "/x", .replaced = {0, 2}}),
        members(), now_, Purpose::kAdapters);
  }
  void Adopt(const std::string& id) { members_[id].adopted = change_.epoch(); }

  // STABLE(1): a has expert 0, b 1, c 2.
  void Settle() {
    Step();
    ASSERT_EQ(Propose().verdict, Verdict::kPrepared);
    for (const char* id : {"a", "b", "c"}) Acknowledge(id);
    Step();
    for (const char* id : {"a", "b", "c"}) Adopt(id);
    Step();
    ASSERT_EQ(change_.phase(), Phase::kStable);
    ASSERT_EQ(change_.epoch(), 1u);
  }
  // b died and came back, and everybody steps by epoch 2, in which it owns nothing.
  void LoseAndFind() {
    members_["b"].alive = false;
    Step();
    members_["b"].alive = true;
    for (const char* id : {"a", "b", "c"}) Adopt(id);
    Step();
    Step();
    ASSERT_EQ(change_.phase(), Phase::kStable);
    ASSERT_EQ(change_.current()->workers, (std::vector<std::string>{"a", "c"}));
  }
  PlacementChange::Options options_;
  Micros now_ = kStart;
  std::map<std::string, Member> members_;
  PlacementChange change_{options_, {}, kStart};
};

TEST_F(PlacementChangeTest, CommitsOnceEveryOwnerHasAcknowledgedThisPlan) {
  EXPECT_EQ(change_.phase(), Phase::kNone);
  const PlacementChange::Proposal proposal = Propose();
  EXPECT_EQ(proposal.verdict, Verdict::kPrepared);
  EXPECT_EQ(proposal.plan, 1u);
  EXPECT_EQ(change_.phase(), Phase::kPrepared);
  Acknowledge("a");
  Acknowledge("b");
  EXPECT_FALSE(Step());
  members_["c"].acknowledged = 77;  // of another plan
  EXPECT_FALSE(Step());
  Acknowledge("c");
  EXPECT_TRUE(Step());
  EXPECT_EQ(change_.phase(), Phase::kCommitted);
  EXPECT_EQ(change_.epoch(), 1u);
  EXPECT_EQ(change_.current()->plan, 1u);
  EXPECT_EQ(change_.floor(), 0u);
  EXPECT_TRUE(change_.outcome()->committed);
}

TEST_F(PlacementChangeTest, ReleasesOnlyWhenAllHaveAdopted) {
  Settle();
  Propose({{2}, {1}, {0}});
  for (const char* id : {"a", "b", "c"}) Acknowledge(id);
  Step();
  EXPECT_EQ(change_.epoch(), 2u);
  Adopt("a");
  Adopt("b");
  EXPECT_FALSE(Step());
  EXPECT_EQ(change_.floor(), 1u);
  EXPECT_EQ(Propose().verdict, Verdict::kBusy);
  Adopt("c");
  EXPECT_TRUE(Step());
  EXPECT_EQ(change_.floor(), 2u);
  EXPECT_EQ(change_.phase(), Phase::kStable);
}

TEST_F(PlacementChangeTest, ReleasesWithoutOneThatNeverAdopts) {
  Settle();
  Propose({{2}, {1}, {0}});
  for (const char* id : {"a", "b", "c"}) Acknowledge(id);
  Step();
  Adopt("a");
  EXPECT_FALSE(Step(options_.adopt_timeout - milliseconds(1)));
  EXPECT_TRUE(Step(milliseconds(1)));
  EXPECT_EQ(change_.floor(), 2u);
  EXPECT_EQ(change_.stats().released_late, 1u);
  EXPECT_FALSE(change_.Serves(members_["b"]));
  EXPECT_TRUE(change_.Serves(members_["a"]));
}

TEST_F(PlacementChangeTest, WaitsForAllToAdoptTheFirstPlacement) {
  Propose();
  for (const char* id : {"a", "b", "c"}) Acknowledge(id);
  Step();
  Adopt("a");
  EXPECT_FALSE(Step());
  Adopt("b");
  Adopt("c");
  EXPECT_TRUE(Step());
  EXPECT_EQ(change_.floor(), 1u);
}

TEST_F(PlacementChangeTest, ReleasesNothingThatNobodyHasAdopted) {
  Step();
  Propose();
  for (const char* id : {"a", "b", "c"}) Acknowledge(id);
  Step();
  EXPECT_FALSE(Step(options_.adopt_timeout * 2));
  EXPECT_EQ(change_.floor(), 0u);
}

TEST_F(PlacementChangeTest, GoesBackWhenAnOwnerRefuses) {
  Settle();
  const PlacementChange::Stored before = change_.Save();
  Propose({{2}, {1}, {0}});
  members_["b"].refused = change_.next()->plan;
  members_["b"].why = "no memory";
  EXPECT_TRUE(Step());
  EXPECT_EQ(change_.phase(), Phase::kStable);
  EXPECT_EQ(change_.current(), before.current);
  EXPECT_FALSE(change_.outcome()->committed);
  EXPECT_THAT(change_.outcome()->why, HasSubstr("worker b cannot: no memory"));
}

TEST_F(PlacementChangeTest, GoesBackWhenAnOwnerTakesTooLong) {
  Settle();
  Propose();
  Acknowledge("a");
  Acknowledge("b");
  EXPECT_FALSE(Step(options_.prepare_timeout - milliseconds(1)));
  EXPECT_TRUE(Step(milliseconds(1)));
  EXPECT_EQ(change_.phase(), Phase::kStable);
  EXPECT_THAT(change_.outcome()->why, HasSubstr("worker c did not acknowledge"));
}

TEST_F(PlacementChangeTest, NeverUsesAPlansNumberTwice) {
  Settle();
  EXPECT_EQ(Propose().plan, 2u);
  Step(options_.prepare_timeout);
  EXPECT_EQ(Propose().plan, 3u);
  EXPECT_EQ(change_.next()->epoch, 2u) << "the epoch of the aborted plan was used by nobody";
}

TEST_F(PlacementChangeTest, HasOnePlanAtATime) {
  Settle();
  Propose();
  const PlacementChange::Proposal second = Propose();
  EXPECT_EQ(second.verdict, Verdict::kBusy);
  EXPECT_THAT(second.problem, HasSubstr("plan 2"));
}

TEST_F(PlacementChangeTest, RefusesWhatCannotBe) {
  EXPECT_THAT(Propose({{0}, {}, {1}}).problem, HasSubstr("expert 1 has no owner"));
  members_["b"].alive = false;
  EXPECT_THAT(Propose().problem, HasSubstr("worker b is not alive"));
  members_.erase("b");
  EXPECT_THAT(Propose().problem, HasSubstr("worker b is not alive"));
  EXPECT_EQ(change_.Save(), PlacementChange::Stored());
}

TEST_F(PlacementChangeTest, ADeathGivesWhatIsLostToTheLivingUnderANewEpoch) {
  Settle();
  members_["b"].alive = false;
  EXPECT_TRUE(Step());
  EXPECT_EQ(change_.phase(), Phase::kCommitted);
  EXPECT_EQ(change_.epoch(), 2u);
  EXPECT_EQ(change_.current()->workers, (std::vector<std::string>{"a", "c"}));
  EXPECT_EQ(change_.current()->owners, (Owners{{0}, {0}, {1}}));
  EXPECT_EQ(change_.stats().emergencies, 1u);
  EXPECT_FALSE(Step()) << "once";
  Adopt("a");
  Adopt("c");
  EXPECT_TRUE(Step());
  EXPECT_EQ(change_.floor(), 2u);
}

TEST_F(PlacementChangeTest, ADeathEndsAnOpenPlan) {
  Settle();
  Propose({{2}, {1}, {0}});
  Acknowledge("a");
  members_["b"].alive = false;
  EXPECT_TRUE(Step());
  EXPECT_FALSE(change_.next().has_value());
  EXPECT_FALSE(change_.outcome()->committed);
  EXPECT_EQ(change_.outcome()->why, "worker b died");
  EXPECT_EQ(change_.current()->plan, 3u);
  EXPECT_EQ(change_.current()->owners, (Owners{{0}, {0}, {1}})) << "of the old one";
}

TEST_F(PlacementChangeTest, AllWhoDiedAreNamed) {
  Settle();
  Propose({{2}, {1}, {0}});
  members_["c"].alive = members_["a"].alive = false;
  Step();
  EXPECT_EQ(change_.outcome()->why, "workers a, c died");
}

TEST_F(PlacementChangeTest, ADeathAfterTheCommitGoesForward) {
  Settle();
  Propose({{2}, {1}, {0}});
  for (const char* id : {"a", "b", "c"}) Acknowledge(id);
  Step();
  members_["b"].alive = false;
  EXPECT_TRUE(Step());
  EXPECT_EQ(change_.epoch(), 3u);
  EXPECT_EQ(change_.current()->owners, (Owners{{1}, {0}, {0}})) << "of the new one";
  EXPECT_EQ(change_.floor(), 1u) << "some may still step by epoch 1";
  Adopt("a");
  Adopt("c");
  Step();
  EXPECT_EQ(change_.floor(), 3u);
}

TEST_F(PlacementChangeTest, OneThatComesBackIsFencedUntilItHasAdopted) {
  Settle();
  members_["b"].alive = false;
  Step();
  EXPECT_TRUE(change_.Fenced("b"));
  Adopt("a");
  Adopt("c");
  Step();
  members_["b"].alive = true;  // with epoch 1
  Step();
  EXPECT_TRUE(change_.Fenced("b"));
  EXPECT_FALSE(change_.Serves(members_["b"]));
  EXPECT_EQ(change_.epoch(), 2u) << "it brings no experts, so nothing changes";
  Adopt("b");
  EXPECT_TRUE(Step());
  EXPECT_FALSE(change_.Fenced("b"));
  EXPECT_TRUE(change_.Serves(members_["b"]));
}

TEST_F(PlacementChangeTest, OneThatComesBackGetsWhatWasWantedOfIt) {
  Settle();
  LoseAndFind();
  EXPECT_FALSE(Step(options_.restore - milliseconds(10)));
  EXPECT_TRUE(Step(milliseconds(10)));
  EXPECT_EQ(change_.phase(), Phase::kPrepared);
  EXPECT_EQ(change_.next()->owners, (Owners{{0}, {1}, {2}}));
  for (const char* id : {"a", "b", "c"}) Acknowledge(id);
  Step();
  EXPECT_EQ(change_.epoch(), 3u);
  EXPECT_TRUE(change_.outcome(Purpose::kRestore)->committed);
  EXPECT_EQ(change_.outcome()->epoch, 1u) << "of what was asked for";
  for (const char* id : {"a", "b", "c"}) Adopt(id);
  Step();
  EXPECT_FALSE(Step(options_.restore)) << "it is whole";
  EXPECT_EQ(change_.stats().restored, 1u);
}

TEST_F(PlacementChangeTest, OneThatIsLeavingGetsNothingBack) {
  Settle();
  LoseAndFind();
  members_["b"].leaving = true;
  EXPECT_FALSE(Step(options_.restore));
  members_["b"].leaving = false;
  EXPECT_TRUE(Step());
}

TEST_F(PlacementChangeTest, AnOwnerThatIsLeavingGetsNothingMore) {
  Settle();
  LoseAndFind();
  members_["a"].alive = false;
  Step();
  for (const char* id : {"b", "c"}) Adopt(id);
  Step();
  ASSERT_EQ(change_.current()->workers, (std::vector<std::string>{"b", "c"}));
  members_["b"].leaving = true;
  EXPECT_FALSE(Step(options_.restore));
}

TEST_F(PlacementChangeTest, NothingIsRestoredBeforeItIsClearWhoIsLeft) {
  Settle();
  LoseAndFind();
  for (const char* id : {"a", "c"}) members_[id].alive = false;
  PlacementChange restarted(options_, change_.Save(), now_);
  restarted.Step(members(), now_);
  restarted.Step(members(), now_ + options_.restore);
  EXPECT_FALSE(restarted.next().has_value()) << "a and c may be on their way back";
}

TEST_F(PlacementChangeTest, WhatIsLostStaysWithWhoTookItUpWhileItsOwnerIsAway) {
  Settle();
  members_["b"].alive = false;
  Step();
  for (const char* id : {"a", "c"}) Adopt(id);
  Step();
  members_["d"] = {.id = "d"};
  Adopt("d");
  EXPECT_FALSE(Step(options_.restore)) << "a newcomer is no reason to move anything";
}

TEST_F(PlacementChangeTest, APlanEndsARestorationAndIsWantedFromThenOn) {
  Settle();
  LoseAndFind();
  Step(options_.restore);
  ASSERT_EQ(change_.phase(), Phase::kPrepared);
  const PlacementChange::Proposal proposal =
      change_.Propose({.workers = {"a", "c"}, .owners = {{1}, {0}, {0}}}, members(), now_);
  EXPECT_EQ(proposal.verdict, Verdict::kPrepared);
  EXPECT_EQ(proposal.plan, change_.outcome(Purpose::kRestore)->plan + 1);
  EXPECT_FALSE(change_.outcome(Purpose::kRestore)->committed);
  EXPECT_EQ(Propose().verdict, Verdict::kBusy) << "a plan ends no other plan";
  for (const char* id : {"a", "c"}) Acknowledge(id);
  Step();
  for (const char* id : {"a", "b", "c"}) Adopt(id);
  Step();
  EXPECT_FALSE(Step(options_.restore)) << "nothing more is wanted of b";
}

TEST_F(PlacementChangeTest, ARestorationThatFailedIsTriedAgainLater) {
  Settle();
  LoseAndFind();
  Step(options_.restore);
  members_["b"].refused = change_.next()->plan;
  members_["b"].why = "no room";
  Step();
  EXPECT_EQ(change_.phase(), Phase::kStable);
  EXPECT_THAT(change_.outcome(Purpose::kRestore)->why, HasSubstr("no room"));
  EXPECT_FALSE(Step(options_.restore_again - milliseconds(1)));
  EXPECT_TRUE(Step());
  EXPECT_EQ(change_.phase(), Phase::kPrepared);
}

TEST_F(PlacementChangeTest, OneThatIsFencedHoldsUpNobody) {
  Settle();
  members_["b"].alive = false;
  Step();
  members_["b"].alive = true;
  Adopt("a");
  Adopt("c");
  EXPECT_TRUE(Step());
  EXPECT_EQ(change_.floor(), 2u);
}

TEST_F(PlacementChangeTest, EveryDeathOfOneThatMaySendIsANewEpoch) {
  Settle();
  members_["b"].alive = false;
  Step();
  members_["b"].alive = true;
  Step();
  Adopt("b");  // it sends by epoch 2, though its beat is not heard
  members_["b"].alive = false;
  EXPECT_TRUE(Step());
  EXPECT_EQ(change_.epoch(), 3u);
  EXPECT_TRUE(change_.Fenced("b"));
}

TEST_F(PlacementChangeTest, ANewcomerChangesNothingAndTakesUpWhatIsLostLater) {
  Settle();
  members_["d"] = {.id = "d"};
  EXPECT_FALSE(Step());
  EXPECT_FALSE(change_.Serves(members_["d"]));
  Adopt("d");
  EXPECT_TRUE(change_.Serves(members_["d"]));
  members_["a"].alive = false;
  Step();
  EXPECT_EQ(change_.current()->workers, (std::vector<std::string>{"b", "c", "d"}));
  EXPECT_EQ(change_.current()->owners[0], std::vector<int32_t>{2});
}

TEST_F(PlacementChangeTest, WithoutAnybodyAliveNothingIsDecided) {
  Settle();
  for (auto& [id, member] : members_) member.alive = false;
  Step();
  EXPECT_EQ(change_.epoch(), 1u);
  // The scheduler was cut off: the first that is heard again must not get everything.
  members_["a"].alive = members_["a"].warm = true;
  EXPECT_FALSE(Step());
  EXPECT_EQ(change_.epoch(), 1u);
  members_["b"].alive = members_["c"].alive = true;
  Step(options_.regroup);
  EXPECT_EQ(change_.epoch(), 2u) << "they died, so they need another epoch";
  EXPECT_EQ(change_.current()->owners, (Owners{{0}, {1}, {2}})) << "and have what they had";
}

TEST_F(PlacementChangeTest, WhileAllAreStartedItWaitsLongerForTheLate) {
  Settle();
  for (auto& [id, member] : members_) member = {.id = id, .alive = false};
  PlacementChange restarted(options_, change_.Save(), now_);
  members_["a"].alive = true;
  EXPECT_FALSE(restarted.Step(members(), now_) && restarted.epoch() > 1);
  restarted.Step(members(), now_ + options_.settle - milliseconds(1));
  EXPECT_EQ(restarted.epoch(), 1u);
  restarted.Step(members(), now_ + options_.settle);
  EXPECT_EQ(restarted.epoch(), 2u);
  EXPECT_EQ(restarted.current()->owners, (Owners{{0}, {0}, {0}}));
}

TEST_F(PlacementChangeTest, AdaptersLeaveWhatIsWantedOfTheBase) {
  Settle();
  LoseAndFind();
  AddAdapter("1a");
  for (const char* id : {"a", "b", "c"}) Acknowledge(id);
  Step();
  for (const char* id : {"a", "b", "c"}) Adopt(id);
  Step();
  EXPECT_TRUE(change_.outcome(Purpose::kAdapters)->committed);
  EXPECT_EQ(change_.outcome()->epoch, 1u) << "an operator's";
  ASSERT_EQ(change_.current()->workers, (std::vector<std::string>{"a", "c"}));
  Step(options_.restore);
  ASSERT_TRUE(change_.next().has_value());
  EXPECT_EQ(change_.next()->owners, (Owners{{0}, {1}, {2}}));
  EXPECT_NE(FindAdapter(*change_.next(), "1a"), nullptr);
}

TEST_F(PlacementChangeTest, AdaptersWaitForARestorationWhichDoesNotWaitForThem) {
  Settle();
  LoseAndFind();
  for (int i = 0; i < 5; ++i) {
    ASSERT_EQ(AddAdapter("a" + std::to_string(i)).verdict, Verdict::kPrepared);
    for (const char* id : {"a", "b", "c"}) Acknowledge(id);
    Step();
    for (const char* id : {"a", "b", "c"}) Adopt(id);
    Step(options_.restore / 5);
  }
  ASSERT_TRUE(change_.next().has_value()) << "they come all the time";
  EXPECT_EQ(AddAdapter("1a").verdict, Verdict::kBusy);
  EXPECT_EQ(change_.next()->owners, (Owners{{0}, {1}, {2}}));
}

TEST_F(PlacementChangeTest, VersionsThatStayAreWantedWhereTheyWere) {
  Settle();
  const auto settle = [&] {
    for (auto& [id, member] : members_) {
      if (member.alive && change_.next()) Acknowledge(id);
    }
    Step();
    for (auto& [id, member] : members_) Adopt(id);
    Step();
  };
  AddAdapter("1a");
  settle();
  const std::vector<std::vector<int32_t>> placed = FindAdapter(*change_.current(), "1a")->owners;
  const std::string owner = change_.current()->workers[static_cast<size_t>(placed[0][0])];
  members_[owner].alive = false;
  Step();
  settle();
  AddAdapter("2b");
  settle();
  EXPECT_EQ(FindAdapter(*change_.Save().wanted, "1a")->owners, placed);
  EXPECT_NE(FindAdapter(*change_.Save().wanted, "2b"), nullptr);
  EXPECT_EQ(ProblemOf(*change_.Save().wanted), "");
}

TEST_F(PlacementChangeTest, AWorkerThatIsNotThereIsToldFromAPlacementThatIsNone) {
  Settle();
  members_["c"].alive = false;
  EXPECT_EQ(Propose().verdict, Verdict::kLost);
  EXPECT_EQ(Propose({{9}, {1}, {2}}).verdict, Verdict::kInvalid);
}

TEST_F(PlacementChangeTest, TellsWhoRefusedAndWithWhichCode) {
  Settle();
  Propose({{2}, {1}, {0}});
  members_["b"].refused = change_.next()->plan;
  members_["b"].code = 8;
  Step();
  EXPECT_TRUE(change_.outcome()->refused);
  EXPECT_EQ(change_.outcome()->code, 8);
}

TEST_F(PlacementChangeTest, ASchedulerThatRestartsGoesOnWhereItWas) {
  Settle();
  Propose({{2}, {1}, {0}});
  PlacementChange prepared(options_, change_.Save(), now_);
  EXPECT_EQ(prepared.phase(), Phase::kPrepared);
  EXPECT_FALSE(prepared.Step(members(), now_)) << "acknowledgements are collected again";
  for (auto& [id, member] : members_) member.acknowledged = 2;
  EXPECT_TRUE(prepared.Step(members(), now_));
  EXPECT_EQ(prepared.epoch(), 2u);

  PlacementChange committed(options_, prepared.Save(), now_);
  EXPECT_EQ(committed.phase(), Phase::kCommitted);
  for (auto& [id, member] : members_) member.adopted = 2;
  EXPECT_TRUE(committed.Step(members(), now_));
  EXPECT_EQ(committed.floor(), 2u);
  EXPECT_EQ(committed.Propose(*committed.current(), members(), now_).plan, 3u);
}

TEST_F(PlacementChangeTest, ASchedulerThatRestartsRemembersWhatIsWanted) {
  Settle();
  LoseAndFind();
  PlacementChange restarted(options_, change_.Save(), now_);
  restarted.Step(members(), now_);
  restarted.Step(members(), now_ += options_.restore);
  ASSERT_TRUE(restarted.next().has_value());
  EXPECT_EQ(restarted.next()->owners, (Owners{{0}, {1}, {2}}));
  PlacementChange again(options_, restarted.Save(), now_);
  for (auto& [id, member] : members_) member.acknowledged = again.next()->plan;
  again.Step(members(), now_);
  EXPECT_EQ(again.epoch(), 3u);
  EXPECT_TRUE(again.outcome(Purpose::kRestore)->committed) << "it knows that nobody asked for it";
}

TEST_F(PlacementChangeTest, ASchedulerThatRestartsFencesTheDeadItHasSaved) {
  Settle();
  members_["b"].alive = false;
  Step();
  PlacementChange restarted(options_, change_.Save(), now_);
  restarted.Step(members(), now_);
  EXPECT_EQ(restarted.epoch(), 2u) << "its death has had its epoch";
  EXPECT_TRUE(restarted.Fenced("b"));
  members_["b"].alive = true;
  restarted.Step(members(), now_);
  EXPECT_TRUE(restarted.Fenced("b"));
  members_["b"].adopted = 2;
  restarted.Step(members(), now_);
  EXPECT_FALSE(restarted.Fenced("b"));
}

}  // namespace
}  // namespace conclave::scheduler

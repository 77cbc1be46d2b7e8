#include "scheduler/adapter_catalogue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>

namespace conclave::scheduler {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::HasSubstr;
using testing::IsEmpty;
using Opened = AdapterAnswer;
using Report = AdapterCatalogue::Report;

constexpr Micros kStart = std::chrono::hours(1);

// A scheduler's catalogue and placement among workers "a" and "b" and a router "r", each doing at
// once what it is told, unless a test says otherwise. Directories hold what the test puts there.
class AdapterCatalogueTest : public testing::Test {
 protected:
  AdapterCatalogueTest() {
    for (const char* id : {"a", "b"}) members_[id] = {.id = id};
    routers_["r"];
    Put("/law", "1a");
    Put("/code", "2b");
    options_.limits.names = 4;
    Restart();
    change_->Propose({.workers = {"a", "b"}, .owners = {{0}, {0}, {1}, {1}}}, Members(), now_);
    Rounds(4);
    now_ += options_.listen;
  }

  void Restart() {
    change_ = std::make_unique<PlacementChange>(
        PlacementChange::Options(), change_ ? change_->Save() : PlacementChange::Stored(), now_);
    catalogue_ = std::make_unique<AdapterCatalogue>(
        options_, catalogue_ ? catalogue_->Save() : AdapterCatalogue::Stored(), now_);
  }
  void Put(const std::string& source, const std::string& digest, uint64_t bytes = 100) {
    directories_[source] = {.digest = digest, .replaced = {1, 2}, .bytes = bytes};
  }
  std::vector<PlacementChange::Member> Members() const {
    std::vector<PlacementChange::Member> members;
    for (const auto& [id, member] : members_) members.push_back(member);
    return members;
  }

  // Everybody reports, the scheduler draws its conclusions, everybody follows.
  void Round(Micros after = milliseconds(100)) {
    now_ += after;
    std::vector<AdapterCatalogue::Worker> workers;
    for (const auto& [id, member] : members_) {
      reports_[id].at = now_;
      workers.push_back(
          {.id = id, .alive = member.alive, .leaving = member.leaving, .report = &reports_[id]});
    }
    std::vector<AdapterCatalogue::Router> routers;
    for (auto& [address, report] : routers_) {
      if (!silent_.contains(address)) report.at = now_;
      routers.push_back({.address = address, .report = &report});
    }
    bool changed = change_->Step(Members(), now_);
    const AdapterCatalogue::Known known{
        .view = view_, .workers = workers, .routers = routers, .placement = *change_};
    changed |= catalogue_->Step(known, now_);
    if (const auto wish = catalogue_->Next(known, now_)) {
      Propose(*wish);
      changed = true;
    }
    view_ += changed ? 1 : 0;
    Follow();
  }
  void Rounds(int count) {
    for (int i = 0; i < count; ++i) Round();
  }

  void Propose(const AdapterCatalogue::Wish& wish) {
    const Placement& current = *change_->current();
    Placement next =
        wish.add ? WithAdapter(current, *wish.add) : WithoutAdapter(current, wish.remove);
    catalogue_->Proposed(
        wish,
        change_->Propose(std::move(next), Members(), now_, PlacementChange::Purpose::kAdapters),
        now_);
  }

  void Follow() {
    const AdapterOperation* const checking = catalogue_->Checking();
    for (auto& [id, member] : members_) {
      if (deaf_.contains(id)) continue;
      Report& report = reports_[id];
      report.view = view_;
      report.check = checking ? checking->check : 0;
      if (checking) report.found = Look(id, checking->source);
      const auto& next = change_->next();
      member.refused = next && refuses_.contains(id) ? next->plan : 0;
      member.acknowledged = next && member.refused == 0 ? next->plan : 0;
      member.adopted = change_->epoch();
    }
    for (auto& [address, report] : routers_) {
      if (!deaf_.contains(address)) report.view = view_;
    }
  }

  FoundAdapter Look(const std::string& worker, const std::string& source) const {
    const auto own = directories_.find(worker + ":" + source);
    const auto found = own == directories_.end() ? directories_.find(source) : own;
    if (found != directories_.end()) return found->second;
    return {.error = AdapterError::kNotFound, .message = source + ": there is none"};
  }

  const AdapterOperation& Of(const Opened& opened) const { return *catalogue_->Find(opened.id); }
  std::string Active(const std::string& name) const {
    const auto found = catalogue_->Save().active.find(name);
    return found == catalogue_->Save().active.end() ? "" : found->second;
  }
  bool Placed(const std::string& digest) const {
    return FindAdapter(*change_->current(), digest) != nullptr;
  }
  void AddLaw() {
    catalogue_->Add("", "law", "/law");
    Rounds(8);
    ASSERT_EQ(Active("law"), "1a");
  }

  AdapterCatalogue::Options options_;
  Micros now_ = kStart;
  uint64_t view_ = 1;
  std::map<std::string, PlacementChange::Member> members_;
  std::map<std::string, Report> reports_, routers_;
  std::set<std::string> deaf_;     // who follow nothing
  std::set<std::string> silent_;   // routers that are not heard
  std::set<std::string> refuses_;  // workers that cannot prepare
  std::map<std::string, FoundAdapter> directories_;
  std::unique_ptr<PlacementChange> change_;
  std::unique_ptr<AdapterCatalogue> catalogue_;
};

TEST_F(AdapterCatalogueTest, IsServedOnceAllHaveVerifiedPreparedAndAdoptedIt) {
  const Opened opened = catalogue_->Add("", "law", "/law");
  EXPECT_EQ(opened.error, AdapterError::kNone);
  EXPECT_EQ(Of(opened).stage, AdapterStage::kChecking);
  Round();
  EXPECT_EQ(Of(opened).stage, AdapterStage::kChecking) << "it was told only now";
  deaf_ = {"b"};
  Rounds(5);
  EXPECT_EQ(Of(opened).stage, AdapterStage::kPlacing);
  EXPECT_FALSE(Placed("1a")) << "b has not prepared it";
  deaf_.clear();
  Round();
  deaf_ = {"b"};
  Rounds(5);
  EXPECT_TRUE(Placed("1a"));
  EXPECT_EQ(Active("law"), "") << "b has not adopted it";
  deaf_.clear();
  Rounds(3);
  EXPECT_EQ(Active("law"), "1a");
  EXPECT_EQ(Of(opened).stage, AdapterStage::kDone);
  EXPECT_EQ(Of(opened).bytes, 100u);
  EXPECT_EQ(catalogue_->stats().added, 1u);
}

TEST_F(AdapterCatalogueTest, TheFirstThatFindsAnErrorEndsItAndIsNamed) {
  Put("/law", "1a");
  directories_["b:/law"] = {.error = AdapterError::kInvalid, .message = "tensor x has NaN"};
  const Opened opened = catalogue_->Add("", "law", "/law");
  Rounds(8);
  EXPECT_EQ(Of(opened).stage, AdapterStage::kFailed);
  EXPECT_EQ(Of(opened).error, AdapterError::kInvalid);
  EXPECT_EQ(Of(opened).message, "worker b: tensor x has NaN");
  EXPECT_THAT(catalogue_->Rows(), IsEmpty());
  EXPECT_THAT(change_->current()->adapters, IsEmpty());
  EXPECT_EQ(change_->epoch(), 1u) << "nothing was proposed";
}

TEST_F(AdapterCatalogueTest, ADirectoryMustBeTheSameForAll) {
  directories_["b:/law"] = {.digest = "1c", .replaced = {1, 2}, .bytes = 100};
  const Opened opened = catalogue_->Add("", "law", "/law");
  Rounds(8);
  EXPECT_EQ(Of(opened).error, AdapterError::kNotNow);
  EXPECT_EQ(Of(opened).message,
            "/law is not the same everywhere: worker a finds version 1a, worker b version 1c");
}

TEST_F(AdapterCatalogueTest, OneThatLeavesOrIsDeadIsNotAsked) {
  deaf_ = {"b"};
  members_["b"].leaving = true;
  const Opened opened = catalogue_->Add("", "law", "/law");
  Rounds(3);
  EXPECT_EQ(Of(opened).stage, AdapterStage::kPlacing);
}

TEST_F(AdapterCatalogueTest, AWorkerThatCannotPrepareItEndsItWithItsReason) {
  refuses_ = {"b"};
  members_["b"].code = static_cast<int32_t>(AdapterError::kFull);
  members_["b"].why = "no memory";
  const Opened opened = catalogue_->Add("", "law", "/law");
  Rounds(8);
  EXPECT_EQ(Of(opened).stage, AdapterStage::kFailed);
  EXPECT_EQ(Of(opened).error, AdapterError::kFull);
  EXPECT_EQ(Of(opened).message, "worker b cannot: no memory");
  EXPECT_FALSE(Placed("1a"));
}

TEST_F(AdapterCatalogueTest, ARefusalThatMayPassIsTriedAgain) {
  refuses_ = {"b"};
  members_["b"].code = static_cast<int32_t>(AdapterError::kUnavailable);
  const Opened opened = catalogue_->Add("", "law", "/law");
  Rounds(8);
  EXPECT_EQ(Of(opened).stage, AdapterStage::kPlacing);
  refuses_.clear();
  Round(options_.again);
  Rounds(8);
  EXPECT_EQ(Active("law"), "1a");
}

TEST_F(AdapterCatalogueTest, ADeathInBetweenIsNoReasonToGiveUp) {
  const Opened opened = catalogue_->Add("", "law", "/law");
  Round();
  deaf_ = {"b"};
  Round();
  ASSERT_TRUE(change_->next().has_value());
  members_["b"].alive = false;
  Rounds(3);
  EXPECT_EQ(change_->current()->workers, (std::vector<std::string>{"a"}));
  Round(options_.again);
  Rounds(8);
  EXPECT_EQ(Active("law"), "1a");
  EXPECT_EQ(Of(opened).stage, AdapterStage::kDone);
}

TEST_F(AdapterCatalogueTest, WhatNobodyAnswersIsTooLateAndChangesNothing) {
  deaf_ = {"b"};
  const Opened opened = catalogue_->Add("", "law", "/law");
  Rounds(2);
  Round(options_.timeout - milliseconds(200));
  EXPECT_EQ(Of(opened).stage, AdapterStage::kChecking);
  Rounds(2);
  EXPECT_EQ(Of(opened).error, AdapterError::kTooLate);
  EXPECT_EQ(Of(opened).message, "nothing has changed after 120 s: worker b has not verified it");
}

TEST_F(AdapterCatalogueTest, OneThatWaitsForOthersIsNotLate) {
  deaf_ = {"b"};
  const Opened first = catalogue_->Add("", "law", "/law");
  const Opened second = catalogue_->Add("", "code", "/code");
  Round();
  Round(options_.timeout);
  EXPECT_EQ(Of(first).stage, AdapterStage::kFailed);
  EXPECT_EQ(Of(second).stage, AdapterStage::kChecking) << "its time begins now";
  deaf_.clear();
  Rounds(8);
  EXPECT_EQ(Active("code"), "2b");
}

TEST_F(AdapterCatalogueTest, AReplacedVersionGoesWhenNobodyHoldsItAnyMore) {
  AddLaw();
  routers_["r"].in_use = {"1a"};
  Put("/law", "3c", 70);
  const Opened opened = catalogue_->Add("", "law", "/law");
  Rounds(8);
  EXPECT_EQ(Of(opened).stage, AdapterStage::kDone);
  EXPECT_EQ(Active("law"), "3c");
  EXPECT_EQ(Of(opened).replaced, "1a");
  EXPECT_TRUE(Placed("1a")) << "a router holds it";
  EXPECT_THAT(catalogue_->Rows()[1].digest, "1a");
  EXPECT_FALSE(catalogue_->Rows()[1].active);
  routers_["r"].in_use.clear();
  reports_["b"].in_use = {"1a"};
  Rounds(8);
  EXPECT_TRUE(Placed("1a")) << "a worker holds it";
  EXPECT_EQ(Of(opened).bytes_freed, 0u);
  reports_["b"].in_use.clear();
  Rounds(8);
  EXPECT_FALSE(Placed("1a"));
  EXPECT_EQ(Of(opened).bytes_freed, 100u);
  EXPECT_EQ(catalogue_->stats().bytes_freed, 100u);
  EXPECT_EQ(catalogue_->Rows().size(), 1u);
}

TEST_F(AdapterCatalogueTest, ARouterThatHasNotHeardThatItDrainsStillCounts) {
  AddLaw();
  deaf_ = {"r"};
  catalogue_->Remove("", "law");
  Rounds(10);
  EXPECT_TRUE(Placed("1a")) << "r may give it new requests";
  deaf_.clear();
  Rounds(8);
  EXPECT_FALSE(Placed("1a"));
}

TEST_F(AdapterCatalogueTest, ARouterThatIsSilentForLongDoesNotBlock) {
  AddLaw();
  routers_["r"].in_use = {"1a"};
  catalogue_->Remove("", "law");
  Rounds(8);
  silent_ = {"r"};
  Round(options_.silent - milliseconds(100));
  Rounds(8);
  EXPECT_FALSE(Placed("1a"));
}

TEST_F(AdapterCatalogueTest, AWorkerMustSaySoAfterTheRoutersDid) {
  AddLaw();
  catalogue_->Remove("", "law");
  Round();  // told
  Round();  // all are quiet as of now, and so is what workers said up to now
  EXPECT_FALSE(change_->next().has_value());
  Round();
  EXPECT_TRUE(change_->next().has_value());
}

TEST_F(AdapterCatalogueTest, ARemovalEndsWhenItsMemoryIsGivenBack) {
  AddLaw();
  const Opened opened = catalogue_->Remove("", "law");
  EXPECT_EQ(Active("law"), "") << "at once";
  EXPECT_EQ(Of(opened).stage, AdapterStage::kDraining);
  Rounds(4);
  deaf_ = {"a"};
  Rounds(4);
  EXPECT_EQ(Of(opened).stage, AdapterStage::kDraining) << "a has not followed";
  deaf_.clear();
  Rounds(6);
  EXPECT_EQ(Of(opened).stage, AdapterStage::kDone);
  EXPECT_EQ(Of(opened).bytes_freed, 100u);
  EXPECT_THAT(catalogue_->Rows(), IsEmpty());
  EXPECT_EQ(catalogue_->Remove("", "law").error, AdapterError::kNotFound);
}

TEST_F(AdapterCatalogueTest, TwoNamesShareAVersion) {
  AddLaw();
  const Opened second = catalogue_->Add("", "jura", "/law");
  Rounds(4);
  EXPECT_EQ(Active("jura"), "1a");
  EXPECT_EQ(change_->epoch(), 2u) << "placed once";
  EXPECT_EQ(Of(second).stage, AdapterStage::kDone);
  const Opened removed = catalogue_->Remove("", "law");
  EXPECT_EQ(Of(removed).stage, AdapterStage::kDone) << "at once, for the other name has it";
  EXPECT_EQ(Of(removed).bytes_freed, 0u);
  Rounds(10);
  EXPECT_TRUE(Placed("1a"));
  catalogue_->Remove("", "jura");
  Rounds(10);
  EXPECT_FALSE(Placed("1a"));
  EXPECT_EQ(catalogue_->stats().bytes_freed, 100u);
}

TEST_F(AdapterCatalogueTest, WhatDrainsIsTakenBackByWhoAddsIt) {
  AddLaw();
  routers_["r"].in_use = {"1a"};
  const Opened removed = catalogue_->Remove("", "law");
  Rounds(4);
  const Opened again = catalogue_->Add("", "law", "/law");
  Rounds(4);
  EXPECT_EQ(Active("law"), "1a");
  EXPECT_EQ(change_->epoch(), 2u) << "nothing was placed anew";
  EXPECT_EQ(Of(again).stage, AdapterStage::kDone);
  EXPECT_EQ(Of(removed).stage, AdapterStage::kDone);
  routers_["r"].in_use.clear();
  Rounds(10);
  EXPECT_TRUE(Placed("1a"));
}

TEST_F(AdapterCatalogueTest, WhatIsBeingTakenAwayIsPlacedAnew) {
  AddLaw();
  catalogue_->Remove("", "law");
  Rounds(3);
  ASSERT_TRUE(change_->next().has_value());
  ASSERT_EQ(FindAdapter(*change_->next(), "1a"), nullptr);
  deaf_ = {"b"};  // keeps the plan open
  Round();
  const Opened again = catalogue_->Add("", "law", "/law");
  reports_["b"].check = Of(again).check;
  reports_["b"].found = directories_["/law"];
  Rounds(3);
  EXPECT_EQ(Of(again).stage, AdapterStage::kPlacing) << "it is about to go";
  deaf_.clear();
  Rounds(10);
  EXPECT_EQ(Active("law"), "1a");
  EXPECT_TRUE(Placed("1a"));
}

TEST_F(AdapterCatalogueTest, TheSameContentChangesNothing) {
  AddLaw();
  Put("/other", "1a");
  const Opened opened = catalogue_->Add("", "law", "/other");
  Rounds(4);
  EXPECT_EQ(Of(opened).stage, AdapterStage::kDone);
  EXPECT_EQ(Of(opened).replaced, "");
  EXPECT_EQ(change_->epoch(), 2u);
  EXPECT_EQ(catalogue_->stats().unchanged, 1u);
}

TEST_F(AdapterCatalogueTest, WhatWasBegunIsFoundByItsIdAndByWhatItSays) {
  const Opened first = catalogue_->Add("mine", "law", "/law");
  EXPECT_EQ(first.id, "mine");
  EXPECT_EQ(catalogue_->Add("mine", "law", "/law").id, "mine");
  EXPECT_EQ(catalogue_->Add("", "law", "/law").id, "mine");
  EXPECT_EQ(catalogue_->Add("mine", "law", "/code").error, AdapterError::kExists);
  EXPECT_EQ(catalogue_->Remove("mine", "law").error, AdapterError::kExists);
  const Opened other = catalogue_->Add("", "law", "/code");
  EXPECT_EQ(other.error, AdapterError::kBusy);
  EXPECT_THAT(other.problem, HasSubstr("operation mine is changing adapter law"));
  EXPECT_EQ(catalogue_->Remove("", "law").error, AdapterError::kBusy);
  Rounds(8);
  EXPECT_EQ(catalogue_->Add("mine", "law", "/law").id, "mine") << "though it is over";
  const Opened removal = catalogue_->Remove("", "law");
  EXPECT_EQ(catalogue_->Remove("", "law").id, removal.id);
}

TEST_F(AdapterCatalogueTest, RefusesNamesAndSourcesThatAreNone) {
  for (const char* name : {"", "a:b", "a@b", ".a", "-a", "a b", "\xff", "auto", "base", "other"}) {
    const Opened opened = catalogue_->Add("", name, "/law");
    EXPECT_EQ(opened.error, AdapterError::kInvalid) << name;
    EXPECT_THAT(opened.problem, HasSubstr("name: "));
  }
  const std::string longest(options_.limits.name, 'a');
  EXPECT_EQ(catalogue_->Add("", longest, "/law").error, AdapterError::kNone);
  EXPECT_EQ(catalogue_->Add("", longest + "a", "/law").error, AdapterError::kInvalid);
  for (const std::string source : {"", "law", "./law"})
    EXPECT_EQ(catalogue_->Add("", "law", source).error, AdapterError::kInvalid) << source;
  const std::string path(options_.limits.source, '/');
  EXPECT_EQ(catalogue_->Add("", "law", path + "/").error, AdapterError::kInvalid);
  EXPECT_EQ(catalogue_->Add("", "law", path).error, AdapterError::kNone);
  EXPECT_EQ(catalogue_->Add("#999", "x", "/law").error, AdapterError::kInvalid);
  const std::string id(options_.limits.operation_id, 'i');
  EXPECT_EQ(catalogue_->Add(id + "i", "x", "/law").error, AdapterError::kInvalid);
  EXPECT_EQ(catalogue_->Add(id, "x", "/law").error, AdapterError::kNone);
}

TEST_F(AdapterCatalogueTest, HasNoMoreNamesThanItsLimit) {
  for (const char* name : {"n1", "n2", "n3", "n4"})
    EXPECT_EQ(catalogue_->Add("", name, "/law").error, AdapterError::kNone);
  EXPECT_EQ(catalogue_->Add("", "n5", "/law").error, AdapterError::kFull);
  Rounds(12);
  EXPECT_EQ(catalogue_->Add("", "n5", "/law").error, AdapterError::kFull);
  EXPECT_EQ(catalogue_->Add("", "n4", "/code").error, AdapterError::kNone) << "it replaces";
  catalogue_->Remove("", "n1");
  EXPECT_EQ(catalogue_->Add("", "n5", "/law").error, AdapterError::kNone);
}

TEST_F(AdapterCatalogueTest, HasNoMoreVersionsThanItsLimitThoseThatDrainIncluded) {
  options_.limits.versions = 2;
  Restart();
  now_ += options_.listen;
  AddLaw();
  routers_["r"].in_use = {"1a"};
  Put("/law", "3c");
  catalogue_->Add("", "law", "/law");
  Rounds(8);
  ASSERT_EQ(Active("law"), "3c");
  const Opened opened = catalogue_->Add("", "code", "/code");
  EXPECT_EQ(opened.error, AdapterError::kFull);
  EXPECT_THAT(opened.problem, HasSubstr("some of which may be draining"));
  routers_["r"].in_use.clear();
  Rounds(8);
  EXPECT_EQ(catalogue_->Add("", "code", "/code").error, AdapterError::kNone);
}

TEST_F(AdapterCatalogueTest, HasNoMoreOpenOperationsThanItsLimitAndRemembersSoManyEnded) {
  options_.limits.open = 2;
  options_.limits.ended = 1;
  Restart();
  const Opened first = catalogue_->Add("", "law", "/none");
  const Opened second = catalogue_->Add("", "code", "/none");
  EXPECT_EQ(catalogue_->Add("", "more", "/law").error, AdapterError::kFull);
  Rounds(8);
  EXPECT_EQ(catalogue_->Find(first.id), nullptr);
  EXPECT_EQ(Of(second).stage, AdapterStage::kFailed);
}

TEST_F(AdapterCatalogueTest, WhatACrashInterruptsGoesOn) {
  for (int rounds = 0; rounds < 8; ++rounds) {
    const std::string digest = std::string("c") + std::to_string(rounds);
    Put("/law", digest);
    const Opened opened = catalogue_->Add("", "law", "/law");
    Rounds(rounds);
    Restart();
    for (int i = 0; i < 40 && Active("law") != digest; ++i) Round(milliseconds(500));
    EXPECT_EQ(Active("law"), digest) << "restarted after " << rounds << " rounds";
    EXPECT_EQ(Of(opened).stage, AdapterStage::kDone);
  }
  for (int i = 0; i < 100; ++i) Round(milliseconds(500));
  EXPECT_EQ(change_->current()->adapters.size(), 1u) << "and what drained is gone";
}

TEST_F(AdapterCatalogueTest, ListensToRoutersAfterARestartBeforeAVersionGoes) {
  AddLaw();
  routers_["r"].in_use = {"1a"};
  catalogue_->Remove("", "law");
  Rounds(4);
  Restart();
  const auto routers = std::exchange(routers_, {});  // not heard yet
  Round(options_.listen - milliseconds(500));
  Rounds(3);
  routers_ = routers;
  Rounds(20);
  EXPECT_TRUE(Placed("1a"));
}

TEST_F(AdapterCatalogueTest, OneThatComesBackGetsItsAdaptersExpertsBack) {
  AddLaw();
  const auto owned = [&] { return OwnedBy(*change_->current(), "b").size(); };
  const size_t before = owned();
  ASSERT_GT(before, 2u) << "of the adapter too";
  members_["b"].alive = false;
  Rounds(3);
  catalogue_->Add("", "code", "/code");
  Rounds(8);
  ASSERT_EQ(Active("code"), "2b");
  EXPECT_EQ(owned(), 0u);
  members_["b"].alive = true;
  for (int i = 0; i < 10; ++i) Round(seconds(1));
  EXPECT_EQ(owned(), before) << "though adapters came meanwhile";
  EXPECT_TRUE(Placed("1a"));
  EXPECT_TRUE(Placed("2b"));
}

TEST_F(AdapterCatalogueTest, ForgetsAllWithTheModelTheyWereFor) {
  AddLaw();
  const Opened open = catalogue_->Add("", "code", "/code");
  change_->Propose({.workers = {"a", "b"}, .owners = {{0}, {1}}}, Members(), now_);
  Rounds(6);
  EXPECT_THAT(catalogue_->Rows(), IsEmpty());
  EXPECT_EQ(Of(open).stage, AdapterStage::kFailed);
}

}  // namespace
}  // namespace conclave::scheduler

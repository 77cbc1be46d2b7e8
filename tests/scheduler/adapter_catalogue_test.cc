#include "scheduler/adapter_catalogue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/scheduler/testing/adapter_catalogue_world.h"

namespace conclave::scheduler {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::HasSubstr;
using testing::IsEmpty;
using Opened = AdapterAnswer;

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

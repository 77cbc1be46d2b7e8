// What becomes of a version whose experts a worker had to take over and could not read.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/scheduler/testing/adapter_catalogue_world.h"

namespace conclave::scheduler {
namespace {

using std::chrono::seconds;
using testing::HasSubstr;

class AdapterLacksTest : public AdapterCatalogueTest {
 protected:
  AdapterLacksTest() {
    AddLaw();
    catalogue_->Add("", "code", "/code");
    Rounds(8);
    EXPECT_TRUE(Placed("1a") && Placed("2b"));
  }
  bool OnDisk(const std::string& digest) const {
    return catalogue_->Save().versions.at(digest).on_disk;
  }
  void Lack(const std::string& worker) { reports_[worker].lacks["1a"] = "/law: damaged"; }
};

TEST_F(AdapterLacksTest, ItLeavesMemoryAloneAndSaysWhoLacksItAndWhy) {
  Lack("b");
  Round();
  EXPECT_TRUE(OnDisk("1a"));
  EXPECT_TRUE(catalogue_->IsLacked("1a"));
  EXPECT_EQ(catalogue_->WhyNot("1a"), "worker b lacks its experts: /law: damaged");
  EXPECT_EQ(Active("law"), "1a") << "that it is on disk changes no name";
  EXPECT_EQ(catalogue_->stats().lacked, 1u);
  Rounds(8);
  EXPECT_FALSE(Placed("1a"));
  EXPECT_FALSE(catalogue_->IsLacked("1a"));
  EXPECT_EQ(catalogue_->WhyNot("1a"), "worker b lacks its experts: /law: damaged");
  EXPECT_TRUE(Placed("2b") && !OnDisk("2b"));
}

TEST_F(AdapterLacksTest, ARequestBringsItBackOnceAllCanHoldIt) {
  Lack("b");
  Rounds(8);
  ASSERT_FALSE(Placed("1a"));
  routers_["r"].in_use = routers_["r"].waiting = {"1a"};
  refuses_ = {"b"};
  members_["b"].why = "/law: still damaged";
  members_["b"].code = static_cast<int32_t>(AdapterError::kInvalid);
  Round(seconds(2));
  Rounds(4);
  EXPECT_FALSE(Placed("1a"));
  EXPECT_EQ(catalogue_->WhyNot("1a"), "worker b cannot: /law: still damaged");
  refuses_.clear();
  reports_["b"].lacks.clear();
  Round(seconds(4));
  Rounds(6);
  EXPECT_TRUE(Placed("1a") && !OnDisk("1a"));
  EXPECT_EQ(catalogue_->WhyNot("1a"), "");
}

TEST_F(AdapterLacksTest, WhatStillRunsOfItKeepsItUntilItHasEnded) {
  Lack("b");
  routers_["r"].in_use = {"1a"};
  Rounds(8);
  EXPECT_TRUE(OnDisk("1a") && Placed("1a"));
  routers_["r"].waiting = {"1a"};
  Rounds(8);
  EXPECT_FALSE(Placed("1a")) << "its requests all wait";
}

TEST_F(AdapterLacksTest, ItStaysWhereNobodyLacksItAnyMore) {
  Lack("b");
  routers_["r"].in_use = {"1a"};
  Rounds(3);
  ASSERT_TRUE(OnDisk("1a"));
  reports_["b"].lacks.clear();
  Rounds(2);
  EXPECT_FALSE(OnDisk("1a"));
  EXPECT_TRUE(Placed("1a"));
  EXPECT_EQ(catalogue_->WhyNot("1a"), "");
}

TEST_F(AdapterLacksTest, WhoEndsBeforeThatHasHeldItUpNoMore) {
  Lack("b");
  routers_["r"].in_use = {"1a"};
  Rounds(3);
  members_["b"].alive = false;
  Rounds(6);
  EXPECT_TRUE(Placed("1a") && !OnDisk("1a")) << "the other one could read it";
}

TEST_F(AdapterLacksTest, ARestartOfTheSchedulerHearsOfItAgain) {
  Lack("a");
  routers_["r"].in_use = {"1a"};
  Rounds(3);
  Restart();
  EXPECT_TRUE(OnDisk("1a"));
  Rounds(2);
  EXPECT_TRUE(catalogue_->IsLacked("1a"));
  EXPECT_THAT(catalogue_->WhyNot("1a"), HasSubstr("worker a lacks"));
}

TEST_F(AdapterLacksTest, WhoAddsItAgainHasItPlacedAnew) {
  Lack("b");
  routers_["r"].in_use = {"1a"};
  Rounds(3);
  const AdapterAnswer opened = catalogue_->Add("", "law", "/law");
  Rounds(8);
  EXPECT_EQ(Of(opened).stage, AdapterStage::kPlacing) << "what is lacked serves nobody";
  routers_["r"].in_use.clear();
  Rounds(6);
  reports_["b"].lacks.clear();
  Rounds(6);
  EXPECT_EQ(Of(opened).stage, AdapterStage::kDone);
  EXPECT_TRUE(Placed("1a") && !OnDisk("1a"));
}

TEST_F(AdapterLacksTest, OneThatIsLackedBeforeItIsServedIsOnDiskAndNotForgotten) {
  Put("/new", "3c");
  const AdapterAnswer opened = catalogue_->Add("", "new", "/new");
  while (!Placed("3c")) Round();
  reports_["b"].lacks["3c"] = "/new: damaged";
  Rounds(4);
  EXPECT_EQ(Of(opened).stage, AdapterStage::kDone);
  EXPECT_TRUE(OnDisk("3c"));
  EXPECT_THAT(catalogue_->WhyNot("3c"), HasSubstr("/new: damaged"));
}

}  // namespace
}  // namespace conclave::scheduler

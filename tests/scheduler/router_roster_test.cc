#include "scheduler/router_roster.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace conclave::scheduler {
namespace {

using std::chrono::minutes;
using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr Micros kStart = std::chrono::hours(1);
constexpr Micros kTick{1};

RouterRoster::Router At(const std::string& address, int64_t pid = 1,
                        RouterState state = RouterState::kServing) {
  return {.address = address, .pid = pid, .state = state};
}

class RouterRosterTest : public testing::Test {
 protected:
  std::vector<std::string> Addresses() const {
    std::vector<std::string> addresses;
    for (const RouterRoster::Router& router : roster_.Routers())
      addresses.push_back(router.address);
    return addresses;
  }
  RouterState StateOf(const std::string& address) const {
    for (const RouterRoster::Router& router : roster_.Routers()) {
      if (router.address == address) return router.state;
    }
    ADD_FAILURE() << address << " is unknown";
    return RouterState::kDead;
  }

  RouterRoster roster_{{.max_routers = 3}};
};

TEST_F(RouterRosterTest, NamesByAddressWhoIsHeard) {
  EXPECT_TRUE(roster_.Heartbeat(At("b:1"), kStart));
  EXPECT_TRUE(roster_.Heartbeat(At("a:1"), kStart));
  EXPECT_THAT(Addresses(), ElementsAre("a:1", "b:1"));
  EXPECT_EQ(StateOf("a:1"), RouterState::kServing);
}

TEST_F(RouterRosterTest, ASilentRouterIsDeadForAWhileAndThenForgotten) {
  roster_.Heartbeat(At("a:1"), kStart);
  roster_.Tick(kStart + seconds(2) - kTick);
  EXPECT_EQ(StateOf("a:1"), RouterState::kServing);
  roster_.Tick(kStart + seconds(2));
  EXPECT_EQ(StateOf("a:1"), RouterState::kDead);
  roster_.Tick(kStart + minutes(10) - kTick);
  EXPECT_EQ(StateOf("a:1"), RouterState::kDead);
  roster_.Tick(kStart + minutes(10));
  EXPECT_THAT(Addresses(), IsEmpty());
}

TEST_F(RouterRosterTest, ARouterThatIsStartedAgainAtItsAddressTakesItsPlace) {
  roster_.Heartbeat(At("a:1", 1), kStart);
  roster_.Tick(kStart + seconds(2));
  roster_.Heartbeat(At("a:1", 2), kStart + seconds(2));
  ASSERT_EQ(roster_.Routers().size(), 1U);
  EXPECT_EQ(roster_.Routers()[0].pid, 2);
  EXPECT_EQ(StateOf("a:1"), RouterState::kServing);
  roster_.Tick(kStart + seconds(4) - kTick);
  EXPECT_EQ(StateOf("a:1"), RouterState::kServing);
}

TEST_F(RouterRosterTest, ARouterThatDrainedHasLeftWhenItIsSilent) {
  roster_.Heartbeat(At("a:1", 1, RouterState::kDraining), kStart);
  roster_.Tick(kStart + seconds(2) - kTick);
  EXPECT_EQ(StateOf("a:1"), RouterState::kDraining);
  roster_.Tick(kStart + seconds(2));
  EXPECT_THAT(Addresses(), IsEmpty());
}

TEST_F(RouterRosterTest, WhatNobodyCouldHearIsNobodysSilence) {
  roster_.Heartbeat(At("a:1"), kStart);
  roster_.Excuse(seconds(30), kStart + seconds(31));
  roster_.Tick(kStart + seconds(31));
  EXPECT_EQ(StateOf("a:1"), RouterState::kServing);
  roster_.Tick(kStart + seconds(32));
  EXPECT_EQ(StateOf("a:1"), RouterState::kDead);
}

TEST_F(RouterRosterTest, ALateBeatDoesNotTurnTimeBack) {
  roster_.Heartbeat(At("a:1"), kStart + seconds(1));
  roster_.Heartbeat(At("a:1"), kStart);
  roster_.Tick(kStart + seconds(2));
  EXPECT_EQ(StateOf("a:1"), RouterState::kServing);
}

TEST_F(RouterRosterTest, TakesNoMoreThanItsLimitUnlessSomebodyIsDead) {
  for (const char* const address : {"a:1", "b:1", "c:1"})
    EXPECT_TRUE(roster_.Heartbeat(At(address), kStart));
  EXPECT_FALSE(roster_.Heartbeat(At("d:1"), kStart));
  EXPECT_THAT(Addresses(), ElementsAre("a:1", "b:1", "c:1"));
  EXPECT_TRUE(roster_.Heartbeat(At("a:1"), kStart + seconds(1))) << "it is known";
  EXPECT_TRUE(roster_.Heartbeat(At("c:1"), kStart - seconds(1)));
  roster_.Tick(kStart + seconds(3));  // all are dead, a as the last
  EXPECT_TRUE(roster_.Heartbeat(At("d:1"), kStart + seconds(3)));
  EXPECT_TRUE(roster_.Heartbeat(At("e:1"), kStart + seconds(3)));
  EXPECT_THAT(Addresses(), ElementsAre("a:1", "d:1", "e:1"));
}

}  // namespace
}  // namespace conclave::scheduler

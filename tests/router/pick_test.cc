#include "router/pick.h"

#include <gtest/gtest.h>

#include <map>
#include <vector>

namespace conclave::router {
namespace {

constexpr HomeLimits kLimits{.requests = 4, .tokens = 100};

WorkerView Worker(uint64_t key, int32_t requests, int64_t tokens) {
  return {.key = key, .model = "m", .ready = true, .requests = requests, .tokens = tokens};
}

TEST(Pick, TakesTheLeastLoaded) {
  const std::vector<WorkerView> workers = {Worker(1, 3, 30), Worker(2, 1, 10), Worker(3, 2, 20)};
  EXPECT_EQ(PickHome(workers, {"m", 10}, kLimits, 7), 1u);
}

TEST(Pick, MeasuresLoadByTheFullerBound) {
  const std::vector<WorkerView> workers = {Worker(1, 1, 90), Worker(2, 3, 10)};
  EXPECT_EQ(PickHome(workers, {"m", 10}, kLimits, 7), 1u);
}

TEST(Pick, LeavesOutWhoIsNotReadyOrHasAnotherModel) {
  std::vector<WorkerView> workers = {Worker(1, 0, 0), Worker(2, 0, 0), Worker(3, 3, 0)};
  workers[0].ready = false;
  workers[1].model = "other";
  EXPECT_EQ(PickHome(workers, {"m", 10}, kLimits, 7), 2u);
}

TEST(Pick, FillsAWorkerToItsLastPlaceAndToken) {
  EXPECT_TRUE(CanTake(Worker(1, 3, 90), {"m", 10}, kLimits));
  EXPECT_FALSE(CanTake(Worker(1, 4, 90), {"m", 10}, kLimits));
  EXPECT_FALSE(CanTake(Worker(1, 3, 90), {"m", 11}, kLimits));
}

TEST(Pick, GivesAnIdleWorkerAnyOneRequest) {
  EXPECT_TRUE(CanTake(Worker(1, 0, 0), {"m", 1000}, kLimits));
}

TEST(Pick, UsesASuspectOnlyWhenThereIsNobodyElse) {
  std::vector<WorkerView> workers = {Worker(1, 0, 0), Worker(2, 3, 0)};
  workers[0].suspect = true;
  EXPECT_EQ(PickHome(workers, {"m", 1}, kLimits, 7), 1u);
  workers[1].requests = 4;
  EXPECT_EQ(PickHome(workers, {"m", 1}, kLimits, 7), std::nullopt) << "rather wait than be lost";
  workers[1].ready = false;
  EXPECT_EQ(PickHome(workers, {"m", 1}, kLimits, 7), 0u);
}

TEST(Pick, GivesALateWorkerNothingWhileAnotherHasRoom) {
  std::vector<WorkerView> workers = {Worker(1, 0, 0), Worker(2, 3, 90)};
  workers[0].late = true;
  EXPECT_EQ(PickHome(workers, {"m", 10}, kLimits, 7), 1u);
  EXPECT_EQ(PickHome(workers, {"m", 11}, kLimits, 7), 0u) << "rather slowly than not at all";
  workers[1].late = true;
  EXPECT_EQ(PickHome(workers, {"m", 10}, kLimits, 7), 0u) << "all late are equal";
}

TEST(Pick, TakesOneThatLacksNoExpertHoweverLoaded) {
  std::vector<WorkerView> workers = {Worker(1, 0, 0), Worker(2, 3, 90)};
  workers[0].lacks = true;
  EXPECT_EQ(PickHome(workers, {"m", 10}, kLimits, 7), 1u);
  workers[1].lacks = true;
  EXPECT_EQ(PickHome(workers, {"m", 10}, kLimits, 7), 0u) << "both wait, then the less loaded";
}

TEST(Pick, ReturnsToTheHomeThatWasLeftOnlyIfThereIsNoOther) {
  const std::vector<WorkerView> workers = {Worker(1, 0, 0), Worker(2, 3, 90)};
  const Demand demand = {.model = "m", .tokens = 10, .left = 1};
  EXPECT_EQ(PickHome(workers, demand, kLimits, 7), 1u);
  EXPECT_EQ(PickHome({workers.data(), 1}, demand, kLimits, 7), 0u);
}

TEST(Pick, GivesNothingNewToAWorkerThatHasGrantedNoMore) {
  std::vector<WorkerView> workers = {Worker(1, 0, 0), Worker(2, 3, 0)};
  workers[0].credit = 0;
  EXPECT_EQ(PickHome(workers, {"m", 1}, kLimits, 7), 1u) << "who does not say is asked";
  workers[1].credit = 0;
  EXPECT_EQ(PickHome(workers, {"m", 1}, kLimits, 7), std::nullopt);
  EXPECT_EQ(PickHome(workers, {.model = "m", .tokens = 1, .goes_on = true}, kLimits, 7), 0u);
  workers[1].credit = 1;
  EXPECT_EQ(PickHome(workers, {"m", 1}, kLimits, 7), 1u);
}

TEST(Pick, PrefersAWorkerWithKvBlocksForAllOfTheRequest) {
  std::vector<WorkerView> workers = {Worker(1, 0, 0), Worker(2, 3, 30)};
  workers[0].room = 9;
  EXPECT_EQ(PickHome(workers, {"m", 9}, kLimits, 7), 0u);
  EXPECT_EQ(PickHome(workers, {"m", 10}, kLimits, 7), 1u);
  workers[1].room = 9;
  EXPECT_EQ(PickHome(workers, {"m", 10}, kLimits, 7), 0u)
      << "where all are tight, the least loaded";
}

std::vector<WorkerView> Named(uint64_t count) {
  std::vector<WorkerView> workers;
  for (uint64_t key = 0; key < count; ++key) {
    workers.push_back(Worker(key, 0, 0));
    workers.back().id = "w" + std::to_string(key);
  }
  return workers;
}

std::vector<std::string> LateOf(std::vector<WorkerView>& workers) {
  NoteLate(workers);
  std::vector<std::string> ids;
  for (const WorkerView& worker : workers) {
    if (worker.late) ids.push_back(worker.id);
  }
  return ids;
}

TEST(Pick, DoesNotHearWhoIsLateItself) {
  std::vector<WorkerView> workers = Named(4);
  for (int i : {0, 1, 2}) workers[static_cast<size_t>(i)].finds_late = {"w3"};
  workers[3].finds_late = {"w0", "w1", "w2"};
  workers[1].finds_late = {"w0", "w3"};
  EXPECT_EQ(LateOf(workers), std::vector<std::string>{"w3"});
  workers[2].finds_late = {"w0", "w3"};
  EXPECT_EQ(LateOf(workers), (std::vector<std::string>{"w0", "w3"}));
}

TEST(Pick, NeedsMoreThanOneVoiceOfThreeWhenOneIsLate) {
  std::vector<WorkerView> workers = Named(3);
  workers[0].finds_late = {"w1", "w2"};
  workers[1].finds_late = {"w2"};
  EXPECT_EQ(LateOf(workers), std::vector<std::string>{"w2"});
}

TEST(Pick, WaitsForTheCreditOfOneThatIsPromptRatherThanGoToALateOne) {
  std::vector<WorkerView> workers = Named(2);
  workers[0].credit = 0;
  workers[1].credit = 5;
  workers[1].late = true;
  EXPECT_EQ(PickHome(workers, {.model = "m", .tokens = 10}, kLimits, 7), std::nullopt);
  workers[0].requests = kLimits.requests;
  EXPECT_EQ(PickHome(workers, {.model = "m", .tokens = 10}, kLimits, 7), 1u)
      << "where no prompt one has room";
}

TEST(Pick, BelievesNeitherOfTwoThatComplainOfEachOther) {
  std::vector<WorkerView> workers = Named(2);
  workers[0].finds_late = {"w1"};
  EXPECT_EQ(LateOf(workers), std::vector<std::string>{"w1"});
  workers[1].finds_late = {"w0"};
  EXPECT_EQ(LateOf(workers), (std::vector<std::string>{"w0", "w1"}));
}

TEST(Pick, CallsAWorkerLateWhenMoreThanHalfOfTheOthersDo) {
  std::vector<WorkerView> workers = Named(5);
  const auto late = [&] { return LateOf(workers); };
  EXPECT_EQ(late(), std::vector<std::string>());
  // Who finds all the others late is but one voice of four.
  workers[4].finds_late = {"w0", "w1", "w2", "w3"};
  EXPECT_EQ(late(), std::vector<std::string>());
  workers[0].finds_late = workers[1].finds_late = {"w4"};
  EXPECT_EQ(late(), std::vector<std::string>()) << "half of them";
  workers[2].finds_late = {"w4"};
  EXPECT_EQ(late(), std::vector<std::string>{"w4"});
  workers[2].ready = false;
  EXPECT_EQ(late(), std::vector<std::string>{"w4"}) << "two of three that are ready";
  workers[1].model = "other";
  EXPECT_EQ(late(), std::vector<std::string>()) << "one of two that have its model";
}

TEST(Pick, FindsNobodyAmongNone) { EXPECT_EQ(PickHome({}, {"m", 1}, kLimits, 7), std::nullopt); }

TEST(Pick, SpreadsTiesBySeedAndRepeatsThem) {
  const std::vector<WorkerView> workers = {Worker(1, 0, 0), Worker(2, 0, 0), Worker(3, 0, 0)};
  std::map<size_t, int> picked;
  for (uint64_t seed = 0; seed < 3000; ++seed) {
    const auto pick = PickHome(workers, {"m", 1}, kLimits, seed);
    ASSERT_TRUE(pick);
    EXPECT_EQ(pick, PickHome(workers, {"m", 1}, kLimits, seed));
    ++picked[*pick];
  }
  for (const auto& [index, count] : picked) EXPECT_NEAR(count, 1000, 150) << index;
  EXPECT_EQ(picked.size(), 3u);
}

}  // namespace
}  // namespace conclave::router

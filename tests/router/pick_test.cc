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

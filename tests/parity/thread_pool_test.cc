#include "worker/device/cpu/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <vector>

namespace conclave::worker {
namespace {

class Pool : public testing::TestWithParam<ThreadPool::Options> {};

TEST_P(Pool, RunsEveryTaskOnceLoopAfterLoop) {
  ThreadPool pool(GetParam());
  std::vector<int> runs(100, 0);
  std::atomic<int> outside{0};
  for (int loop = 0; loop < 500; ++loop) {
    pool.For(loop % 100, [&](int thread, int64_t task) {
      if (thread < 0 || thread >= pool.threads()) ++outside;
      ++runs[static_cast<size_t>(task)];
    });
  }
  EXPECT_EQ(outside, 0);
  for (int task = 0; task < 100; ++task)
    EXPECT_EQ(runs[static_cast<size_t>(task)], 5 * (99 - task)) << task;
}

TEST_P(Pool, GivesEachThreadItsOwnScratch) {
  ThreadPool pool(GetParam());
  std::vector<int64_t> sums(static_cast<size_t>(pool.threads()), 0);
  pool.For(10000, [&](int thread, int64_t task) { sums[static_cast<size_t>(thread)] += task; });
  int64_t total = 0;
  for (const int64_t sum : sums) total += sum;
  EXPECT_EQ(total, 10000 * 9999 / 2);
}

TEST_P(Pool, StopsWithoutEverHavingWorked) { ThreadPool pool(GetParam()); }

INSTANTIATE_TEST_SUITE_P(Sizes, Pool,
                         testing::Values(ThreadPool::Options{1, 50}, ThreadPool::Options{2, 50},
                                         ThreadPool::Options{4, 0}),
                         [](const auto& param_info) {
                           return "Threads" + std::to_string(param_info.param.threads) + "Spin" +
                                  std::to_string(param_info.param.spin_us);
                         });

}  // namespace
}  // namespace conclave::worker

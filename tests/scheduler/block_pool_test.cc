#include "scheduler/block_pool.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

namespace conclave::scheduler {
namespace {

TEST(BlockPool, HandsOutEveryBlockOnce) {
  BlockPool pool(5);
  std::vector<BlockId> blocks;
  ASSERT_TRUE(pool.Take(2, &blocks));
  ASSERT_TRUE(pool.Take(3, &blocks));
  EXPECT_EQ(std::set<BlockId>(blocks.begin(), blocks.end()), (std::set<BlockId>{0, 1, 2, 3, 4}));
  EXPECT_EQ(pool.available(), 0);
  EXPECT_EQ(pool.used(), 5);
}

TEST(BlockPool, RefusesMoreThanItHasAndThenTakesNothing) {
  BlockPool pool(3);
  std::vector<BlockId> blocks;
  EXPECT_FALSE(pool.Take(4, &blocks));
  EXPECT_TRUE(blocks.empty());
  EXPECT_EQ(pool.available(), 3);
  EXPECT_TRUE(pool.Take(3, &blocks));
  EXPECT_FALSE(pool.Take(1, &blocks));
  EXPECT_EQ(blocks.size(), 3u);
}

TEST(BlockPool, ABlockGivenBackCanBeTakenAgain) {
  BlockPool pool(2);
  std::vector<BlockId> first;
  ASSERT_TRUE(pool.Take(2, &first));
  pool.GiveBack(std::vector<BlockId>{first[1]});
  std::vector<BlockId> second;
  ASSERT_TRUE(pool.Take(1, &second));
  EXPECT_EQ(second[0], first[1]);
}

TEST(BlockPool, TakingNothingAlwaysWorks) {
  BlockPool pool(1);
  std::vector<BlockId> blocks;
  EXPECT_TRUE(pool.Take(0, &blocks));
  ASSERT_TRUE(pool.Take(1, &blocks));
  EXPECT_TRUE(pool.Take(0, &blocks));
}

TEST(BlockPoolDeathTest, GivingABlockBackTwiceIsABrokenPromise) {
  BlockPool pool(2);
  std::vector<BlockId> blocks;
  ASSERT_TRUE(pool.Take(1, &blocks));
  pool.GiveBack(blocks);
  EXPECT_DEATH(pool.GiveBack(blocks), "holders");
}

TEST(BlockPoolDeathTest, GivingBackAnUnknownBlockIsABrokenPromise) {
  BlockPool pool(2);
  EXPECT_DEATH(pool.GiveBack(std::vector<BlockId>{2}), "block < size");
  EXPECT_DEATH(pool.GiveBack(std::vector<BlockId>{-1}), "block >= 0");
}

}  // namespace
}  // namespace conclave::scheduler

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

BlockKey Key(uint64_t number) { return {{number, 0, 0, 0}}; }

TEST(BlockPool, APublishedBlockIsFoundHeldOrNot) {
  BlockPool pool(2);
  std::vector<BlockId> blocks;
  ASSERT_TRUE(pool.Take(1, &blocks));
  EXPECT_EQ(pool.Find(Key(1)), kNoBlock);
  pool.Publish(blocks[0], Key(1), kNoBlock);
  EXPECT_EQ(pool.Find(Key(1)), blocks[0]);
  pool.GiveBack(blocks);
  EXPECT_EQ(pool.Find(Key(1)), blocks[0]);
  EXPECT_EQ(pool.cached(), 1);
  EXPECT_EQ(pool.available(), 2);
  EXPECT_EQ(pool.used(), 0);
  pool.CheckInvariants();
}

TEST(BlockPool, ASharedBlockComesBackWithItsLastHolder) {
  BlockPool pool(2);
  std::vector<BlockId> blocks;
  ASSERT_TRUE(pool.Take(1, &blocks));
  pool.Publish(blocks[0], Key(1), kNoBlock);
  pool.Share(blocks[0]);
  EXPECT_EQ(pool.holders(blocks[0]), 2);
  EXPECT_EQ(pool.used(), 1);
  pool.GiveBack(blocks);
  EXPECT_EQ(pool.used(), 1);
  pool.GiveBack(blocks);
  EXPECT_EQ(pool.used(), 0);
}

TEST(BlockPool, TakesFreeBlocksFirstAndThenTheOldestLeaves) {
  BlockPool pool(4);
  std::vector<BlockId> chain;
  ASSERT_TRUE(pool.Take(3, &chain));
  for (size_t i = 0; i < 3; ++i) {
    pool.Publish(chain[i], Key(i), i == 0 ? kNoBlock : chain[i - 1]);
  }
  pool.GiveBack(chain);
  std::vector<BlockId> taken;
  ASSERT_TRUE(pool.Take(3, &taken));
  EXPECT_EQ(pool.evictions(), 2u);
  EXPECT_EQ(taken[1], chain[2]) << "who was given back first: the end of the chain";
  EXPECT_EQ(taken[2], chain[1]);
  EXPECT_EQ(pool.Find(Key(0)), chain[0]);
  EXPECT_EQ(pool.Find(Key(1)), kNoBlock);
  pool.CheckInvariants();
}

TEST(BlockPool, ForgetsABlockAndAllBehindIt) {
  BlockPool pool(6);
  std::vector<BlockId> blocks;
  ASSERT_TRUE(pool.Take(5, &blocks));
  // 0 - 1 - 2, and 3 beside 1; 4 alone.
  pool.Publish(blocks[0], Key(0), kNoBlock);
  pool.Publish(blocks[1], Key(1), blocks[0]);
  pool.Publish(blocks[2], Key(2), blocks[1]);
  pool.Publish(blocks[3], Key(3), blocks[0]);
  pool.Publish(blocks[4], Key(4), kNoBlock);
  pool.GiveBack(std::vector<BlockId>{blocks[2]});
  pool.Forget(blocks[1]);
  EXPECT_FALSE(pool.published(blocks[1]));
  EXPECT_FALSE(pool.published(blocks[2]));
  EXPECT_EQ(pool.holders(blocks[1]), 1) << "who holds it keeps it";
  EXPECT_EQ(pool.cached(), 0);
  EXPECT_EQ(pool.available(), 2);
  for (const uint64_t kept : {0, 3, 4}) EXPECT_EQ(pool.Find(Key(kept)), blocks[kept]);
  pool.CheckInvariants();
}

TEST(BlockPoolDeathTest, OnlyHeldBlocksArePublishedAndEachKeyOnce) {
  BlockPool pool(3);
  std::vector<BlockId> blocks;
  ASSERT_TRUE(pool.Take(2, &blocks));
  EXPECT_DEATH(pool.Share(blocks[0]), "published");
  EXPECT_DEATH(pool.Publish(2, Key(1), kNoBlock), "holders");
  EXPECT_DEATH(pool.Publish(blocks[1], Key(1), blocks[0]), "published\\(parent\\)");
  pool.Publish(blocks[0], Key(1), kNoBlock);
  EXPECT_DEATH(pool.Publish(blocks[1], Key(1), kNoBlock), "emplace");
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

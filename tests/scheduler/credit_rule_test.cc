#include "scheduler/credit_rule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace conclave::scheduler {
namespace {

using Load = CreditRule::Load;

// Eight at once and two that wait; blocks for far more.
Load Idle() { return {.batch = 8, .limit = 100, .blocks = 1000}; }
Load Busy(int32_t sequences) {
  Load load = Idle();
  load.sequences = sequences;
  load.running = std::min(sequences, load.batch);
  load.blocks_used = load.running;
  return load;
}

TEST(CreditRule, LetsABatchComeAndAFewThatWait) {
  const CreditRule rule({.waiting_percent = 25});
  EXPECT_EQ(rule.Room(Idle()), 10);
  EXPECT_EQ(rule.Room(Busy(8)), 2);
  EXPECT_EQ(rule.Room(Busy(9)), 1);
  EXPECT_EQ(rule.Room(Busy(10)), 0);
  EXPECT_EQ(rule.Room(Busy(30)), 0) << "others came without being asked";
}

TEST(CreditRule, RoundsUpWhatMayWait) {
  EXPECT_EQ(CreditRule({.waiting_percent = 1}).Room(Idle()), 9);
  EXPECT_EQ(CreditRule({.waiting_percent = 0}).Room(Idle()), 8);
  EXPECT_EQ(CreditRule({.waiting_percent = 13}).Room(Idle()), 10);
}

TEST(CreditRule, CountsThePausedForNothingButTheLimit) {
  const CreditRule rule({});
  Load load = Busy(10);
  load.paused = 3;
  EXPECT_EQ(rule.Room(load), 3);
  load.limit = 12;
  EXPECT_EQ(rule.Room(load), 2);
  load.limit = 10;
  EXPECT_EQ(rule.Room(load), 0);
}

TEST(CreditRule, LetsNoMoreComeThanTheKvPoolHolds) {
  const CreditRule rule({.waiting_percent = 25});
  Load load = Busy(2);
  load.blocks_used = 500;  // two more of their size
  EXPECT_EQ(rule.Room(load), 4 + 1 - 2);
  load.blocks_used = 501;
  EXPECT_EQ(rule.Room(load), 3 + 1 - 2);
  load.blocks_used = 1000;
  EXPECT_EQ(rule.Room(load), 2 + 1 - 2) << "one that waits for the first to end";
  load.sequences = 3;
  EXPECT_EQ(rule.Room(load), 0);
}

TEST(CreditRule, SharesTheRoomBetweenLinks) {
  const CreditRule rule({});
  EXPECT_EQ(rule.Share(Idle(), 1), 10);
  EXPECT_EQ(rule.Share(Idle(), 3), 3);
  EXPECT_EQ(rule.Share(Idle(), 10), 1);
  EXPECT_EQ(rule.Share(Busy(9), 3), 1) << "at least one each while there is any";
  EXPECT_EQ(rule.Share(Busy(10), 3), 0);
  EXPECT_EQ(rule.Share(Idle(), 0), 0);
}

TEST(LinkCredit, TakesWhatWasGrantedAndNotOneMore) {
  LinkCredit credit;
  EXPECT_FALSE(LinkCredit().Take()) << "before anything was granted";
  credit.Grant(2);
  EXPECT_TRUE(credit.Take());
  EXPECT_TRUE(credit.Take());
  EXPECT_FALSE(credit.Take());
}

TEST(LinkCredit, NeverTakesAGrantBack) {
  LinkCredit credit;
  credit.Grant(5);
  credit.Grant(1);
  EXPECT_EQ(credit.granted(), 5u);
  credit.Take();
  credit.Grant(4);
  EXPECT_EQ(credit.granted(), 5u);
  credit.Grant(5);
  EXPECT_EQ(credit.granted(), 6u);
}

TEST(LinkCredit, CountsWhatHadToBeTakenAnyway) {
  LinkCredit credit;
  credit.Grant(1);
  for (int i = 0; i < 3; ++i) credit.Take();
  credit.Grant(1);
  EXPECT_EQ(credit.granted(), 4u);
  EXPECT_TRUE(credit.Take());
}

TEST(LinkCredit, TellsWhatIsNewOnce) {
  LinkCredit credit;
  EXPECT_EQ(credit.Tell(), 0u) << "that there are credits at all";
  EXPECT_EQ(credit.Tell(), std::nullopt);
  credit.Grant(3);
  EXPECT_EQ(credit.Tell(), 3u);
  EXPECT_EQ(credit.Tell(), std::nullopt);
}

TEST(LinkCredit, IsUrgentWhenItsRouterIsShort) {
  LinkCredit credit;
  credit.Tell();
  EXPECT_FALSE(credit.urgent()) << "there is nothing to tell";
  credit.Grant(1);
  EXPECT_TRUE(credit.urgent()) << "it has none";
  credit.Grant(8);
  credit.Tell();
  for (int used = 1; used <= 4; ++used) {
    credit.Take();
    credit.Grant(8);
    EXPECT_FALSE(credit.urgent()) << "it knows of half, having used " << used;
  }
  credit.Take();
  credit.Grant(8);
  EXPECT_TRUE(credit.urgent());
}

// Routers that submit whenever they may, and one that comes late, on a worker whose sequences end
// in any order.
TEST(CreditRule, BoundsWhatWaitsAndStarvesNobody) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    const CreditRule rule({.waiting_percent = 25});
    const auto links = static_cast<int32_t>(1 + random() % 4);
    std::vector<LinkCredit> credits(static_cast<size_t>(links));
    std::vector<uint64_t> submitted(credits.size()), told(credits.size());
    Load load = Idle();
    uint64_t late_had = 0;
    for (int tick = 0; tick < 2000; ++tick) {
      for (size_t i = 0; i < credits.size(); ++i) {
        credits[i].Grant(rule.Share(load, links));
        told[i] = credits[i].Tell().value_or(told[i]);
        if (i == 0 && tick < 1000) continue;
        for (; submitted[i] < told[i] && random() % 3 > 0; ++submitted[i]) {
          ASSERT_TRUE(credits[i].Take());
          ++load.sequences;
        }
      }
      // An idle router's credits are over what there is room for, once.
      ASSERT_LE(load.sequences, 20 + links);
      if (load.sequences > 0 && random() % 2 == 0) --load.sequences;
      late_had = submitted[0];
    }
    EXPECT_GT(late_had, 1000u / 2 / static_cast<uint64_t>(links) / 2) << "half of its share";
  }
}

}  // namespace
}  // namespace conclave::scheduler

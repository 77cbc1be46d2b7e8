#include "scheduler/tuned_experts.h"

#include <gtest/gtest.h>

#include <vector>

namespace conclave::scheduler {
namespace {

using Slots = std::vector<int32_t>;

TEST(TunedExperts, AreThoseOfHighestShareUntilTheyHaveEnough) {
  EXPECT_EQ(ChooseTunedExperts(std::vector<double>{10, 40, 30, 20}, 0.5), (Slots{1, 2}));
  EXPECT_EQ(ChooseTunedExperts(std::vector<double>{10, 40, 30, 20}, 0.71), (Slots{1, 2, 3}));
}

TEST(TunedExperts, AreNoMoreOnceTheyHaveExactlyEnough) {
  EXPECT_EQ(ChooseTunedExperts(std::vector<double>{10, 40, 30, 20}, 0.4), (Slots{1}));
  EXPECT_EQ(ChooseTunedExperts(std::vector<double>{10, 40, 30, 20}, 0.7), (Slots{1, 2}));
}

TEST(TunedExperts, GoByTheLowerSlotWhereFourDecimalsAreTheSame) {
  // 0.03085 and 0.03093 of all are 0.0309 both.
  const std::vector<double> totals = {1522, 1526, 49332 - 1522 - 1526};
  EXPECT_EQ(ChooseTunedExperts(totals, 0.95), (Slots{2, 0}));
  EXPECT_EQ(ChooseTunedExperts(std::vector<double>{5, 5, 5, 5}, 0.5), (Slots{0, 1}));
  EXPECT_EQ(ChooseTunedExperts(std::vector<double>{1000, 1002, 7998}, 0.85), (Slots{2, 1}));
}

TEST(TunedExperts, AreNeverThoseThatNobodyChose) {
  EXPECT_EQ(ChooseTunedExperts(std::vector<double>{0, 3, 0, 1}, 1.0), (Slots{1, 3}));
  EXPECT_EQ(ChooseTunedExperts(std::vector<double>{0, 0}, 0.2), Slots());
  EXPECT_EQ(ChooseTunedExperts({}, 0.2), Slots());
  // What is left is too little to be seen in four decimals, and there all the same.
  EXPECT_EQ(ChooseTunedExperts(std::vector<double>{1, 99999, 0}, 1.0), (Slots{1}));
  EXPECT_EQ(ChooseTunedExperts(std::vector<double>(30000, 1.0), 1.0).size(), 30000U);
}

}  // namespace
}  // namespace conclave::scheduler

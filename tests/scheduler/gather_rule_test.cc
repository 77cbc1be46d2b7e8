#include "scheduler/gather_rule.h"

#include <gtest/gtest.h>

namespace conclave::scheduler {
namespace {

constexpr int32_t kLayers = 8;
constexpr Micros kPass{1000};

// Two homes that have each asked twice, 2 ms apart: home 0 of layer 0, home 1 of layer 1, at 10 ms;
// both were served.
class GatherRuleTest : public ::testing::Test {
 protected:
  GatherRuleTest() : GatherRuleTest(GatherRule::Options{}) {}
  explicit GatherRuleTest(const GatherRule::Options& options) : rule_(options, kLayers) {
    rule_.Took(kPass);
    for (const int64_t ms : {8, 10}) {
      for (const int32_t home : {0, 1}) {
        rule_.Ask(home, home, 1, At(ms));
        rule_.Serve(home);
      }
    }
  }
  static Micros At(int64_t ms) { return std::chrono::milliseconds(ms); }
  // How long what the home asked for still waits.
  Micros Waits(int32_t home, Micros now) const { return rule_.Due(home, now) - now; }

  GatherRule rule_;
};

TEST_F(GatherRuleTest, OneThatIsAheadWaitsForTheOtherAsLongAsAPassTakes) {
  rule_.Ask(1, 2, 1, At(11));  // home 0 is about to ask of layer 1
  EXPECT_EQ(Waits(1, At(11)), kPass);
  EXPECT_EQ(Waits(1, At(12)), Micros(0));
}

TEST_F(GatherRuleTest, OneThatIsBehindIsServedAtOnce) {
  rule_.Ask(1, 2, 1, At(11));
  rule_.Ask(0, 1, 1, At(11));
  EXPECT_LE(Waits(0, At(11)), Micros(0));
  EXPECT_EQ(Waits(1, At(11)), kPass) << "the other one is behind still";
}

TEST_F(GatherRuleTest, TwoAtOneLayerAreServedTogether) {
  rule_.Ask(1, 2, 1, At(11));
  rule_.Ask(0, 1, 1, At(11));
  rule_.Serve(0);
  EXPECT_EQ(Waits(1, At(11)), kPass) << "home 0 is about to ask of layer 2";
  rule_.Ask(0, 2, 1, At(11) + kPass / 2);
  EXPECT_LE(Waits(0, At(11) + kPass / 2), Micros(0));
  EXPECT_LE(Waits(1, At(11) + kPass / 2), Micros(0));
}

TEST_F(GatherRuleTest, TheLastLayerComesBeforeTheFirst) {
  rule_.Ask(0, 7, 1, At(11));
  rule_.Serve(0);
  rule_.Ask(1, 1, 1, At(11));
  EXPECT_GT(Waits(1, At(11)), Micros(0)) << "home 0 is about to ask of layer 0";
  rule_.Ask(0, 0, 1, At(11));
  EXPECT_LE(Waits(0, At(11)), Micros(0));
}

TEST_F(GatherRuleTest, HalfARoundIsTooFarToWait) {
  rule_.Ask(1, 4, 1, At(11));  // of layer 1 home 0 asks next: 3 behind
  EXPECT_GT(Waits(1, At(11)), Micros(0));
  rule_.Serve(1);
  rule_.Ask(1, 5, 1, At(11));  // 4 behind
  EXPECT_LE(Waits(1, At(11)), Micros(0));
}

TEST_F(GatherRuleTest, AHomeThatHasNotAskedForFourOfItsStepsIsNotWaitedFor) {
  rule_.Ask(1, 2, 1, At(18));
  EXPECT_GT(Waits(1, At(18)), Micros(0));
  rule_.Serve(1);
  rule_.Ask(1, 2, 1, At(18) + Micros(1));
  EXPECT_LE(Waits(1, At(18) + Micros(1)), Micros(0));
}

TEST_F(GatherRuleTest, AHomeThatHasAskedOnceIsNotWaitedFor) {
  rule_.Ask(2, 1, 1, At(11));
  rule_.Serve(2);
  rule_.Ask(1, 1, 1, At(11));
  rule_.Ask(0, 1, 1, At(11));
  rule_.Serve(1);
  rule_.Serve(0);
  rule_.Ask(0, 2, 1, At(11));
  EXPECT_GT(Waits(0, At(11)), Micros(0)) << "for home 1";
  rule_.Ask(1, 2, 1, At(11));
  EXPECT_LE(Waits(0, At(11)), Micros(0)) << "home 2 asked of layer 1, and no other time";
}

TEST_F(GatherRuleTest, ManyRowsNeitherWaitNorAreWaitedFor) {
  const int32_t limit = GatherRule::Options().rows;
  rule_.Ask(1, 2, limit, At(11));
  EXPECT_GT(Waits(1, At(11)), Micros(0));
  rule_.Serve(1);
  rule_.Ask(1, 2, limit + 1, At(11));
  EXPECT_LE(Waits(1, At(11)), Micros(0));
  rule_.Ask(0, 3, 1, At(11));
  EXPECT_LE(Waits(0, At(11)), Micros(0)) << "home 1 is behind, with many rows";
}

TEST_F(GatherRuleTest, NobodyWaitsForPassesThatAreSoonOver) {
  const GatherRule::Options options;
  GatherRule quick(options, kLayers);
  quick.Took(options.worthwhile - Micros(1));
  GatherRule slow(options, kLayers);
  slow.Took(std::chrono::seconds(1));
  for (GatherRule* const rule : {&quick, &slow}) {
    rule->Ask(0, 1, 1, At(1));
    rule->Ask(1, 2, 1, At(1));
  }
  EXPECT_EQ(quick.Due(1, At(1)), At(1));
  EXPECT_EQ(slow.Due(1, At(1)), At(1) + options.longest) << "nor longer than the limit";
}

class WithoutGathering : public GatherRuleTest {
 protected:
  WithoutGathering() : GatherRuleTest(GatherRule::Options{.longest = Micros(0)}) {}
};

TEST_F(WithoutGathering, NobodyWaits) {
  rule_.Ask(1, 2, 1, At(11));
  EXPECT_LE(Waits(1, At(11)), Micros(0));
}

class WithOneHomeAtMost : public GatherRuleTest {
 protected:
  WithOneHomeAtMost() : GatherRuleTest(GatherRule::Options{.homes = 1}) {}
};

TEST_F(WithOneHomeAtMost, TheOthersAreServedAtOnceUntilItIsForgotten) {
  rule_.Ask(1, 2, 1, At(11));
  EXPECT_LE(Waits(1, At(11)), Micros(0));
  const int64_t later = 10 + 1001;
  rule_.Ask(1, 2, 1, At(later));
  rule_.Serve(1);
  rule_.Ask(1, 3, 1, At(later + 1));
  rule_.Ask(0, 2, 1, At(later + 1));
  EXPECT_LE(Waits(1, At(later + 1)), Micros(0)) << "home 0 is not known any more";
}

}  // namespace
}  // namespace conclave::scheduler

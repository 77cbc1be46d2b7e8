#include "router/auto_adapter.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace conclave::router {
namespace {

using Experts = std::vector<uint32_t>;

template <typename T>
std::string Bytes(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

// Two tokens, two layers of four slots, two chosen each.
class AutoAdapterTest : public ::testing::Test {
 protected:
  std::optional<GateShares> Shares(size_t tokens = 2) const {
    const Routing routing{.layers = 2,
                          .top_k = 2,
                          .experts = 4,
                          .slots = Bytes(chosen_),
                          .weights = Bytes(weights_),
                          .layer_indices = {1, 2}};
    return SharesOf(routing, gate_, tokens);
  }
  AutoChoice Choose(const std::vector<Experts>& adapters) const {
    const std::vector<AdapterSignature> signatures(adapters.begin(), adapters.end());
    return ChooseAdapter(Shares().value(), signatures);
  }

  GateShape gate_{.layers = 2, .top_k = 2, .slots = 4};
  std::vector<uint16_t> chosen_ = {0, 1, 2, 3, /*second token*/ 0, 2, 2, 1};
  std::vector<float> weights_ = {0.6f, 0.4f, 0.9f, 0.1f, 0.8f, 0.2f, 0.5f, 0.5f};
};

TEST_F(AutoAdapterTest, ChoosesWhomMostOfTheWeightFallsOn) {
  const AutoChoice choice = Choose({{1, 7}, {0, 6}});
  EXPECT_EQ(choice.best, 1u);
  EXPECT_NEAR(choice.share, (0.7 + 0.7) / 2, 1e-6);
  EXPECT_NEAR(choice.margin, 0.7 - 0.25, 1e-6) << "two of eight experts, against (0.2 + 0.05) / 2";
}

TEST_F(AutoAdapterTest, HasAMarginBeforeTheNextOne) {
  EXPECT_NEAR(Choose({{0, 6}, {0, 1, 5}}).margin, 0.7 - (0.7 + 0.2 + 0.25) / 2, 1e-6);
  EXPECT_NEAR(Choose({{0, 1, 5}, {0, 6}}).margin, 0.7 - (0.7 + 0.2 + 0.25) / 2, 1e-6);
  EXPECT_NEAR(Choose({{0}, {0, 6}, {1}, {0, 1, 5}}).margin, 0.7 - 0.575, 1e-6);
}

TEST_F(AutoAdapterTest, HasNoMarginForMereSize) {
  const AutoChoice choice = Choose({{0, 1, 2, 3, 4, 5, 6, 7}});
  EXPECT_NEAR(choice.share, 1.0, 1e-6);
  EXPECT_NEAR(choice.margin, 0.0, 1e-6) << "whatever the prompt, all of it falls on all experts";
  EXPECT_LT(Choose({{3, 4}}).margin, 0.0) << "less than on any two experts";
}

TEST_F(AutoAdapterTest, CountsALayerAsMuchAsAnotherWhateverItsWeightsSumTo) {
  for (const size_t i : {2u, 3u, 6u, 7u}) weights_[i] *= 16;  // a gate that scales
  EXPECT_NEAR(Choose({{0, 6}}).share, 0.7, 1e-6);
}

TEST_F(AutoAdapterTest, ChoosesNoneWhereThereIsNone) {
  EXPECT_EQ(Choose({}).best, std::nullopt);
  EXPECT_EQ(Choose({}).share, 0.0);
}

TEST_F(AutoAdapterTest, OfEqualsTakesTheFirst) {
  const AutoChoice choice = Choose({{0}, {0}, {1}});
  EXPECT_EQ(choice.best, 0u);
  EXPECT_EQ(choice.margin, 0.0);
}

TEST_F(AutoAdapterTest, DoesNotCountSharedExperts) {
  const AutoChoice choice = Choose({{0, 6, 8, 9}});
  EXPECT_NEAR(choice.share, 0.7, 1e-6);
  EXPECT_NEAR(choice.margin, 0.45, 1e-6);
}

TEST_F(AutoAdapterTest, FindsNothingAnywhereWithoutWeight) {
  weights_.assign(weights_.size(), 0.0f);
  const AutoChoice choice = Choose({{0, 6}});
  EXPECT_EQ(choice.share, 0.0);
  EXPECT_LT(choice.margin, 0.0);
}

TEST_F(AutoAdapterTest, ReadsNoRoutingOfAnotherSize) {
  EXPECT_TRUE(Shares(2));
  EXPECT_FALSE(Shares(1));
  EXPECT_FALSE(Shares(3));
  EXPECT_FALSE(Shares(0));
  weights_.pop_back();
  EXPECT_FALSE(Shares(2));
}

TEST_F(AutoAdapterTest, ReadsNoRoutingOfAnotherGate) {
  for (uint32_t GateShape::*const field :
       {&GateShape::layers, &GateShape::top_k, &GateShape::slots}) {
    const GateShape gate = gate_;
    ++(gate_.*field);
    EXPECT_FALSE(Shares());
    gate_ = gate;
  }
}

TEST_F(AutoAdapterTest, ReadsNoRoutingOfAGateBeyondAllLimits) {
  Routing routing{.layers = 1, .top_k = 1, .experts = kMostGateSlots};
  routing.slots = Bytes<uint16_t>({5});
  routing.weights = Bytes<float>({1.0f});
  const GateShape largest{.layers = 1, .top_k = 1, .slots = kMostGateSlots};
  EXPECT_TRUE(SharesOf(routing, largest, 1));
  ++routing.experts;
  EXPECT_FALSE(SharesOf(routing, {.layers = 1, .top_k = 1, .slots = kMostGateSlots + 1}, 1));
}

TEST_F(AutoAdapterTest, ReadsNoSlotOrWeightThatNoGateChooses) {
  chosen_[5] = 4;
  EXPECT_FALSE(Shares());
  chosen_[5] = 3;
  EXPECT_TRUE(Shares());
  for (const float wrong : {-0.1f, std::numeric_limits<float>::infinity(), std::nanf("")}) {
    weights_[7] = wrong;
    EXPECT_FALSE(Shares()) << wrong;
  }
}

}  // namespace
}  // namespace conclave::router

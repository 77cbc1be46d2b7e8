// What a dispatch asks for, what of it has come, and what is made of it.

#include "worker/experts/pieces.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "worker/experts/partial_sum.h"

namespace conclave::worker {
namespace {

using scheduler::ExpertId;
using ::testing::ElementsAre;

constexpr FrameLimits kLimits = {.type = DType::kBF16,
                                 .layers = 1,
                                 .experts = 4,
                                 .dim = 2,
                                 .rows = 2,
                                 .routes = 6,
                                 .returns = Returns::kSums};

// Experts 0 and 2 are w1's, 1 and 3 w0's.
const scheduler::Placement kPlacement = {.workers = {"w0", "w1"}, .owners = {{1}, {0}, {1}, {0}}};
const std::vector<ExpertId> kExperts = {0, 1, 2, 3, 1, 0};  // of two rows
const std::vector<float> kWeights = {0.5f, 0.25f, 2.0f, 1.0f, 3.0f, 0.125f};

std::vector<int32_t> RoutesOf(const Pieces& pieces, int32_t piece) {
  const auto routes = pieces.RoutesOf(piece);
  return {routes.begin(), routes.end()};
}

TEST(Pieces, AreRoutesWhereRowsAreReturned) {
  FrameLimits limits = kLimits;
  limits.returns = Returns::kRows;
  Pieces pieces(limits);
  pieces.Begin(&kPlacement, kExperts, 3);
  EXPECT_EQ(pieces.first(), 0);
  EXPECT_EQ(pieces.end(), 6);
  EXPECT_THAT(RoutesOf(pieces, 4), ElementsAre(4));
  EXPECT_EQ(pieces.NoteCome(4), 1u);
  EXPECT_FALSE(pieces.Needed(4));
  EXPECT_TRUE(pieces.Needed(3));
}

TEST(Pieces, ArePartsByOwnerInGateOrderWhereSumsAre) {
  Pieces pieces(kLimits);
  pieces.Begin(&kPlacement, kExperts, 3);
  ASSERT_EQ(pieces.first(), 6);
  ASSERT_EQ(pieces.end(), 10);
  EXPECT_THAT(RoutesOf(pieces, 6), ElementsAre(1));
  EXPECT_THAT(RoutesOf(pieces, 7), ElementsAre(0, 2));
  EXPECT_THAT(RoutesOf(pieces, 8), ElementsAre(3, 4));
  EXPECT_THAT(RoutesOf(pieces, 9), ElementsAre(5));
  EXPECT_EQ(pieces.WholeOf(2), 7);
}

TEST(Pieces, AreOneOfARowWithoutAPlacement) {
  Pieces pieces(kLimits);
  pieces.Begin(nullptr, kExperts, 3);
  EXPECT_EQ(pieces.end() - pieces.first(), 2);
  EXPECT_THAT(RoutesOf(pieces, pieces.first()), ElementsAre(0, 1, 2));
}

TEST(Pieces, AreDoneByWhatComesFirstWholeOrInRows) {
  Pieces pieces(kLimits);
  pieces.Begin(&kPlacement, kExperts, 3);
  pieces.Split(7);
  EXPECT_EQ(pieces.NoteCome(0), 1u);
  EXPECT_TRUE(pieces.Needed(7));
  EXPECT_EQ(pieces.NoteCome(7), 1u) << "the route that had not come";
  EXPECT_FALSE(pieces.Needed(2));

  pieces.Begin(&kPlacement, kExperts, 3);
  EXPECT_FALSE(pieces.split(7));
  pieces.NoteCome(0);
  pieces.NoteCome(2);
  EXPECT_FALSE(pieces.Needed(7));
}

TEST(Pieces, MakeTheSameSumOfRowsAsAnOwnerWouldHave) {
  std::vector<float> given = {1.5f, -3.0f, 2.25f, 1e-3f, 7.0f, 0.1f,
                              4.0f, 5.0f,  6.0f,  0.3f,  9.0f, 1.0f};
  for (float& value : given) value = FromBf16(ToBf16(value));
  const auto rows = [](std::vector<float>& values) { return Rows{values.data(), 6, 2, 2}; };
  Pieces pieces(kLimits);
  pieces.Begin(&kPlacement, kExperts, 3);
  std::vector<float> by_rows = given;
  pieces.Sum(kWeights, rows(by_rows));
  // The first row by hand: its second expert is the first worker's.
  for (size_t c = 0; c < 2; ++c) {
    const float w0 = FromBf16(ToBf16(0.25f * given[2 + c]));
    const float w1 = FromBf16(ToBf16(0.5f * given[c] + 2.0f * given[4 + c]));
    EXPECT_EQ(by_rows[c], w0 + w1);
  }
  // The second row's first sum comes, made by its owner.
  std::vector<float> by_sums = given;
  const float* const terms[] = {&given[6], &given[8]};
  PartialSum(terms, std::span(kWeights).subspan(3, 2), 2, DType::kBF16, &by_sums[6]);
  pieces.Begin(&kPlacement, kExperts, 3);
  pieces.NoteCome(8);
  pieces.Sum(kWeights, rows(by_sums));
  EXPECT_EQ(by_sums[6], by_rows[6]);
  EXPECT_EQ(by_sums[7], by_rows[7]);
}

}  // namespace
}  // namespace conclave::worker

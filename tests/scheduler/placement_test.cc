#include "scheduler/placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace conclave::scheduler {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

using Owners = std::vector<std::vector<int32_t>>;

Placement Of(std::vector<std::string> workers, Owners owners) {
  return {.workers = std::move(workers), .owners = std::move(owners)};
}

TEST(Contiguous, GivesEveryWorkerARunOfEachLayer) {
  const Placement placement = Contiguous({"b", "a"}, 2, 4);
  EXPECT_THAT(placement.workers, ElementsAre("a", "b"));
  EXPECT_EQ(placement.owners, (Owners{{0}, {0}, {1}, {1}, {0}, {0}, {1}, {1}}));
  EXPECT_EQ(ProblemOf(placement), "");
}

TEST(Contiguous, DiffersByOneWhereSlotsDoNotDivide) {
  for (int32_t slots = 1; slots < 20; ++slots) {
    for (const size_t workers : {1u, 2u, 3u, 5u, 8u}) {
      std::vector<std::string> ids;
      for (size_t i = 0; i < workers; ++i) ids.push_back("w" + std::to_string(i));
      const Placement placement = Contiguous(ids, 1, slots);
      EXPECT_EQ(ProblemOf(placement), "");
      const std::vector<size_t> counts = CountOwned(placement);
      const auto [least, most] = std::minmax_element(counts.begin(), counts.end());
      EXPECT_LE(*most - *least, 1u) << slots << " slots over " << workers;
    }
  }
}

TEST(Contiguous, TurnsTheLongerRunsFromLayerToLayer) {
  const auto counts = [](size_t workers, int32_t layers, int32_t slots) {
    std::vector<std::string> ids;
    for (size_t i = 0; i < workers; ++i) ids.push_back("w" + std::to_string(100 + i));
    return CountOwned(Contiguous(ids, layers, slots));
  };
  EXPECT_THAT(counts(3, 3, 4), ElementsAre(4u, 4u, 4u));
  EXPECT_THAT(counts(5, 6, 32), testing::Each(testing::AllOf(testing::Ge(38u), testing::Le(39u))));
  EXPECT_THAT(counts(13, 2, 8), testing::Each(testing::AllOf(testing::Ge(1u), testing::Le(2u))));
}

TEST(Everywhere, HasEveryExpertOnEveryWorker) {
  const Placement placement = Everywhere({"b", "a"}, 3);
  EXPECT_EQ(placement.owners, (Owners{{0, 1}, {0, 1}, {0, 1}}));
  EXPECT_EQ(ProblemOf(placement), "");
}

TEST(ProblemOf, NamesWhatIsWrong) {
  EXPECT_THAT(ProblemOf(Of({}, {})), HasSubstr("no workers"));
  EXPECT_THAT(ProblemOf(Of({"b", "a"}, {})), HasSubstr("out of order"));
  EXPECT_THAT(ProblemOf(Of({"a", "a"}, {})), HasSubstr("twice"));
  EXPECT_THAT(ProblemOf(Of({"a"}, {{0}, {}})), HasSubstr("expert 1 has no owner"));
  EXPECT_THAT(ProblemOf(Of({"a"}, {{1}})), HasSubstr("expert 0 is given to worker 1 of 1"));
  EXPECT_THAT(ProblemOf(Of({"a"}, {{-1}})), HasSubstr("worker -1"));
  EXPECT_THAT(ProblemOf(Of({"a", "b"}, {{1, 0}})), HasSubstr("expert 0 names its owners"));
  EXPECT_THAT(ProblemOf(Of({"a", "b"}, {{0, 0}})), HasSubstr("twice"));
}

TEST(ProblemOf, HoldsTheLimits) {
  const Placement placement = Of({"a", "b"}, {{0, 1}, {0}});
  EXPECT_EQ(ProblemOf(placement, {.workers = 2, .experts = 2, .copies = 3}), "");
  EXPECT_THAT(ProblemOf(placement, {.workers = 1}), HasSubstr("2 workers, the limit is 1"));
  EXPECT_THAT(ProblemOf(placement, {.experts = 1}), HasSubstr("2 experts, the limit is 1"));
  EXPECT_THAT(ProblemOf(placement, {.copies = 2}),
              HasSubstr("3 copies of experts, the limit is 2"));
}

TEST(Recovered, GivesWhatIsLostToThoseThatOwnLeast) {
  const Placement before = Of({"a", "b", "c"}, {{0}, {0}, {1}, {2}, {2}, {2}});
  const Placement after = *Recovered(before, {"a", "b"});
  EXPECT_THAT(after.workers, ElementsAre("a", "b"));
  // b has one, a two: b, then the first of equals, then b.
  EXPECT_EQ(after.owners, (Owners{{0}, {0}, {1}, {1}, {0}, {1}}));
  EXPECT_EQ(ProblemOf(after), "");
}

TEST(Recovered, KeepsReplicasWhereTheyAreAndAddsNobodyForThem) {
  const Placement before = Of({"a", "b"}, {{0, 1}, {0, 1}});
  const Placement after = *Recovered(before, {"b", "newcomer"});
  EXPECT_THAT(after.workers, ElementsAre("b"));
  EXPECT_EQ(after.owners, (Owners{{0}, {0}}));
}

TEST(Recovered, LetsNewcomersTakeUpWhatIsLost) {
  const Placement after = *Recovered(Of({"a", "b"}, {{0}, {0}, {1}}), {"a", "z"});
  EXPECT_THAT(after.workers, ElementsAre("a", "z"));
  EXPECT_EQ(after.owners, (Owners{{0}, {0}, {1}}));
}

TEST(Recovered, WorksWithoutAnybodyWhoWasThere) {
  const Placement after = *Recovered(Of({"a"}, {{0}, {0}}), {"y", "x"});
  EXPECT_EQ(after.owners, (Owners{{0}, {1}}));
  EXPECT_EQ(Recovered(Of({"a"}, {{0}}), {}), std::nullopt);
}

TEST(Recovered, IsTheSameWhenNobodyIsLost) {
  const Placement before = Of({"a", "b"}, {{0}, {1}, {0, 1}});
  EXPECT_EQ(Recovered(before, {"b", "a", "c"}), before);
}

TEST(Placement, KnowsWhoOwnsWhat) {
  const Placement placement = Of({"a", "b", "idle"}, {{0}, {0, 1}});
  EXPECT_EQ(IndexOf(placement, "b"), 1);
  EXPECT_EQ(IndexOf(placement, "stranger"), std::nullopt);
  EXPECT_TRUE(Owns(placement, 1, 1));
  EXPECT_FALSE(Owns(placement, 1, 0));
  EXPECT_FALSE(Owns(placement, -1, 0));
  EXPECT_FALSE(Owns(placement, 0, 2)) << "there is no expert 2";
  EXPECT_THAT(OwnedBy(placement, "a"), ElementsAre(0, 1));
  EXPECT_THAT(OwnedBy(placement, "stranger"), IsEmpty());
  EXPECT_THAT(CountOwned(placement), ElementsAre(2, 1, 0));
}

}  // namespace
}  // namespace conclave::scheduler

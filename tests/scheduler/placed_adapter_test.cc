#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "scheduler/placement.h"

namespace conclave::scheduler {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

using Owners = std::vector<std::vector<int32_t>>;

// Two workers, a layer of four experts.
Placement Base() { return {.workers = {"a", "b"}, .owners = {{0}, {0}, {1}, {1}}}; }

PlacedAdapter Version(std::string digest, std::vector<ExpertId> replaced) {
  return {.digest = std::move(digest), .source = "adapters/x", .replaced = std::move(replaced)};
}

TEST(WithAdapter, GivesItsExpertsIdsOfTheirOwn) {
  const Placement placement = WithAdapter(Base(), Version("v1", {1, 3}));
  EXPECT_EQ(ProblemOf(placement), "");
  ASSERT_EQ(placement.adapters.size(), 1u);
  EXPECT_EQ(placement.adapters[0].first, 4u);
  EXPECT_EQ(EndOfIds(placement), 6u);
  EXPECT_EQ(placement.owners, Base().owners) << "the base's stay where they are";
}

TEST(WithAdapter, SpreadsExpertsByWhoOwnsTheFewestOfAdapters) {
  Placement placement = WithAdapter(Base(), Version("v1", {0, 1, 2}));
  EXPECT_EQ(placement.adapters[0].owners, (Owners{{0}, {1}, {0}}));
  placement = WithAdapter(std::move(placement), Version("v2", {0, 1}));
  EXPECT_EQ(placement.adapters[1].owners, (Owners{{1}, {0}}));
  EXPECT_THAT(CountOwned(placement), ElementsAre(5u, 4u));
  EXPECT_THAT(OwnedBy(placement, "b"), ElementsAre(2u, 3u, 5u, 7u));
}

TEST(WithAdapter, TakesTheFirstGapThatIsLongEnough) {
  Placement placement = WithAdapter(Base(), Version("v1", {0}));
  placement = WithAdapter(std::move(placement), Version("v2", {0, 1}));
  placement = WithAdapter(std::move(placement), Version("v3", {0}));
  placement = WithoutAdapter(std::move(placement), "v2");
  EXPECT_EQ(ProblemOf(placement), "");
  EXPECT_THAT(OwnersOf(placement, 5), IsEmpty()) << "a gap is nobody's";
  placement = WithAdapter(std::move(placement), Version("v4", {0, 1, 2}));
  EXPECT_EQ(FindAdapter(placement, "v4")->first, 8u) << "the gap holds two";
  placement = WithAdapter(std::move(placement), Version("v5", {2, 3}));
  EXPECT_EQ(FindAdapter(placement, "v5")->first, 5u);
  EXPECT_EQ(FindAdapter(placement, "v3")->first, 7u) << "others keep theirs";
  EXPECT_EQ(ProblemOf(placement), "");
}

TEST(WithAdapter, LeavesSharedExpertsToEveryWorker) {
  const Placement placement = WithAdapter(Base(), Version("v1", {3, 4}));
  const PlacedAdapter& adapter = placement.adapters[0];
  EXPECT_EQ(adapter.owners, (Owners{{0}, {}}));
  EXPECT_FALSE(IsShared(placement, adapter, 4));
  EXPECT_TRUE(IsShared(placement, adapter, 5));
  EXPECT_EQ(ProblemOf(placement), "");
}

TEST(WithoutAdapter, LeavesWhatWasBefore) {
  EXPECT_EQ(WithoutAdapter(WithAdapter(Base(), Version("v1", {0})), "v1"), Base());
  EXPECT_EQ(WithoutAdapter(Base(), "v1"), Base());
}

TEST(WithAdaptersOf, KeepsIdsAndOwnersAndGivesAwayWhatLostThem) {
  Placement from = Base();
  from.adapters = {Version("v1", {0, 1, 2, 4})};
  from.adapters[0].first = 9;
  from.adapters[0].owners = {{0}, {1}, {0, 1}, {}};
  const Placement to =
      WithAdaptersOf({.workers = {"b", "c"}, .owners = {{0}, {0}, {1}, {1}}}, from);
  EXPECT_EQ(ProblemOf(to), "");
  EXPECT_EQ(to.adapters[0].first, 9u);
  EXPECT_EQ(to.adapters[0].owners, (Owners{{1}, {0}, {0}, {}}));
  EXPECT_EQ(to.owners, (Owners{{0}, {0}, {1}, {1}}));
}

TEST(Recovered, GivesAwayTheExpertsOfAdaptersToo) {
  const Placement before = WithAdapter(Base(), Version("v1", {0, 1, 4}));
  const Placement after = *Recovered(before, {"b", "c"});
  EXPECT_EQ(ProblemOf(after), "");
  EXPECT_THAT(after.workers, ElementsAre("b", "c"));
  EXPECT_EQ(after.adapters[0].first, before.adapters[0].first);
  EXPECT_EQ(after.adapters[0].owners, (Owners{{1}, {0}, {}}));
}

TEST(Recovered, TakesInANewWorkerForALostExpertOfAnAdapter) {
  Placement before = {.workers = {"a", "b"}, .owners = {{0, 1}}};
  before = WithAdapter(std::move(before), Version("v1", {0}));
  const Placement after = *Recovered(before, {"b", "c"});
  EXPECT_THAT(after.workers, ElementsAre("b", "c"));
  EXPECT_EQ(after.owners, (Owners{{0}}));
  EXPECT_EQ(after.adapters[0].owners, (Owners{{0}}));
}

TEST(OwnersOf, FindsTheRunAnIdIsIn) {
  Placement placement = WithAdapter(Base(), Version("v1", {0, 1}));
  placement.adapters[0].first = 6;
  EXPECT_THAT(OwnersOf(placement, 3), ElementsAre(1));
  EXPECT_THAT(OwnersOf(placement, 4), IsEmpty());
  EXPECT_THAT(OwnersOf(placement, 5), IsEmpty());
  EXPECT_THAT(OwnersOf(placement, 6), ElementsAre(0));
  EXPECT_THAT(OwnersOf(placement, 7), ElementsAre(1));
  EXPECT_THAT(OwnersOf(placement, 8), IsEmpty());
  EXPECT_TRUE(Owns(placement, 1, 7));
  EXPECT_FALSE(Owns(placement, 0, 7));
}

TEST(ProblemOf, NamesTheAdapterThatIsWrong) {
  const auto problem = [](auto change) {
    Placement placement = WithAdapter(Base(), Version("v1", {0, 1}));
    placement = WithAdapter(std::move(placement), Version("v2", {2, 4}));
    change(placement.adapters);
    return ProblemOf(placement);
  };
  using Adapters = std::vector<PlacedAdapter>;
  EXPECT_EQ(problem([](Adapters&) {}), "");
  EXPECT_THAT(problem([](Adapters& all) { all[1].replaced = {}; }), HasSubstr("v2 has no experts"));
  EXPECT_THAT(problem([](Adapters& all) { all[1].replaced = {4, 2}; }), HasSubstr("out of order"));
  EXPECT_THAT(problem([](Adapters& all) {
                all[1].replaced = {2, 8};
              }),
              HasSubstr("v2 replaces an expert that there is not"));
  EXPECT_THAT(problem([](Adapters& all) { all[0].owners[1] = {}; }),
              HasSubstr("v1 expert 5 has no owner"));
  EXPECT_THAT(problem([](Adapters& all) { all[0].owners[1] = {2}; }),
              HasSubstr("v1 expert 5 is given to worker 2 of 2"));
  EXPECT_THAT(problem([](Adapters& all) { all[1].owners[1] = {0}; }),
              HasSubstr("v2 expert 7 has owners"));
  EXPECT_THAT(problem([](Adapters& all) { all[1].owners.pop_back(); }),
              HasSubstr("v2 lacks owners"));
  EXPECT_THAT(problem([](Adapters& all) { all[1].first = 5; }), HasSubstr("ids that another has"));
  EXPECT_THAT(problem([](Adapters& all) { all[0].first = 3; }), HasSubstr("ids that another has"));
  EXPECT_THAT(problem([](Adapters& all) { all[1].digest = "v1"; }),
              HasSubstr("v1 is placed twice"));
  EXPECT_THAT(problem([](Adapters& all) { all[1].source = ""; }), HasSubstr("a source of 0 bytes"));
  EXPECT_THAT(problem([](Adapters& all) { all[1].first = 0xffffffff; }),
              HasSubstr("4294967297 ids of experts"));
}

TEST(ProblemOf, HoldsTheLimitsOfAdapters) {
  Placement placement = WithAdapter(Base(), Version("v1", {0, 1}));
  placement = WithAdapter(std::move(placement), Version("v2", {2}));
  const PlacementLimits exact = {
      .experts = 7, .copies = 7, .adapters = 2, .digest = 2, .source = 10};
  EXPECT_EQ(ProblemOf(placement, exact), "");
  const auto problem = [&](auto change) {
    PlacementLimits limits = exact;
    change(limits);
    return ProblemOf(placement, limits);
  };
  EXPECT_THAT(problem([](auto& limits) { --limits.experts; }), HasSubstr("7 ids of experts"));
  EXPECT_THAT(problem([](auto& limits) { --limits.copies; }), HasSubstr("7 copies"));
  EXPECT_THAT(problem([](auto& limits) { --limits.adapters; }), HasSubstr("2 versions"));
  EXPECT_THAT(problem([](auto& limits) { --limits.digest; }), HasSubstr("a digest of 2 bytes"));
  EXPECT_THAT(problem([](auto& limits) { --limits.source; }), HasSubstr("a source of 10 bytes"));
}

}  // namespace
}  // namespace conclave::scheduler

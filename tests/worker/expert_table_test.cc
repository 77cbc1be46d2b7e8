#include "worker/experts/expert_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace conclave::worker {
namespace {

using scheduler::ExpertId;
using scheduler::PlacedAdapter;
using testing::ElementsAre;

// Two MoE layers of three slots: the base's experts are 0 to 5, its shared ones stand as 6 and 7.
constexpr int32_t kLayers = 2;
constexpr int32_t kSlots = 3;

PlacedAdapter Version(std::string digest, ExpertId first, std::vector<ExpertId> replaced) {
  return {.digest = std::move(digest), .first = first, .replaced = std::move(replaced)};
}

std::vector<ExpertId> ExpertsOf(const ExpertTable& table, AdapterIndex adapter, int32_t layer) {
  const std::vector<int32_t> slots = {0, 1, 2};
  std::vector<ExpertId> experts(slots.size());
  table.Resolve(adapter, layer, slots, experts);
  return experts;
}

TEST(ExpertTable, OfTheBaseIsItsOrder) {
  const ExpertTable table(kLayers, kSlots);
  EXPECT_THAT(ExpertsOf(table, ExpertTable::kBase, 0), ElementsAre(0, 1, 2));
  EXPECT_THAT(ExpertsOf(table, ExpertTable::kBase, 1), ElementsAre(3, 4, 5));
  EXPECT_EQ(table.Find(""), ExpertTable::kBase);
  EXPECT_EQ(table.Find("v1"), std::nullopt);
}

TEST(ExpertTable, AnAdapterHasTheBasesExpertsButWhereItReplacesThem) {
  ExpertTable table(kLayers, kSlots);
  table.SetAdapters(std::vector{Version("v1", 6, {1, 5}), Version("v2", 8, {1})});
  const AdapterIndex first = *table.Find("v1"), second = *table.Find("v2");
  EXPECT_THAT(ExpertsOf(table, first, 0), ElementsAre(0, 6, 2));
  EXPECT_THAT(ExpertsOf(table, first, 1), ElementsAre(3, 4, 7));
  EXPECT_THAT(ExpertsOf(table, second, 0), ElementsAre(0, 8, 2));
  EXPECT_THAT(ExpertsOf(table, second, 1), ElementsAre(3, 4, 5));
  EXPECT_THAT(ExpertsOf(table, ExpertTable::kBase, 0), ElementsAre(0, 1, 2));
}

TEST(ExpertTable, SharedExpertsStandBehindAllOthers) {
  ExpertTable table(kLayers, kSlots);
  table.SetAdapters(std::vector{Version("v1", 9, {2, 7})});
  const AdapterIndex adapter = *table.Find("v1");
  EXPECT_EQ(table.Shared(adapter, 0), std::nullopt) << "the base's own";
  EXPECT_EQ(table.Shared(adapter, 1), ExpertId{10});
  EXPECT_EQ(table.Shared(ExpertTable::kBase, 1), std::nullopt);
}

TEST(ExpertTable, AVersionKeepsItsIndexAsLongAsItIsThere) {
  ExpertTable table(kLayers, kSlots);
  table.SetAdapters(std::vector{Version("v1", 6, {0}), Version("v2", 7, {1})});
  const AdapterIndex second = *table.Find("v2");
  table.SetAdapters(std::vector{Version("v3", 6, {2}), Version("v2", 7, {1})});
  EXPECT_EQ(table.Find("v1"), std::nullopt);
  EXPECT_EQ(table.Find("v2"), second);
  EXPECT_THAT(ExpertsOf(table, second, 0), ElementsAre(0, 7, 2));
  EXPECT_THAT(ExpertsOf(table, *table.Find("v3"), 0), ElementsAre(0, 1, 6));
}

TEST(ExpertTable, AVersionWhoseExpertsMovedToOtherIdsIsFoundWithThem) {
  ExpertTable table(kLayers, kSlots);
  table.SetAdapters(std::vector{Version("v1", 6, {0})});
  table.SetAdapters(std::vector{Version("v1", 20, {0})});
  EXPECT_THAT(ExpertsOf(table, *table.Find("v1"), 0), ElementsAre(20, 1, 2));
}

TEST(ExpertTableDeath, ResolvesNothingForAVersionThatIsGone) {
  ExpertTable table(kLayers, kSlots);
  table.SetAdapters(std::vector{Version("v1", 6, {0})});
  const AdapterIndex gone = *table.Find("v1");
  table.SetAdapters({});
  EXPECT_DEATH(ExpertsOf(table, gone, 0), "");
}

}  // namespace
}  // namespace conclave::worker

// expert_cfg.json: what it may say, and what is refused of it.

#include "worker/model/adapter_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/worker/testing/bad_adapter.h"

namespace conclave::worker {
namespace {

using testing::BadAdapter;
using testing::Change;
using testing::ConfigOf;
using ::testing::HasSubstr;
using testing::Layers;
using testing::Replace;

std::string ManySlots() {
  std::string slots = "0";
  for (int i = 1; i < 1000000; ++i) slots += "," + std::to_string(i);
  return slots;
}

std::vector<BadAdapter> BadConfigs() {
  const Change none;
  return {
      {"NoConfig", none, Replace("expert_cfg.json", [](const std::string&) {}),
       "expert_cfg.json: No such file"},
      {"AnEmptyConfig", ConfigOf(""), none, "expert_cfg.json: is not JSON in UTF-8 at byte 1"},
      {"AConfigThatIsCut", ConfigOf("{\"experts\": {\"1\": [5, 3"), none, "is not JSON"},
      {"AConfigWithAZeroByte", ConfigOf(std::string("{\"experts\": {}}\0", 16)), none,
       "at byte 15: a zero byte"},
      {"AConfigWithMoreBehindIt", ConfigOf("{\"experts\": {\"1\": [5]}} {}"), none, "is not JSON"},
      {"AListForAConfig", ConfigOf("[1]"), none, "the document is an array, expected an object"},
      {"ANumberThatIsNone", ConfigOf("{\"experts\": {\"1\": [NaN]}}"), none, "is not JSON"},
      {"NoExperts", ConfigOf("{\"shared_experts\": true}"), none, "/experts is missing"},
      {"AListForExperts", ConfigOf("{\"experts\": [[5, 3]]}"), none,
       "/experts is an array, expected an object"},
      {"AnUnknownKey", ConfigOf("{\"experts\": {}, \"delta\": true}"), none,
       "unknown key \"delta\""},
      {"AKeyTwice", ConfigOf("{\"experts\": {}, \"experts\": {}}"), none,
       "key \"experts\" appears twice"},
      {"ALayerTwice", Layers("\"1\": [5, 3], \"2\": [0], \"1\": []"), none,
       "/experts/1 appears twice"},
      {"ALayerWithALeadingZero", Layers("\"01\": [5, 3]"), none, "/experts/01: no layer"},
      {"ALayerBelowZero", Layers("\"-1\": [5, 3]"), none, "/experts/-1: no layer"},
      {"ALayerThatIsAWord", Layers("\"last\": [5, 3]"), none, "/experts/last: no layer"},
      {"ALayerBeyondThirtyTwoBits", Layers("\"4294967297\": [5]"), none,
       "/experts/4294967297: no layer"},
      {"ALayerThatTheModelLacks", Layers("\"1\": [5, 3], \"2\": [0], \"3\": [1]"), none,
       "/experts/3: "},
      {"AnEmptyLayerThatTheModelLacks", Layers("\"1\": [5, 3], \"2\": [0], \"3\": []"), none,
       "has layers 0 to 2"},
      {"ALayerWithoutExperts", Layers("\"0\": [1], \"1\": [5, 3], \"2\": [0]"), none,
       "/experts/0: layer 0 of"},
      {"ASlotForALayer", Layers("\"1\": 5"), none, "/experts/1 is a number, expected an array"},
      {"ASlotThatTheModelLacks", Layers("\"1\": [5, 8], \"2\": [0]"), none,
       "/experts/1/1 is 8, layer 1 of"},
      {"ASlotBelowZero", Layers("\"1\": [5, -3]"), none, "/experts/1/1 is -3, no slot"},
      {"ASlotThatIsNoInteger", Layers("\"1\": [5.0]"), none, "/experts/1/0 is 5.0, no slot"},
      {"ASlotInQuotes", Layers("\"1\": [\"5\"]"), none,
       "/experts/1/0 is a string, expected a slot"},
      {"ASlotThatIsAList", Layers("\"1\": [[5]]"), none, "/experts/1/0 is an array"},
      {"ASlotThatIsTrue", Layers("\"1\": [true]"), none, "/experts/1/0 is a truth value"},
      {"ASlotTwice", Layers("\"1\": [5, 3, 5]"), none, "/experts/1/2: 5 is listed twice"},
      {"AHugeSlot", Layers("\"1\": [99999999999999999999999]"), none, "/experts/1/0 is"},
      {"ASlotOfSixtyFourBits", Layers("\"1\": [18446744073709551615]"), none,
       "/experts/1/0 is 18446744073709551615"},
      {"AMillionSlots", Layers("\"1\": [" + ManySlots() + "]"), none, "the limit is 1048576"},
      {"AFlagThatIsAWord", ConfigOf("{\"experts\": {}, \"shared_experts\": \"no\"}"), none,
       "/shared_experts is a string, expected true or false"},
      {"ChangedAttention", ConfigOf("{\"experts\": {\"1\": [5, 3]}, \"non_expert_modules\": true}"),
       none, "/non_expert_modules is true: such an adapter changes attention and gates"},
      {"SharedExpertsThatAreNotThere",
       ConfigOf("{\"experts\": {\"1\": [5, 3], \"2\": [0]}, \"shared_experts\": true}"), none,
       "/shared_experts needs tensor \"model.layers.1.mlp.shared_experts.gate_proj.weight\""},
      {"NothingReplaced", Layers("\"1\": [], \"2\": []"), none, "there is nothing to replace"},
      {"ADeepConfig", ConfigOf(std::string(100000, '[')), none, "the document is an array"},
  };
}

class BadConfig : public testing::BadAdapterTest {};

TEST_P(BadConfig, IsRefusedByWhatIsWrongInIt) { ExpectRefused(GetParam()); }

INSTANTIATE_TEST_SUITE_P(Adapters, BadConfig, ::testing::ValuesIn(BadConfigs()),
                         [](const auto& row) { return std::string(row.param.name); });

std::string Error(const std::string& text, const AdapterConfigLimits& limits = {}) {
  return std::string(ParseAdapterConfig(text, "cfg", limits).status().message());
}

TEST(AdapterConfig, SaysWhatIsReplaced) {
  const auto config = ParseAdapterConfig(
      R"({"non_expert_modules": true, "experts": {"26": [], "3": [63, 0, 17]}})", "cfg");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->experts, (std::map<int32_t, std::vector<int32_t>>{{3, {63, 0, 17}}, {26, {}}}));
  EXPECT_FALSE(config->shared_experts);
  EXPECT_TRUE(config->non_expert_modules);
}

TEST(AdapterConfig, IsWrittenAsItIsRead) {
  const AdapterConfig config = {.experts = {{1, {9, 2}}, {10, {}}}, .shared_experts = true};
  const std::string text = AdapterConfigText(config);
  EXPECT_EQ(text,
            "{\"experts\": {\"1\": [9, 2], \"10\": []}, \"shared_experts\": true, "
            "\"non_expert_modules\": false}\n");
  EXPECT_EQ(*ParseAdapterConfig(text, "cfg"), config);
}

TEST(AdapterConfig, KeepsItsLimitsToTheirEdges) {
  const std::string text = R"({"experts": {"7": [4, 1], "0": [3]}})";
  AdapterConfigLimits limits = {.bytes = text.size(), .layers = 8, .slots = 5, .entries = 3};
  EXPECT_EQ(Error(text, limits), "");
  limits.entries = 2;
  EXPECT_EQ(Error(text, limits), "cfg: /experts/0/0: more than 2 experts are listed");
  limits.slots = 4;
  EXPECT_EQ(Error(text, limits), "cfg: /experts/7/0 is 4, the highest slot there may be is 3");
  limits.layers = 7;
  EXPECT_THAT(Error(text, limits),
              HasSubstr("/experts/7: no layer, expected a number from 0 to 6"));
  limits.bytes = text.size() - 1;
  EXPECT_EQ(Error(text, limits), "cfg: has 36 bytes, the limit is 35");
}

}  // namespace
}  // namespace conclave::worker

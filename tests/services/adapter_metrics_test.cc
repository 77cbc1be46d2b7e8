#include "services/adapter_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

namespace conclave::services {
namespace {

using router::AdapterView;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

using Requests = std::unordered_map<std::string, router::Admission::Stats>;

std::vector<AdapterView> Named(const std::vector<std::string>& names) {
  std::vector<AdapterView> adapters;
  for (const std::string& name : names) adapters.push_back({.name = name});
  return adapters;
}

std::map<std::string, prometheus::MetricFamily> Families(const AdapterMetrics& metrics,
                                                         const Requests& requests = {}) {
  MetricsWriter writer;
  metrics.Write(writer, "model", requests);
  std::map<std::string, prometheus::MetricFamily> families;
  for (auto& family : writer.Take()) families[family.name] = family;
  return families;
}

std::map<std::string, double> Generated(const AdapterMetrics& metrics) {
  std::map<std::string, double> values;
  const auto families = Families(metrics);
  for (const auto& metric : families.at("conclave_adapter_generated_tokens_total").metric)
    values[metric.label.at(0).value] = metric.counter.value;
  return values;
}

TEST(AdapterMetrics, SaysNothingWhereThereIsNoAdapter) {
  AdapterMetrics metrics;
  metrics.Of("")->generated_tokens += 5;
  EXPECT_THAT(Families(metrics), IsEmpty());
}

TEST(AdapterMetrics, CountsEachAdapterAndTheBaseModel) {
  AdapterMetrics metrics;
  metrics.SetAdapters(Named({"a", "b"}));
  metrics.Of("a")->generated_tokens += 5;
  metrics.Of("")->generated_tokens += 7;
  EXPECT_THAT(Generated(metrics), ElementsAre(Pair("(base)", 7), Pair("(other)", 0), Pair("a", 5)));
}

TEST(AdapterMetrics, CountsThoseThatWaitForAChoiceByThemselves) {
  AdapterMetrics metrics;
  metrics.SetAdapters(Named({"a"}));
  ++metrics.Of("a")->auto_choices;
  const auto families = Families(metrics, {{"auto", {.waiting = 2}}});
  std::map<std::string, double> waiting;
  for (const auto& metric : families.at("conclave_adapter_requests_waiting").metric)
    waiting[metric.label.at(0).value] = metric.gauge.value;
  EXPECT_EQ(waiting["(auto)"], 2);
  double choices = 0;
  for (const auto& metric : families.at("conclave_adapter_auto_choices_total").metric)
    choices += metric.counter.value;
  EXPECT_EQ(choices, 1);
}

TEST(AdapterMetrics, LetsTheLastOfManyShareASeries) {
  AdapterMetrics metrics;
  metrics.Of("");
  for (size_t i = 0; i < AdapterMetrics::kNamesMax; ++i) metrics.Of("a" + std::to_string(i));
  metrics.Of("late")->generated_tokens += 3;
  metrics.Of("later")->generated_tokens += 4;
  const auto generated = Generated(metrics);
  EXPECT_EQ(generated.size(), AdapterMetrics::kNamesMax + 2);
  EXPECT_EQ(generated.at("(other)"), 7);
  router::Admission::Stats two{.waiting = 2, .running = 1};
  const auto families = Families(metrics, {{"late", two}, {"later", two}});
  for (const auto& metric : families.at("conclave_adapter_requests_waiting").metric)
    EXPECT_EQ(metric.gauge.value, metric.label.at(0).value == "(other)" ? 4 : 0);
}

TEST(AdapterMetrics, ForgetsAnAdapterThatIsGoneAndHasNoRequests) {
  AdapterMetrics metrics;
  metrics.SetAdapters(Named({"a", "b"}));
  const auto held = metrics.Of("a");
  metrics.Of("b");
  metrics.SetAdapters({});
  held->generated_tokens += 1;
  EXPECT_THAT(Generated(metrics), ElementsAre(Pair("(other)", 0), Pair("a", 1)));
}

TEST(AdapterMetrics, NamesThoseThatRunAndWaitAsVllmDoes) {
  AdapterMetrics metrics;
  metrics.SetAdapters(Named({"a", "b", "c"}));
  for (const char* const name : {"a", "b", "c"}) metrics.Of(name);
  const auto families = Families(
      metrics, {{"a", {.running = 1}}, {"b", {.waiting = 1, .running = 2}}, {"", {.running = 1}}});
  std::map<std::string, std::string> labels;
  for (const auto& label : families.at("vllm:lora_requests_info").metric.at(0).label)
    labels[label.name] = label.value;
  EXPECT_EQ(labels["running_lora_adapters"], "a,b");
  EXPECT_EQ(labels["waiting_lora_adapters"], "b");
  EXPECT_EQ(labels["max_lora"], "3");
}

}  // namespace
}  // namespace conclave::services

#include "services/router_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

namespace conclave::services {
namespace {

using scheduler::FinishReason;
using ::testing::ElementsAre;
using ::testing::Pair;

// By finished_reason.
std::map<std::string, double> RequestsEnded(const RouterMetrics& metrics) {
  MetricsWriter writer;
  metrics.Write(writer, "model");
  std::map<std::string, double> ended;
  for (const auto& family : writer.Take()) {
    if (family.name != "vllm:request_success_total") continue;
    for (const auto& metric : family.metric) {
      for (const auto& label : metric.label) {
        if (label.name == "finished_reason") ended[label.value] = metric.counter.value;
      }
    }
  }
  return ended;
}

TEST(RouterMetrics, CountsEveryEndUnderOneOfVllmsReasons) {
  RouterMetrics metrics;
  const auto finished = [&](FinishReason reason) {
    metrics.Ended(absl::OkStatus(), router::Finish{.reason = reason}, scheduler::Micros(1));
  };
  finished(FinishReason::kStop);
  finished(FinishReason::kLength);
  finished(FinishReason::kScored);
  metrics.Ended(absl::CancelledError(), std::nullopt, scheduler::Micros(1));
  metrics.Ended(absl::DeadlineExceededError(""), std::nullopt, scheduler::Micros(1));
  metrics.Ended(absl::UnavailableError(""), std::nullopt, scheduler::Micros(1));
  EXPECT_THAT(RequestsEnded(metrics),
              ElementsAre(Pair("abort", 2), Pair("error", 1), Pair("length", 2), Pair("stop", 1)));
}

}  // namespace
}  // namespace conclave::services

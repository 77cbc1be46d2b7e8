#include <nlohmann/json.hpp>

#include "loadtest/figures.h"
#include "loadtest/report.h"

namespace conclave::loadtest {
namespace {

using Json = nlohmann::json;

Json Latencies(const Histogram& histogram) {
  return {{"count", histogram.count()},
          {"mean", Milliseconds(histogram.mean())},
          {"min", Milliseconds(histogram.min())},
          {"p50", Milliseconds(histogram.Percentile(50))},
          {"p90", Milliseconds(histogram.Percentile(90))},
          {"p99", Milliseconds(histogram.Percentile(99))},
          {"p99_9", Milliseconds(histogram.Percentile(99.9))},
          {"max", Milliseconds(histogram.max())}};
}

Json Goodput(const Measures& measures, std::chrono::duration<double> time) {
  return {{"good", measures.good},
          {"judged", measures.judged},
          {"share", GoodShare(measures)},
          {"requests_per_s", PerSecond(measures.good, time)}};
}

// What is told of a part of the requests; `sent`: what the first count is.
Json Part(const Measures& measures, bool judged, const char* sent = "sent") {
  Json json = {{sent, measures.sent},
               {"unsent", measures.unsent},
               {"completed", measures.completed},
               {"cancelled", measures.cancelled},
               {"failed", measures.failed},
               {"input_tokens", measures.input_tokens},
               {"output_tokens", measures.output_tokens},
               {"ttft_ms", Latencies(measures.ttft)},
               {"itl_ms", Latencies(measures.itl)},
               {"e2e_ms", Latencies(measures.e2e)}};
  if (judged) json["good_share"] = GoodShare(measures);
  return json;
}

Json Adapters(const Setting& setting, const Results& results) {
  Json json = Json::object();
  for (const auto& [name, measures] : results.adapters) {
    Json& part = json[name] = Part(measures, setting.objectives.any());
    const auto weight = setting.weights.find(name);
    if (weight != setting.weights.end()) part["weight"] = weight->second;
  }
  return json;
}

Json Phases(const Setting& setting, const Results& results) {
  Json json = Json::array();
  for (const PhaseResult& phase : results.phases) {
    Json part = Part(phase.measures, setting.objectives.any());
    part["name"] = phase.name;
    part["begin_s"] = phase.begin;
    part["seconds"] = phase.seconds;
    json.push_back(std::move(part));
  }
  return json;
}

Json Actions(const Setting& setting, const Results& results) {
  Json json = Json::array();
  for (const ActionResult& action : results.actions) {
    Json part = Part(action.measures, setting.objectives.any(), "due");
    part["name"] = action.name;
    part["command"] = action.command;
    part["at_s"] = action.at;
    part["begin_s"] = action.begin ? Json(*action.begin) : Json(nullptr);
    part["end_s"] = action.end ? Json(*action.end) : Json(nullptr);
    part["ok"] = action.ok;
    part["outcome"] = action.outcome;
    part["output"] = action.output;
    json.push_back(std::move(part));
  }
  return json;
}

void AddParts(const Setting& setting, const Results& results, Json* json) {
  const Objectives& want = setting.objectives;
  if (want.any()) {
    (*json)["goodput"] = Goodput(results, results.total);
    (*json)["objectives_ms"] = {
        {"ttft", want.ttft_ms}, {"itl", want.itl_ms}, {"tpot", want.tpot_ms}, {"e2e", want.e2e_ms}};
  }
  if (!AdapterRows(results).empty()) {
    const Fairness fairness = FairnessOf(setting, results);
    (*json)["adapters"] = Adapters(setting, results);
    (*json)["jain"]["tokens"] = fairness.tokens;
    if (!setting.weights.empty()) {
      (*json)["jain"]["tokens_per_weight"] = fairness.tokens_per_weight;
    }
  }
  if (!results.phases.empty()) (*json)["phases"] = Phases(setting, results);
  if (!results.actions.empty()) (*json)["actions"] = Actions(setting, results);
}

}  // namespace

Json ToJson(const Setting& setting, const Results& results) {
  Json mismatches = Json::array();
  for (const Mismatch& mismatch : results.mismatches) {
    mismatches.push_back({{"line", mismatch.line}, {"what", mismatch.what}});
  }
  const uint64_t tokens = results.input_tokens + results.output_tokens;
  Json json = {{"server", setting.server},
               {"seed", setting.seed},
               {"arrivals", setting.arrivals},
               {"mode", setting.open ? "open" : "closed"},
               {"requests",
                {{"sent", results.sent},
                 {"completed", results.completed},
                 {"cancelled", results.cancelled},
                 {"incomplete", results.incomplete},
                 {"failed", results.failed},
                 {"unsent", results.unsent},
                 {"cut", results.cut}}},
               {"status", results.by_code},
               {"messages", results.first_message},
               {"rate",
                {{"intended", setting.rate > 0 ? Json(setting.rate) : Json(nullptr)},
                 {"offered", OfferedRate(results)},
                 {"achieved", AchievedRate(results)}}},
               {"duration_s", results.total.count()},
               {"cpu_s", results.cpu.count()},
               {"tokens", {{"input", results.input_tokens}, {"output", results.output_tokens}}},
               {"throughput",
                {{"requests_per_s", PerSecond(results.completed, results.total)},
                 {"output_tokens_per_s", PerSecond(results.output_tokens, results.total)},
                 {"total_tokens_per_s", PerSecond(tokens, results.total)}}},
               {"ttft_ms", Latencies(results.ttft)},
               {"tpot_ms", Latencies(results.tpot)},
               {"itl_ms", Latencies(results.itl)},
               {"e2e_ms", Latencies(results.e2e)},
               {"refusal_ms", Latencies(results.refusal)},
               {"broken_ms", Latencies(results.broken)},
               {"lag_ms", Latencies(results.lag)},
               {"checked", results.checked},
               {"mismatches", {{"count", results.mismatched}, {"first", mismatches}}},
               {"slow_readers", results.slow_readers},
               {"slowly_read", results.slowly_read}};
  AddParts(setting, results, &json);
  if (!setting.open) json["concurrency"] = setting.concurrency;
  return json;
}

}  // namespace conclave::loadtest

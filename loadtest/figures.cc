#include "loadtest/figures.h"

#include <cmath>

#include "absl/strings/str_format.h"

namespace conclave::loadtest {

double Milliseconds(Histogram::Nanos value) {
  return std::round(std::chrono::duration<double, std::micro>(value).count()) / 1000;
}

double PerSecond(uint64_t count, std::chrono::duration<double> time) {
  return time.count() > 0 ? static_cast<double>(count) / time.count() : 0;
}

double AchievedRate(const Results& results) { return PerSecond(results.sent, results.sending); }

double OfferedRate(const Results& results) {
  return PerSecond(results.sent + results.unsent, results.sending);
}

double GoodShare(const Measures& measures) {
  if (measures.judged == 0) return 0;
  return static_cast<double>(measures.good) / static_cast<double>(measures.judged);
}

Rows AdapterRows(const Results& results) {
  Rows rows;
  if (results.adapters.size() == 1 && results.adapters.begin()->first.empty()) return rows;
  for (const auto& [name, measures] : results.adapters) {
    rows.emplace_back(name.empty() ? "(none named)" : name, &measures);
  }
  return rows;
}

Rows PhaseRows(const Results& results) {
  Rows rows;
  for (const PhaseResult& phase : results.phases) rows.emplace_back(phase.name, &phase.measures);
  return rows;
}

Rows ActionRows(const Results& results) {
  Rows rows;
  for (const ActionResult& action : results.actions) {
    rows.emplace_back(action.name, &action.measures);
  }
  return rows;
}

Fairness FairnessOf(const Setting& setting, const Results& results) {
  std::vector<double> tokens, per_weight;
  for (const auto& [name, measures] : results.adapters) {
    const auto served = static_cast<double>(measures.served_tokens());
    tokens.push_back(served);
    const auto weight = setting.weights.find(name);
    if (weight != setting.weights.end()) per_weight.push_back(served / weight->second);
  }
  // Whom nobody asked for in the whole run was served nothing.
  for (const auto& [name, weight] : setting.weights) {
    if (results.adapters.contains(name)) continue;
    tokens.push_back(0);
    per_weight.push_back(0);
  }
  return {JainIndex(tokens), JainIndex(per_weight)};
}

std::string Describe(const ActionResult& action) {
  if (!action.begin) return "never begun";
  if (!action.end) return absl::StrFormat("begun at %.3f s, not ended", *action.begin);
  return absl::StrFormat("%.3f s to %.3f s, %s", *action.begin, *action.end, action.outcome);
}

}  // namespace conclave::loadtest

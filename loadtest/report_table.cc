#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "loadtest/figures.h"
#include "loadtest/report.h"

namespace conclave::loadtest {
namespace {

std::string Heading(const std::string& text, char fill) {
  constexpr size_t kWidth = 50;
  const size_t left = (kWidth - text.size()) / 2;
  const size_t right = kWidth - text.size() - left;
  return std::string(left, fill) + text + std::string(right, fill) + "\n";
}

std::string Count(const std::string& name, uint64_t value) {
  return absl::StrFormat("%-40s %-10d\n", name + ":", value);
}

std::string Number(const std::string& name, double value) {
  return absl::StrFormat("%-40s %-10.2f\n", name + ":", value);
}

// Small rates keep three digits.
std::string Rate(const std::string& name, double per_second) {
  if (per_second == 0 || per_second >= 1) return Number(name, per_second);
  return absl::StrFormat("%-40s %-10.3g\n", name + ":", per_second);
}

std::string Section(const std::string& title, const std::string& name, const Histogram& values) {
  if (values.count() == 0) return "";
  return Heading(title, '-') + Number("Mean " + name + " (ms)", Milliseconds(values.mean())) +
         Number("Median " + name + " (ms)", Milliseconds(values.Percentile(50))) +
         Number("P90 " + name + " (ms)", Milliseconds(values.Percentile(90))) +
         Number("P99 " + name + " (ms)", Milliseconds(values.Percentile(99))) +
         Number("P99.9 " + name + " (ms)", Milliseconds(values.Percentile(99.9))) +
         Number("Max " + name + " (ms)", Milliseconds(values.max()));
}

std::string Codes(const Results& results) {
  std::string text = Heading("Status codes", '-');
  for (const auto& [code, count] : results.by_code) {
    text += Count(code, count);
    const auto message = results.first_message.find(code);
    if (message != results.first_message.end()) text += "    " + message->second + "\n";
  }
  if (results.slowly_read > 0) text += Count("read slowly as asked", results.slowly_read);
  if (results.cut > 0) text += Count("cut to the longest allowed", results.cut);
  if (results.cancelled > 0) text += Count("cancelled as asked", results.cancelled);
  return text;
}

std::string Warnings(const Results& results) {
  std::string text;
  if (results.sent + results.unsent == 0) text += "NO REQUEST was due in this time\n";
  if (results.unsent > 0) {
    text += Count("NOT SENT, too many in flight", results.unsent);
  }
  if (results.incomplete > 0) {
    text += Count("INCOMPLETE: OK, no finish reason", results.incomplete);
  }
  if (results.checked > 0) text += Count("Checked against expectations", results.checked);
  if (results.mismatched > 0) text += Count("MISMATCHES", results.mismatched);
  for (const Mismatch& mismatch : results.mismatches) {
    text += absl::StrFormat("    line %d: %s\n", mismatch.line, mismatch.what);
  }
  return text;
}

std::string Goodput(const Setting& setting, const Results& results) {
  if (!setting.objectives.any()) return "";
  return Number("Goodput (% of requests)", 100 * GoodShare(results)) +
         Rate("Goodput (req/s)", PerSecond(results.good, results.total));
}

// A row per part: counts, then medians and 99th percentiles in milliseconds.
// `sent`: what the first count is.
std::string Parts(const std::string& title, const Rows& rows, const std::string& sent = "sent") {
  if (rows.empty()) return "";
  std::string text = Heading(title, '-');
  text += absl::StrFormat("%-20s %7s %7s %7s %9s %18s %18s\n", "", sent, "ok", "failed", "tokens",
                          "TTFT p50/p99 ms", "ITL p50/p99 ms");
  for (const auto& [name, measures] : rows) {
    const auto pair = [](const Histogram& values) -> std::string {
      if (values.count() == 0) return "-";
      return absl::StrFormat("%.1f/%.1f", Milliseconds(values.Percentile(50)),
                             Milliseconds(values.Percentile(99)));
    };
    text += absl::StrFormat("%-20s %7d %7d %7d %9d %18s %18s\n", absl::Utf8SafeCHexEscape(name),
                            measures->sent, measures->completed, measures->failed,
                            measures->output_tokens, pair(measures->ttft), pair(measures->itl));
  }
  return text;
}

std::string Jain(const Setting& setting, const Results& results) {
  if (AdapterRows(results).empty()) return "";
  const Fairness fairness = FairnessOf(setting, results);
  const auto index = [](const std::string& name, double value) {
    return absl::StrFormat("%-40s %-10.4f\n", name + ":", value);
  };
  std::string text = index("Jain index of served tokens", fairness.tokens);
  if (setting.weights.empty()) return text;
  return text + index("Jain index of served tokens per weight", fairness.tokens_per_weight);
}

std::string Actions(const Results& results) {
  std::string text;
  for (const ActionResult& action : results.actions) {
    text +=
        absl::StrFormat("%s%s: %s\n", action.ok ? "" : "FAILED ", action.name, Describe(action));
    if (!action.ok && !action.output.empty()) text += action.output;
  }
  return text;
}

}  // namespace

std::string ToTable(const Setting& setting, const Results& results) {
  const uint64_t tokens = results.input_tokens + results.output_tokens;
  std::string text = Heading(" Serving Benchmark Result ", '=');
  text += Count("Successful requests", results.completed);
  text += Count("Failed requests", results.failed);
  if (!setting.arrivals.empty()) text += "Arrivals: " + setting.arrivals + "\n";
  if (setting.open) {
    if (setting.rate > 0) text += Rate("Request rate configured (req/s)", setting.rate);
    text += Rate("Request rate achieved (req/s)", AchievedRate(results));
  } else {
    text += Count("Maximum request concurrency", setting.concurrency);
  }
  text += Number("Benchmark duration (s)", results.total.count());
  text += Count("Total input tokens", results.input_tokens);
  text += Count("Total generated tokens", results.output_tokens);
  text += Rate("Request throughput (req/s)", PerSecond(results.completed, results.total));
  text +=
      Number("Output token throughput (tok/s)", PerSecond(results.output_tokens, results.total));
  text += Number("Total Token throughput (tok/s)", PerSecond(tokens, results.total));
  text += Goodput(setting, results) + Warnings(results) + Codes(results);
  text += Section("Time to First Token", "TTFT", results.ttft);
  text += Section("Time per Output Token (excl. 1st token)", "TPOT", results.tpot);
  text += Section("Inter-token Latency", "ITL", results.itl);
  text += Section("End-to-end Latency", "E2EL", results.e2e);
  text += Section("Refusal Latency", "refusal", results.refusal);
  text += Section("Wait That Ended in an Error", "broken", results.broken);
  text += Section("Sent later than meant", "lag", results.lag);
  text += Parts("Adapters", AdapterRows(results)) + Jain(setting, results);
  text += Parts("Phases", PhaseRows(results));
  text += Parts("During actions", ActionRows(results), "due") + Actions(results);
  return text + std::string(50, '=') + "\n";
}

}  // namespace conclave::loadtest

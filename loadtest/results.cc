#include "loadtest/results.h"

#include <cmath>
#include <initializer_list>
#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"

namespace conclave::loadtest {
namespace {

using Json = nlohmann::json;
using Seconds = std::chrono::duration<double>;

double Milliseconds(Histogram::Nanos value) {
  return std::round(std::chrono::duration<double, std::micro>(value).count()) / 1000;
}

// 0 rather than nonsense when nothing took any time.
double PerSecond(uint64_t count, Seconds time) {
  return time.count() > 0 ? static_cast<double>(count) / time.count() : 0;
}

double AchievedRate(const Results& results) { return PerSecond(results.sent, results.sending); }

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

}  // namespace

Json ToJson(const Setting& setting, const Results& results) {
  Json mismatches = Json::array();
  for (const Mismatch& mismatch : results.mismatches) {
    mismatches.push_back({{"line", mismatch.line}, {"what", mismatch.what}});
  }
  const uint64_t tokens = results.input_tokens + results.output_tokens;
  Json json = {{"server", setting.server},
               {"seed", setting.seed},
               {"mode", setting.rate > 0 ? "open" : "closed"},
               {"requests",
                {{"sent", results.sent},
                 {"completed", results.completed},
                 {"cancelled", results.cancelled},
                 {"incomplete", results.incomplete},
                 {"unsent", results.unsent}}},
               {"status", results.by_code},
               {"messages", results.first_message},
               {"rate",
                {{"intended", setting.rate > 0 ? Json(setting.rate) : Json(nullptr)},
                 {"achieved", AchievedRate(results)}}},
               {"duration_s", results.total.count()},
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
               {"lag_ms", Latencies(results.lag)},
               {"checked", results.checked},
               {"mismatches", {{"count", results.mismatched}, {"first", mismatches}}},
               {"slow_readers", results.slow_readers}};
  if (setting.rate <= 0) json["concurrency"] = setting.concurrency;
  return json;
}

std::string ToTable(const Setting& setting, const Results& results) {
  const uint64_t tokens = results.input_tokens + results.output_tokens;
  std::string text = Heading(" Serving Benchmark Result ", '=');
  text += Count("Successful requests", results.completed);
  text += Count("Failed requests", results.sent - results.completed - results.cancelled);
  if (setting.rate > 0) {
    text += Rate("Request rate configured (req/s)", setting.rate);
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
  text += Warnings(results) + Codes(results);
  text += Section("Time to First Token", "TTFT", results.ttft);
  text += Section("Time per Output Token (excl. 1st token)", "TPOT", results.tpot);
  text += Section("Inter-token Latency", "ITL", results.itl);
  text += Section("End-to-end Latency", "E2EL", results.e2e);
  text += Section("Refusal Latency", "refusal", results.refusal);
  text += Section("Sent later than meant", "lag", results.lag);
  return text + std::string(50, '=') + "\n";
}

}  // namespace conclave::loadtest

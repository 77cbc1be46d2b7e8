#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "loadtest/figures.h"
#include "loadtest/report.h"
#include "loadtest/svg_plot.h"

namespace conclave::loadtest {
namespace {

using Seconds = std::chrono::duration<double>;

constexpr char kStyle[] =
    "body{font:14px/1.4 sans-serif;margin:2em auto;max-width:800px;color:#222}"
    "table{border-collapse:collapse;margin:1em 0}"
    "td,th{padding:2px 9px;text-align:right;border-bottom:1px solid #ddd}"
    "td:first-child,th:first-child{text-align:left}"
    "svg{width:100%;height:auto;margin:.7em 0}svg text{font-size:11px}"
    "polyline{fill:none;stroke-width:1.5;stroke-linecap:round}.grid{stroke:#eee}.axis{stroke:#444}"
    ".mark{stroke:#888;stroke-dasharray:4 3}.band{fill:#f5a623;fill-opacity:.25}"
    "pre{background:#f4f4f4;padding:.5em;overflow:auto}.bad{color:#b00}";

std::string Cell(const std::string& text) { return "<td>" + EscapeMarkup(text) + "</td>"; }

std::string Row(const std::vector<std::string>& cells) {
  std::string row = "<tr>";
  for (const std::string& cell : cells) row += Cell(cell);
  return row + "</tr>\n";
}

std::string Head(const std::vector<std::string>& cells) {
  std::string row = "<tr>";
  for (const std::string& cell : cells) row += "<th>" + EscapeMarkup(cell) + "</th>";
  return row + "</tr>\n";
}

std::string Number(double value) { return absl::StrFormat("%.2f", value); }

std::string LatencyRow(const std::string& name, const Histogram& values) {
  const auto at = [&](double percent) { return Number(Milliseconds(values.Percentile(percent))); };
  return Row({name, absl::StrFormat("%d", values.count()), Number(Milliseconds(values.mean())),
              at(50), at(90), at(99), at(99.9), Number(Milliseconds(values.max()))});
}

std::string Summary(const Setting& setting, const Results& results) {
  std::string html = "<table>\n";
  const auto count = [](uint64_t value) { return absl::StrFormat("%d", value); };
  html += Row({"Server", setting.server}) + Row({"Arrivals", setting.arrivals});
  html += Row({"Duration (s)", Number(results.total.count())});
  html +=
      Row({"Requests sent", count(results.sent)}) + Row({"completed", count(results.completed)});
  html += Row({"failed", count(results.failed)}) + Row({"cancelled", count(results.cancelled)});
  html += Row({"not sent", count(results.unsent)}) + Row({"mismatches", count(results.mismatched)});
  html += Row({"Offered (req/s)", Number(OfferedRate(results))});
  html += Row({"Served (req/s)", Number(PerSecond(results.completed, results.total))});
  html += Row({"Output (tok/s)", Number(PerSecond(results.output_tokens, results.total))});
  if (setting.objectives.any()) {
    html += Row({"Goodput (% of requests)", Number(100 * GoodShare(results))});
    html += Row({"Goodput (req/s)", Number(PerSecond(results.good, results.total))});
  }
  for (const auto& [code, number] : results.by_code) html += Row({"Status " + code, count(number)});
  html += "</table>\n<table>\n";
  html += Head({"ms", "count", "mean", "p50", "p90", "p99", "p99.9", "max"});
  html += LatencyRow("TTFT", results.ttft) + LatencyRow("TPOT", results.tpot);
  html += LatencyRow("ITL", results.itl) + LatencyRow("End to end", results.e2e);
  html += LatencyRow("Refusal", results.refusal) + LatencyRow("Broken", results.broken);
  html += LatencyRow("Sent late", results.lag);
  return html + "</table>\n";
}

// `sent`: what the first count is.
std::string Parts(const Setting& setting, const std::string& title, const Rows& rows,
                  const std::string& sent = "sent") {
  if (rows.empty()) return "";
  std::string html = "<h2>" + title + "</h2>\n<table>\n";
  std::vector<std::string> heads = {"",         sent,       "ok",      "failed",  "tokens",
                                    "TTFT p50", "TTFT p99", "ITL p50", "ITL p99", "e2e p99"};
  if (setting.objectives.any()) heads.push_back("good %");
  html += Head(heads);
  for (const auto& [name, m] : rows) {
    const auto at = [](const Histogram& values, double percent) {
      return Number(Milliseconds(values.Percentile(percent)));
    };
    const auto count = [](uint64_t value) { return absl::StrFormat("%d", value); };
    std::vector<std::string> cells = {name,
                                      count(m->sent),
                                      count(m->completed),
                                      count(m->failed),
                                      count(m->output_tokens),
                                      at(m->ttft, 50),
                                      at(m->ttft, 99),
                                      at(m->itl, 50),
                                      at(m->itl, 99),
                                      at(m->e2e, 99)};
    if (setting.objectives.any()) cells.push_back(Number(100 * GoodShare(*m)));
    html += Row(cells);
  }
  return html + "</table>\n";
}

std::string Jain(const Setting& setting, const Results& results) {
  if (AdapterRows(results).empty()) return "";
  const Fairness fairness = FairnessOf(setting, results);
  std::string html = absl::StrFormat("<p>Jain index of served tokens: %.4f", fairness.tokens);
  if (!setting.weights.empty()) {
    html += absl::StrFormat("; per weight: %.4f", fairness.tokens_per_weight);
  }
  return html + "</p>\n";
}

std::string Actions(const Results& results) {
  std::string html;
  for (const ActionResult& action : results.actions) {
    html +=
        absl::StrFormat("<p%s>%s: %s</p>\n<pre>%s\n%s</pre>\n", action.ok ? "" : " class=\"bad\"",
                        EscapeMarkup(action.name), EscapeMarkup(Describe(action)),
                        EscapeMarkup(action.command), EscapeMarkup(action.output));
  }
  return html;
}

// A plot over the time of the run, with its phases and actions.
Plot OverTime(const Results& results, std::string title, std::string y_label) {
  Plot plot = {.title = std::move(title),
               .x_label = "seconds since the start",
               .y_label = std::move(y_label)};
  plot.x_least = 0;
  plot.x_most = results.total.count();
  for (const PhaseResult& phase : results.phases) plot.marks.push_back({phase.name, phase.begin});
  for (const ActionResult& action : results.actions) {
    if (!action.begin) continue;
    plot.bands.push_back({action.name, *action.begin, action.end.value_or(results.total.count())});
  }
  return plot;
}

// `value` of each window, at the window's middle; no number is a gap.
template <typename Value>
Plot::Series Series(const Results& results, std::string name, Value value) {
  Plot::Series series = {.name = std::move(name)};
  const double width = Seconds(results.timeline.width()).count();
  double middle = width / 2;
  for (const Measures& window : results.timeline.windows()) {
    const double y = value(window);
    series.points.emplace_back(middle, y);
    middle += width;
  }
  return series;
}

std::string LatencyOverTime(const Results& results, const std::string& name,
                            Histogram Measures::*which) {
  Plot plot = OverTime(results, name + " over time", "ms");
  for (const double percent : {50.0, 90.0, 99.0}) {
    plot.series.push_back(
        Series(results, absl::StrFormat("p%g", percent), [&](const Measures& window) {
          const Histogram& values = window.*which;
          return values.count() == 0 ? std::nan("") : Milliseconds(values.Percentile(percent));
        }));
  }
  return ToSvg(plot);
}

std::string RatesOverTime(const Results& results) {
  const double width = Seconds(results.timeline.width()).count();
  const auto rate = [&](uint64_t count) { return static_cast<double>(count) / width; };
  Plot plot = OverTime(results, "Requests offered and served", "requests per second");
  plot.series = {
      Series(results, "offered", [&](const Measures& w) { return rate(w.sent + w.unsent); }),
      Series(results, "served", [&](const Measures& w) { return rate(w.completed); }),
      Series(results, "failed", [&](const Measures& w) { return rate(w.failed + w.unsent); })};
  return ToSvg(plot);
}

std::string TokensOverTime(const Results& results) {
  const double width = Seconds(results.timeline.width()).count();
  Plot plot = OverTime(results, "Tokens received", "tokens per second");
  plot.series = {Series(results, "tokens", [&](const Measures& w) {
    return static_cast<double>(w.output_tokens) / width;
  })};
  return ToSvg(plot);
}

Plot::Series Distribution(const std::string& name, const Histogram& values) {
  Plot::Series series = {.name = name};
  if (values.count() == 0) return series;
  constexpr int kPoints = 200;
  constexpr double kLeastMs = 1e-3;  // what the axis can show
  for (int i = 0; i <= kPoints; ++i) {
    const double percent = 100.0 * i / kPoints;
    series.points.emplace_back(std::max(kLeastMs, Milliseconds(values.Percentile(percent))),
                               percent);
  }
  return series;
}

std::string Distributions(const Results& results) {
  Plot plot = {
      .title = "Distribution of waits", .x_label = "ms", .y_label = "% at most", .log_x = true};
  plot.series = {Distribution("TTFT", results.ttft), Distribution("ITL", results.itl),
                 Distribution("end to end", results.e2e)};
  return ToSvg(plot);
}

}  // namespace

std::string ToHtml(const Setting& setting, const Results& results) {
  std::string html = "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">";
  html += "<title>conclave-loadtest</title><style>";
  html += kStyle;
  html += "</style></head><body>\n<h1>conclave-loadtest</h1>\n";
  html += Summary(setting, results) + RatesOverTime(results) + TokensOverTime(results);
  html += LatencyOverTime(results, "Time to first token", &Measures::ttft);
  html += LatencyOverTime(results, "Inter-token latency", &Measures::itl);
  html += LatencyOverTime(results, "End-to-end latency", &Measures::e2e);
  html += Distributions(results);
  html += Parts(setting, "Adapters", AdapterRows(results)) + Jain(setting, results);
  html += Parts(setting, "Phases", PhaseRows(results));
  html += Parts(setting, "During actions", ActionRows(results), "due") + Actions(results);
  return html + "</body></html>\n";
}

}  // namespace conclave::loadtest

#include "loadtest/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "loadtest/svg_plot.h"

namespace conclave::loadtest {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

Measures Some(uint64_t sent, uint64_t tokens, int ttft_ms) {
  Measures measures = {
      .sent = sent, .completed = sent, .judged = sent, .good = sent / 2, .output_tokens = tokens};
  measures.ttft.Record(milliseconds(ttft_ms));
  measures.itl.Record(milliseconds(1));
  return measures;
}

Results ARun() {
  Results results;
  static_cast<Measures&>(results) = Some(8, 40, 7);
  results.adapters = {{"a", Some(6, 30, 5)}, {"<b>", Some(2, 10, 9)}};
  results.broken.Record(milliseconds(11));
  results.phases = {{.name = "calm & quiet", .begin = 0, .seconds = 2, .measures = Some(3, 1, 2)},
                    {.name = "flood", .begin = 2, .seconds = 2, .measures = Some(5, 39, 8)}};
  results.actions = {{.name = "add",
                      .command = "conclave adapters add",
                      .at = 1,
                      .begin = 1.001,
                      .end = 1.5,
                      .ok = true,
                      .outcome = "exit code 0",
                      .measures = Some(1, 2, 3)},
                     {.name = "kill",
                      .command = "kill 1",
                      .at = 2,
                      .begin = 2,
                      .end = 2.25,
                      .outcome = "exit code 1",
                      .output = "no </pre> such\n"},
                     {.name = "late", .command = "true", .at = 3}};
  results.timeline.At(seconds(0)) = Some(3, 1, 2);
  results.timeline.At(seconds(3)) = Some(5, 39, 8);
  results.sending = seconds(4);
  results.total = seconds(4);
  return results;
}

const Setting kSetting = {.server = "s",
                          .open = true,
                          .arrivals = "2 phases, Poisson",
                          .weights = {{"a", 0.75}, {"<b>", 0.25}},
                          .objectives = {.ttft_ms = 10}};

TEST(Report, JsonHasThePartsOfTheRun) {
  const nlohmann::json json = ToJson(kSetting, ARun());
  EXPECT_EQ(json["goodput"]["good"], 4);
  EXPECT_EQ(json["goodput"]["share"], 0.5);
  EXPECT_EQ(json["goodput"]["requests_per_s"], 1);
  EXPECT_EQ(json["adapters"]["a"]["output_tokens"], 30);
  EXPECT_EQ(json["adapters"]["a"]["weight"], 0.75);
  EXPECT_EQ(json["adapters"]["a"]["ttft_ms"]["p50"], 5);
  EXPECT_EQ(json["jain"]["tokens"], 0.8);
  EXPECT_EQ(json["jain"]["tokens_per_weight"], 1);
  EXPECT_EQ(json["phases"][1]["name"], "flood");
  EXPECT_EQ(json["phases"][1]["ttft_ms"]["max"], 8);
  EXPECT_EQ(json["actions"][0]["end_s"], 1.5);
  EXPECT_EQ(json["actions"][0]["ttft_ms"]["count"], 1);
  EXPECT_EQ(json["actions"][0]["due"], 1);
  EXPECT_FALSE(json["actions"][0].contains("sent"));
  EXPECT_EQ(json["phases"][0]["sent"], 3);
  EXPECT_EQ(json["broken_ms"]["max"], 11);
  EXPECT_EQ(json["actions"][1]["outcome"], "exit code 1");
  EXPECT_EQ(json["actions"][2]["begin_s"], nullptr);
}

TEST(Report, JsonOfAPlainRunHasNoneOfThem) {
  Results results;
  results.adapters[""].sent = 1;
  const nlohmann::json json = ToJson({.server = "s"}, results);
  for (const char* const key : {"goodput", "adapters", "jain", "phases", "actions"}) {
    EXPECT_FALSE(json.contains(key)) << key;
  }
}

TEST(Report, WhoWasNeverServedCountsAsUnfair) {
  Results results = ARun();
  results.adapters.erase("a");
  EXPECT_EQ(ToJson(kSetting, results)["jain"]["tokens"], 0.5);
}

TEST(Report, TableHasARowForEachPart) {
  Results results = ARun();
  results.adapters["\x1b[31m"];  // a file of prompts may name anything
  const std::string table = ToTable(kSetting, results);
  EXPECT_THAT(table, HasSubstr("Goodput (% of requests):                 50.00"));
  EXPECT_THAT(table, HasSubstr("Jain index of served tokens per weight:  1.0000"));
  EXPECT_THAT(table, HasSubstr("\na                          6       6       0        30"));
  EXPECT_THAT(table, HasSubstr("\n\\x1b[31m "));
  EXPECT_THAT(table, HasSubstr("Max broken (ms):                         11.00"));
  EXPECT_THAT(table, HasSubstr("\nflood "));
  EXPECT_THAT(table.substr(table.find("During actions")), HasSubstr(" due      ok "));
  EXPECT_THAT(table, HasSubstr("\nadd: 1.001 s to 1.500 s, exit code 0\n"));
  EXPECT_THAT(table, HasSubstr("FAILED kill: 2.000 s to 2.250 s, exit code 1\nno </pre> such\n"));
  EXPECT_THAT(table, HasSubstr("FAILED late: never begun\n"));
}

TEST(Report, PageStandsByItselfAndEscapesWhatItWasGiven) {
  const std::string page = ToHtml(kSetting, ARun());
  EXPECT_THAT(page, HasSubstr("<!DOCTYPE html>"));
  EXPECT_THAT(page, HasSubstr("&lt;b&gt;"));
  EXPECT_THAT(page, HasSubstr("<td>Broken</td><td>1</td>"));
  EXPECT_THAT(page, HasSubstr("<th>due</th>"));
  EXPECT_THAT(page, HasSubstr("calm &amp; quiet"));
  EXPECT_THAT(page, HasSubstr("no &lt;/pre&gt; such"));
  for (const char* const outside : {"<script", "<link", "<img", "src=", "url(", "@import", "<b>"}) {
    EXPECT_THAT(page, Not(HasSubstr(outside)));
  }
  for (const char* const title : {"Time to first token over time", "Inter-token latency over time",
                                  "Requests offered and served", "Distribution of waits"}) {
    EXPECT_THAT(page, HasSubstr(title));
  }
  EXPECT_THAT(page, HasSubstr("class=\"band\""));
  EXPECT_THAT(page, HasSubstr("class=\"mark\""));
  EXPECT_THAT(page, Not(HasSubstr("nan")));
  EXPECT_THAT(page, Not(HasSubstr("inf")));
}

TEST(Report, AnEmptyRunHasAPageToo) {
  const std::string page = ToHtml({.server = "s"}, Results());
  EXPECT_THAT(page, HasSubstr("no data"));
  EXPECT_THAT(page, Not(HasSubstr("nan")));
}

TEST(SvgPlot, DrawsPointsInTheirPlace) {
  const std::string svg = ToSvg({.series = {{"s", {{0, 0}, {5, 50}, {10, 100}}}}});
  EXPECT_THAT(svg, HasSubstr("points=\"64.0,256.0 404.0,151.0 744.0,46.0 \""));
}

TEST(SvgPlot, WhatHasNoPlaceIsAGap) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const std::string svg =
      ToSvg({.log_x = true, .series = {{"s", {{0, 1}, {1, 0}, {2, nan}, {10, 100}, {100, 100}}}}});
  EXPECT_THAT(svg, HasSubstr("points=\"64.0,256.0 64.0,256.0 \""));
  EXPECT_THAT(svg, HasSubstr("points=\"404.0,46.0 744.0,46.0 \""));
  EXPECT_THAT(ToSvg({.series = {{"s", {{nan, 1}}}}}), HasSubstr("no data"));
  EXPECT_THAT(ToSvg({.series = {{"s", {{3, 0}}}}}), Not(HasSubstr("nan")));
}

TEST(SvgPlot, TheAxisHasWhatItIsAskedFor) {
  const std::string svg =
      ToSvg({.x_least = 0, .x_most = 20, .series = {{"s", {{5, 0}, {10, 100}}}}});
  EXPECT_THAT(svg, HasSubstr("points=\"234.0,256.0 404.0,46.0 \""));
}

TEST(SvgPlot, BandsBeyondTheAxisEndThere) {
  const std::string svg = ToSvg({.series = {{"s", {{0, 0}, {10, 1}}}}, .bands = {{"b", -5, 50}}});
  EXPECT_THAT(svg, HasSubstr("x=\"64.0\" y=\"46.0\" width=\"680.0\""));
}

TEST(SvgPlot, TicksAreRound) {
  EXPECT_THAT(Ticks(0, 10, false, 5), ElementsAre(0, 2, 4, 6, 8, 10));
  EXPECT_THAT(Ticks(3, 11, false, 4), ElementsAre(4, 6, 8, 10));
  EXPECT_THAT(Ticks(0.5, 200, true, 5), ElementsAre(1, 10, 100));
  EXPECT_THAT(Ticks(2, 8, true, 6), ElementsAre(2, 3, 4, 5, 6, 7, 8));
}

TEST(SvgPlot, MarkupIsEscaped) {
  EXPECT_EQ(EscapeMarkup("<a href=\"x\">&'\x01\n\xC3\xBC"),
            "&lt;a href=&quot;x&quot;&gt;&amp;&#39;?\n\xC3\xBC");
}

}  // namespace
}  // namespace conclave::loadtest

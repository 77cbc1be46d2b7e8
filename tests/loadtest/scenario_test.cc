#include "loadtest/scenario.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/loadtest/temporary_file.h"

namespace conclave::loadtest {
namespace {

using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;

absl::StatusOr<Scenario> Read(const std::string& text, const ScenarioLimits& limits = {}) {
  return ReadScenario(TemporaryFile(text), {{"server", "h:1"}, {"pid", "42"}}, limits);
}

std::string ErrorOf(const std::string& text, const ScenarioLimits& limits = {}) {
  const auto scenario = Read(text, limits);
  return scenario.ok() ? "accepted" : std::string(scenario.status().message());
}

constexpr char kPhase[] = R"({"name": "p", "seconds": 5, "rate": 1})";

std::string WithPhase(const std::string& phase) { return "{\"phases\": [" + phase + "]}"; }

std::string WithAction(const std::string& action) {
  return std::string("{\"phases\": [") + kPhase + "], \"actions\": [" + action + "]}";
}

TEST(Scenario, HasPhasesAndActions) {
  const auto scenario = Read(R"({
    "cv": 2,
    "phases": [
      {"name": "calm", "seconds": 10, "rate": 5, "mix": "uniform:a,base"},
      {"name": "flood", "seconds": 2.5, "rate": [5, 50], "mix": {"a": 3, "base": 1},
       "prompt_lengths": 7, "output_lengths": "uniform:1:2"}],
    "actions": [
      {"name": "kill", "at": 12.4, "command": ["sh", "-c", "echo {pid} {server} {} {Q} {a b}"]},
      {"name": "wait", "at": 0, "timeout": 0.1, "command": ["true"]}]})");
  ASSERT_TRUE(scenario.ok()) << scenario.status();
  EXPECT_EQ(scenario->variation, 2);
  ASSERT_EQ(scenario->phases.size(), 2U);
  const Phase& calm = scenario->phases[0];
  EXPECT_EQ(calm.name, "calm");
  EXPECT_EQ(calm.rate_from, 5);
  EXPECT_EQ(calm.rate_to, 5);
  EXPECT_FALSE(calm.prompt_lengths);
  const Phase& flood = scenario->phases[1];
  EXPECT_EQ(flood.seconds, 2.5);
  EXPECT_EQ(flood.rate_to, 50);
  EXPECT_EQ(flood.adapters->shares()[0], (std::pair<std::string, double>("a", 0.75)));
  EXPECT_TRUE(flood.prompt_lengths && flood.output_lengths);
  ASSERT_EQ(scenario->actions.size(), 2U);
  EXPECT_EQ(scenario->actions[0].at, 12.4);
  EXPECT_EQ(scenario->actions[0].timeout, Action::kDefaultTimeout);
  EXPECT_THAT(scenario->actions[0].command, ElementsAre("sh", "-c", "echo 42 h:1 {} {Q} {a b}"));
  EXPECT_EQ(scenario->actions[1].timeout, 0.1);
}

TEST(Scenario, BadFieldsAreNamed) {
  EXPECT_THAT(ErrorOf("{\n\"phases\": [\n}"), HasSubstr(":3: not JSON"));
  EXPECT_THAT(ErrorOf(""), HasSubstr(":1: not JSON"));
  EXPECT_THAT(ErrorOf("[]"), EndsWith(": want an object"));
  EXPECT_THAT(ErrorOf("{}"), EndsWith(": \"phases\" is missing"));
  EXPECT_THAT(ErrorOf("{\"phases\": []}"), EndsWith("phases: there is none"));
  EXPECT_THAT(ErrorOf("{\"phase\": []}"), EndsWith("unknown key \"phase\""));
  EXPECT_THAT(ErrorOf(std::string("{\"cv\": 10.5, \"phases\": [") + kPhase + "]}"),
              EndsWith("cv: want a number in [0, 10]"));
  EXPECT_THAT(ErrorOf(WithPhase("7")), EndsWith("phases[0]: want an object"));
  EXPECT_THAT(ErrorOf(WithPhase(R"({"name": "p", "rate": 1})")),
              EndsWith("phases[0]: \"seconds\" is missing"));
  EXPECT_THAT(ErrorOf(WithPhase(R"({"name": "p", "seconds": 0, "rate": 1})")),
              HasSubstr("phases[0]: seconds: want a number in [0.001"));
  EXPECT_THAT(ErrorOf(WithPhase(R"({"name": "p", "seconds": 1, "rate": -1})")),
              HasSubstr("phases[0]: rate: want a number in [0, 1e+06]"));
  EXPECT_THAT(ErrorOf(WithPhase(R"({"name": "p", "seconds": 1, "rate": [1]})")),
              HasSubstr("phases[0]: rate: want a number or [FROM, TO]"));
  EXPECT_THAT(ErrorOf(WithPhase(R"({"name": "p", "seconds": 1, "rate": [1, "x"]})")),
              HasSubstr("phases[0]: rate[1]: want a number"));
  EXPECT_THAT(ErrorOf(WithPhase(R"({"name": "p", "seconds": 1, "rate": 1, "mix": {"a": 0}})")),
              HasSubstr("phases[0]: mix: adapter \"a\": weight 0"));
  EXPECT_THAT(ErrorOf(WithPhase(R"({"name": "p", "seconds": 1, "rate": 1, "mix": {"a": "x"}})")),
              HasSubstr("phases[0]: mix: a: want a number"));
  EXPECT_THAT(ErrorOf(WithPhase(R"({"name": "p", "seconds": 1, "rate": 1, "mix": 1})")),
              HasSubstr("phases[0]: mix: want a text or an object"));
  EXPECT_THAT(ErrorOf(WithPhase(R"({"name": "p", "seconds": 1, "rate": 1, "output_lengths": -1})")),
              HasSubstr("phases[0]: output_lengths: want a text or a whole number"));
  EXPECT_THAT(ErrorOf(WithPhase(R"({"name": "\u0001", "seconds": 1, "rate": 1})")),
              HasSubstr("phases[0]: name: want 1 to 100 bytes without control characters"));
}

TEST(Scenario, BadActionsAreNamed) {
  const auto action = [](const std::string& rest) {
    return ErrorOf(WithAction("{\"name\": \"x\", " + rest + "}"));
  };
  EXPECT_EQ(action(R"("at": 4.999, "command": ["true"])"), "accepted");
  EXPECT_THAT(action(R"("at": 5, "command": ["true"])"),
              EndsWith("actions: \"x\" is at 5 s, but the phases end at 5 s"));
  EXPECT_THAT(action(R"("at": -1, "command": ["true"])"), HasSubstr("actions[0]: at: want"));
  EXPECT_THAT(action(R"("at": 1, "command": [])"),
              HasSubstr("actions[0]: command: want a program"));
  EXPECT_THAT(action(R"("at": 1, "command": "true")"), HasSubstr("command: want an array"));
  EXPECT_THAT(action(R"("at": 1, "command": ["true", 1])"), HasSubstr("command[1]: want a text"));
  EXPECT_THAT(action(R"("at": 1, "command": ["true", "\u0000"])"),
              HasSubstr("command[1]: has a zero byte"));
  EXPECT_THAT(action(R"("at": 1, "command": ["no-such-program-here"])"),
              HasSubstr("command: \"no-such-program-here\" is no program"));
  EXPECT_THAT(action(R"("at": 1, "command": ["true", "{worker}"])"),
              HasSubstr("command[1]: {worker} has no value: give --set worker=..."));
  EXPECT_THAT(action(R"("at": 1, "timeout": 3601, "command": ["true"])"),
              HasSubstr("timeout: want a number in [0.1, 3600]"));
}

TEST(Scenario, LimitsHoldAtTheirEdge) {
  const std::string two = WithPhase(std::string(kPhase) + "," + kPhase);
  EXPECT_EQ(ErrorOf(two, {.phases = 2}), "accepted");
  EXPECT_THAT(ErrorOf(two, {.phases = 1}), EndsWith("phases: more than 1 entries"));
  EXPECT_EQ(ErrorOf(two, {.seconds = 10}), "accepted");
  EXPECT_THAT(ErrorOf(two, {.seconds = 9}), HasSubstr("phases: 10 s together, the limit is 9 s"));
  EXPECT_EQ(ErrorOf(two, {.file_bytes = two.size()}), "accepted");
  EXPECT_THAT(ErrorOf(two, {.file_bytes = two.size() - 1}), HasSubstr("larger than"));
  EXPECT_EQ(ErrorOf(two, {.rate = 1}), "accepted");
  EXPECT_THAT(ErrorOf(two, {.rate = 0.5}), HasSubstr("rate: want a number in [0, 0.5]"));
  EXPECT_EQ(ErrorOf(two, {.name_bytes = 1}), "accepted");
  EXPECT_THAT(ErrorOf(two, {.name_bytes = 0}), HasSubstr("name: want 1 to 0 bytes"));
  const auto with_cv = [](const std::string& cv) {
    return ErrorOf("{\"cv\": " + cv + ", \"phases\": [" + kPhase + "]}");
  };
  EXPECT_EQ(with_cv("10"), "accepted");
  EXPECT_THAT(with_cv("10.01"), EndsWith("cv: want a number in [0, 10]"));
  const auto with_timeout = [](const std::string& timeout) {
    return ErrorOf(
        WithAction(R"({"name": "x", "at": 1, "command": ["true"], "timeout": )" + timeout + "}"));
  };
  EXPECT_EQ(with_timeout("0.1"), "accepted");
  EXPECT_EQ(with_timeout("3600"), "accepted");
  for (const char* const timeout : {"0.09", "3600.1"}) {
    EXPECT_THAT(with_timeout(timeout), HasSubstr("timeout: want a number in [0.1, 3600]"));
  }
  const std::string action = R"({"name": "x", "at": 1, "command": ["true", "1"]})";
  EXPECT_EQ(ErrorOf(WithAction(action), {.actions = 1, .command_words = 2}), "accepted");
  EXPECT_THAT(ErrorOf(WithAction(action), {.command_words = 1}),
              HasSubstr("command: more than 1 entries"));
  EXPECT_THAT(ErrorOf(WithAction(action + "," + action), {.actions = 1}),
              EndsWith("actions: more than 1 entries"));
}

}  // namespace
}  // namespace conclave::loadtest

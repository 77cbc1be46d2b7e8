#include "loadtest/arguments.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/loadtest/temporary_file.h"

namespace conclave::loadtest {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<Plan> Parse(std::vector<std::string> words) {
  words.insert(words.begin(), {"--server", "127.0.0.1:1"});
  Arguments arguments;
  services::Flags flags("test", "test");
  Bind(flags, arguments);
  if (const absl::Status status = flags.Parse(words); !status.ok()) return status;
  return Settle(flags, arguments);
}

std::string ErrorOf(const std::vector<std::string>& words) {
  const auto plan = Parse(words);
  return plan.ok() ? "accepted" : std::string(plan.status().message());
}

TEST(Arguments, ArrivalsAreOfOneKind) {
  const std::string trace =
      TemporaryFile(R"({"timestamp": 0, "input_length": 5, "output_length": 1})");
  EXPECT_EQ(ErrorOf({"--trace", trace}), "accepted");
  EXPECT_THAT(ErrorOf({"--trace", trace, "--rate", "1"}), HasSubstr("--rate and --trace exclude"));
  EXPECT_THAT(ErrorOf({"--trace", trace, "--prompt", "x"}),
              HasSubstr("--prompt and --trace exclude"));
  EXPECT_THAT(ErrorOf({"--rate", "1", "--concurrency", "1", "--requests", "1", "--prompt", "x"}),
              HasSubstr("--rate and --concurrency exclude"));
  EXPECT_THAT(ErrorOf({"--rate", "1", "--prompt", "x"}), HasSubstr("--requests or --duration"));
  EXPECT_THAT(ErrorOf({"--trace", trace, "--trace-speed", "0.0009"}), HasSubstr("--trace-speed"));
}

TEST(Arguments, ARampWantsItsBeginAndItsTime) {
  EXPECT_THAT(ErrorOf({"--rate-end", "5", "--duration", "1", "--prompt", "x"}),
              HasSubstr("--rate-end wants --rate and --duration"));
  EXPECT_THAT(ErrorOf({"--rate", "1", "--rate-end", "5", "--requests", "1", "--prompt", "x"}),
              HasSubstr("--rate-end wants --rate and --duration"));
  EXPECT_THAT(ErrorOf({"--rate", "0", "--rate-end", "0", "--duration", "1", "--prompt", "x"}),
              HasSubstr("both 0"));
  const auto plan = Parse({"--rate", "0", "--rate-end", "5", "--duration", "1", "--prompt", "x"});
  ASSERT_TRUE(plan.ok()) << plan.status();
  const Workload workload(plan->workload);
  EXPECT_TRUE(IsOpenLoop(plan->options, workload));
  EXPECT_EQ(Describe(plan->options, workload).arrivals, "ramp from 0 to 5 per second, Poisson");
}

TEST(Arguments, LengthsAndMixesAreNamedByFlag) {
  EXPECT_THAT(ErrorOf({"--requests", "1"}), HasSubstr("give --prompts, --prompt"));
  EXPECT_THAT(ErrorOf({"--requests", "1", "--prompt-lengths", "0"}),
              HasSubstr("--prompt-lengths: N: want"));
  EXPECT_THAT(ErrorOf({"--requests", "1", "--prompt", "x", "--output-lengths", "x"}),
              HasSubstr("--output-lengths: N: want"));
  EXPECT_THAT(ErrorOf({"--requests", "1", "--prompt", "x", "--adapters", "x"}),
              HasSubstr("--adapters: want uniform"));
  const auto plan = Parse({"--requests", "1", "--prompt-lengths", "5", "--adapters", "zipf:1:a,b"});
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->workload.vocabulary, 0U);
  EXPECT_NEAR(Describe(plan->options, Workload(plan->workload)).weights.at("a"), 2 / 3.0, 1e-12);
}

TEST(Arguments, APromptThatNoMessageMayHoldIsRefused) {
  EXPECT_EQ(ErrorOf({"--requests", "1", "--prompt", "h\xC3\xA9"}), "accepted");
  EXPECT_THAT(ErrorOf({"--requests", "1", "--prompt", "h\xC3"}), HasSubstr("--prompt: not UTF-8"));
}

TEST(Arguments, AScenarioBringsItsLoad) {
  const std::string phase = R"({"name": "p", "seconds": 5, "rate": 1)";
  const std::string scenario = TemporaryFile("{\"cv\": 0, \"phases\": [" + phase +
                                             "}], \"actions\": [{\"name\": \"a\", \"at\": 1, "
                                             "\"command\": [\"echo\", \"{server} {x}\"]}]}");
  const auto plan = Parse({"--scenario", scenario, "--set", "x=a=b", "--prompt", "x"});
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->options.actions[0].command[1], "127.0.0.1:1 a=b");
  EXPECT_EQ(Describe(plan->options, Workload(plan->workload)).arrivals, "1 phases, gamma, cv 0");
  EXPECT_THAT(ErrorOf({"--scenario", scenario, "--set", "x", "--prompt", "x"}),
              HasSubstr("--set: want NAME=VALUE"));
  EXPECT_THAT(ErrorOf({"--scenario", scenario, "--set", "x=", "--duration", "1"}),
              HasSubstr("--scenario and --duration exclude"));
  EXPECT_THAT(ErrorOf({"--scenario", scenario, "--set", "x="}), HasSubstr("give --prompts"));
  EXPECT_THAT(ErrorOf({"--set", "x=", "--requests", "1", "--prompt", "x"}),
              HasSubstr("--set wants --scenario"));
}

TEST(Arguments, LimitsHoldAtTheirEdge) {
  const struct {
    std::string flag, least, below, most, above;
  } cases[] = {
      {"rate", "0", "-1", "1e6", "1000001"},
      {"rate-end", "0", "-1", "1e6", "1000001"},
      {"arrival-cv", "0", "-0.1", "10", "10.1"},
      {"trace-speed", "0.001", "0.0009", "1000", "1001"},
      {"concurrency", "1", "0", "100000", "100001"},
      {"requests", "1", "-1", "10000000", "10000001"},
      {"duration", "0", "-1", "604800", "604801"},
      {"max-in-flight", "1", "0", "1000000", "1000001"},
      {"vocabulary", "0", "-1", "16777216", "16777217"},
      {"max-prompt-tokens", "1", "0", "1048576", "1048577"},
      {"max-output-tokens", "1", "0", "1048576", "1048577"},
      {"max-tokens", "1", "0", "1000000", "1000001"},
      {"temperature", "0", "-0.1", "100", "100.1"},
      {"timeout", "0.001", "0.0009", "86400", "86401"},
      {"cancel-fraction", "0", "-0.1", "1", "1.1"},
      {"slow-fraction", "0", "-0.1", "1", "1.1"},
      {"slow-rate", "0.01", "0.009", "1e6", "1000001"},
      {"slow-readers", "0", "-1", "100000", "100001"},
      {"channels", "1", "0", "256", "257"},
      {"slo-ttft-ms", "0", "-1", "1e9", "1000000001"},
      {"slo-itl-ms", "0", "-1", "1e9", "1000000001"},
      {"slo-tpot-ms", "0", "-1", "1e9", "1000000001"},
      {"slo-e2e-ms", "0", "-1", "1e9", "1000000001"},
  };
  for (const auto& [flag, least, below, most, above] : cases) {
    SCOPED_TRACE(flag);
    const auto with = [&, name = "--" + flag](const std::string& value) {
      std::vector<std::string> words = {"--prompt", "x", name, value};
      const auto add = [&](const std::string& other, const std::string& its) {
        if (other != name) words.insert(words.end(), {other, its});
      };
      add("--requests", "1");
      if (name == "--rate-end") add("--rate", "1");
      if (name == "--rate-end") add("--duration", "1");
      return ErrorOf(words);
    };
    EXPECT_EQ(with(least), "accepted");
    EXPECT_EQ(with(most), "accepted");
    EXPECT_THAT(with(below), HasSubstr("--" + flag));
    EXPECT_THAT(with(above), HasSubstr("--" + flag));
  }
}

TEST(Arguments, PhasesWithLengthsWantRandomTokens) {
  const std::string scenario =
      TemporaryFile(R"({"phases": [{"name": "p", "seconds": 5, "rate": 1, "prompt_lengths": 4}]})");
  EXPECT_EQ(ErrorOf({"--scenario", scenario}), "accepted");
  EXPECT_THAT(ErrorOf({"--scenario", scenario, "--prompt", "x"}),
              HasSubstr("prompt_lengths are for random tokens"));
}

}  // namespace
}  // namespace conclave::loadtest

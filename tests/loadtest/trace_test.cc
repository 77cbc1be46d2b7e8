#include "loadtest/trace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "loadtest/file.h"
#include "tests/loadtest/temporary_file.h"

namespace conclave::loadtest {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kHeader[] = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n";

absl::StatusOr<std::vector<TraceRequest>> Read(const std::string& text, TraceLimits limits = {}) {
  return ReadTrace(TemporaryFile(text), limits);
}

std::string ErrorOf(const std::string& text, TraceLimits limits = {}) {
  const auto trace = Read(text, limits);
  return trace.ok() ? "accepted" : std::string(trace.status().message());
}

TEST(Trace, AzureTimesCountFromTheFirst) {
  const auto trace = Read(std::string(kHeader) +
                          "2023-11-16 18:17:03.9799600,4808,10\r\n"
                          "2023-11-16 18:17:04.0319600,3180,8\r\n"
                          "2023-11-17 00:00:00,1,1\r\n"
                          "2023-11-17 00:00:00.5+00:00,2,3");  // as of 2024
  ASSERT_TRUE(trace.ok()) << trace.status();
  ASSERT_EQ(trace->size(), 4U);
  EXPECT_EQ((*trace)[0].at, nanoseconds(0));
  EXPECT_EQ((*trace)[0].prompt_tokens, 4808U);
  EXPECT_EQ((*trace)[0].output_tokens, 10U);
  EXPECT_EQ((*trace)[1].at, milliseconds(52));
  EXPECT_EQ((*trace)[2].at, nanoseconds(20'576'020'040'000));
  EXPECT_EQ((*trace)[3].at, (*trace)[2].at + milliseconds(500));
}

TEST(Trace, MooncakeNamesBlocks) {
  const auto trace = Read(
      R"({"timestamp": 100, "input_length": 1025, "output_length": 52, "hash_ids": [46, 47, 9]})"
      "\n"
      R"({"timestamp": 100.5, "input_length": 512, "output_length": 1, "hash_ids": [46], "x": 1})"
      "\n"
      R"({"timestamp": 3100, "input_length": 7, "output_length": 1})");
  ASSERT_TRUE(trace.ok()) << trace.status();
  ASSERT_EQ(trace->size(), 3U);
  EXPECT_THAT((*trace)[0].blocks, ElementsAre(46, 47, 9));
  EXPECT_EQ((*trace)[1].at, nanoseconds(500'000));
  EXPECT_THAT((*trace)[1].blocks, ElementsAre(46));
  EXPECT_EQ((*trace)[2].at, milliseconds(3000));
  EXPECT_THAT((*trace)[2].blocks, IsEmpty());
}

TEST(Trace, BadAzureLinesAreNamedByFileLineAndField) {
  const auto line = [](const std::string& text) { return ErrorOf(kHeader + text); };
  EXPECT_THAT(line("2023-11-16 18:17:03,1\n"), HasSubstr(":2: want 3 fields, got 2"));
  EXPECT_THAT(line("2023-11-16 18:17:03,1,1\ninfinite-future,1,1"),
              HasSubstr(":3: field \"TIMESTAMP\": \"infinite-future\" is no time"));
  EXPECT_THAT(line("2023-13-16 18:17:03,1,1"), HasSubstr("field \"TIMESTAMP\""));
  EXPECT_THAT(line(",1,1"), HasSubstr("field \"TIMESTAMP\""));
  EXPECT_THAT(line("2023-11-16 18:17:03,-1,1"), HasSubstr("field \"ContextTokens\": \"-1\" is no"));
  EXPECT_THAT(line("2023-11-16 18:17:03,1.5,1"), HasSubstr("field \"ContextTokens\""));
  EXPECT_THAT(line("2023-11-16 18:17:03,1,0"),
              HasSubstr("field \"GeneratedTokens\": out of range"));
  EXPECT_THAT(line("2023-11-16 18:17:03,1,"), HasSubstr("field \"GeneratedTokens\": \"\" is no"));
  EXPECT_THAT(line("2023-11-16 18:17:03,1,99999999999999999999999"),
              HasSubstr("field \"GeneratedTokens\": out of range"));
  EXPECT_THAT(line("2023-11-16 18:17:03,1,1\n2023-11-16 18:17:02,1,1"),
              HasSubstr(":3: field \"TIMESTAMP\": before the line above"));
  EXPECT_THAT(ErrorOf("TIME,ContextTokens\n"), HasSubstr(":1: neither the header"));
  EXPECT_THAT(ErrorOf(kHeader), HasSubstr(": no requests"));
  EXPECT_THAT(ErrorOf(""), HasSubstr(": no requests"));
}

TEST(Trace, BadMooncakeLinesAreNamedByFileLineAndField) {
  const auto with = [](const std::string& fields) {
    return ErrorOf("{\"timestamp\": 0, \"input_length\": 600, \"output_length\": 1}\n{" + fields +
                   "}");
  };
  EXPECT_THAT(with("\"timestamp\": 0"), HasSubstr(":2: field \"input_length\": missing"));
  EXPECT_THAT(with("\"input_length\": 1"), HasSubstr("field \"timestamp\": missing"));
  EXPECT_THAT(with("\"timestamp\": \"0\""), HasSubstr("field \"timestamp\": want milliseconds"));
  EXPECT_THAT(with("\"timestamp\": -1"), HasSubstr("field \"timestamp\": want milliseconds"));
  EXPECT_THAT(with("\"timestamp\": 1, \"input_length\": 1.5"), HasSubstr("field \"input_length\""));
  EXPECT_THAT(with("\"timestamp\": 1, \"input_length\": 1, \"output_length\": 0"),
              HasSubstr("field \"output_length\": out of range"));
  const std::string whole = "\"timestamp\": 1, \"input_length\": 513, \"output_length\": 1, ";
  EXPECT_EQ(with(whole + "\"hash_ids\": [1, 2]"), "accepted");
  EXPECT_THAT(with(whole + "\"hash_ids\": [1, 2, 3]"),
              HasSubstr("field \"hash_ids\": 3 ids, but input_length has 2 blocks"));
  EXPECT_THAT(with(whole + "\"hash_ids\": [-1]"), HasSubstr("field \"hash_ids\": want whole"));
  EXPECT_THAT(with(whole + "\"hash_ids\": 1"), HasSubstr("field \"hash_ids\": want an array"));
  EXPECT_THAT(ErrorOf("{\"timestamp\": 1"), HasSubstr(":1: want a JSON object"));
  EXPECT_THAT(ErrorOf("{\"timestamp\": 1e999, \"input_length\": 1, \"output_length\": 1}"),
              HasSubstr(":1: "));
}

TEST(Trace, LimitsHoldAtTheirEdge) {
  const std::string first = std::string(kHeader) + "2023-01-01 00:00:00,8,1\n";
  const std::string two = first + "2023-01-01 01:00:00,8,1\n";
  EXPECT_EQ(ErrorOf(two, {.requests = 2}), "accepted");
  EXPECT_THAT(ErrorOf(two, {.requests = 1}), HasSubstr(":3: more than 1 requests"));
  EXPECT_EQ(ErrorOf(two, {.file_bytes = two.size()}), "accepted");
  EXPECT_THAT(ErrorOf(two, {.file_bytes = two.size() - 1}), HasSubstr("larger than"));
  EXPECT_EQ(ErrorOf(two, {.tokens = 8}), "accepted");
  EXPECT_THAT(ErrorOf(two, {.tokens = 7}),
              HasSubstr("field \"ContextTokens\": out of range [1, 7]"));
  EXPECT_EQ(ErrorOf(two, {.span = hours(1)}), "accepted");
  EXPECT_THAT(ErrorOf(first + "2023-01-01 01:00:00.001,8,1\n", {.span = hours(1)}),
              HasSubstr("field \"TIMESTAMP\": more than 1 hours after the first"));
  EXPECT_THAT(ErrorOf(first + std::string(kMaxLineBytes + 1, '[')),
              HasSubstr(":3: longer than 1048576 bytes"));
  EXPECT_EQ(ReadTrace("/no/such/file").status().code(), absl::StatusCode::kNotFound);
}

// The recorded ones, where this machine has them.
TEST(Trace, ReadsAzuresOwnFiles) {
  const std::filesystem::path folder = "shared/traces/azure-llm-2023";
  std::filesystem::path root = std::filesystem::current_path();
  while (root != root.root_path() && !std::filesystem::exists(root / folder)) {
    root = root.parent_path();
  }
  if (!std::filesystem::exists(root / folder)) {
    GTEST_SKIP() << "no " << folder << " above " << std::filesystem::current_path();
  }
  const auto code = ReadTrace(root / folder / "code.csv");
  ASSERT_TRUE(code.ok()) << code.status();
  EXPECT_EQ(code->size(), 8819U);
  EXPECT_EQ(code->front().prompt_tokens, 4808U);
  const auto conv = ReadTrace(root / folder / "conv.csv");
  ASSERT_TRUE(conv.ok()) << conv.status();
  EXPECT_EQ(conv->size(), 19366U);
  EXPECT_EQ(conv->back().output_tokens, 183U);
  EXPECT_LT(conv->back().at, hours(1));
}

}  // namespace
}  // namespace conclave::loadtest

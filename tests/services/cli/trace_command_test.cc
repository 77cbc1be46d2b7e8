// conclave trace record: what it writes, and what it leaves of a run that failed.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/services/cli/commands_fixture.h"

namespace conclave::services::cli {
namespace {

using conclave::testing::FakeRouter;
using nlohmann::json;
using ::testing::HasSubstr;

TEST_F(Commands, TraceRecordWritesATraceOfEveryMix) {
  const std::string directory = ::testing::TempDir() + "trace_of_commands";
  std::filesystem::remove_all(directory);
  const std::string a = ::testing::TempDir() + "mix_a";
  std::ofstream(a) << "first line\n\nthird\n";
  const std::string b = ::testing::TempDir() + "mix_b";
  std::ofstream(b) << std::string(70, 'x');  // longer than the context
  EXPECT_EQ(Call({"trace", "record", "--out", directory, "--mix", "a=" + a, "--mix", "b=" + b,
                  "--split", "line", "--json"}),
            kDone)
      << err_.str();
  EXPECT_EQ(Document()["mixes"]["a"], json({{"tokens", 15}, {"sequences", 2}}));
  EXPECT_EQ(Document()["mixes"]["b"], json({{"tokens", 70}, {"sequences", 2}}));
  EXPECT_THAT(err_.str(), HasSubstr("mix a: text 2 of 2, 15 tokens"));
  std::ifstream file(directory + "/trace.json");
  EXPECT_EQ(json::parse(file), json::parse(R"({"experts": 8, "top_k": 2, "layers": [1, 2],
      "mixes": {"a": {"adapter": ""}, "b": {"adapter": ""}}})"));
  // [70 tokens, 2 layers, 2 choices] of a byte each; token t begins with expert t % 8.
  EXPECT_EQ(std::filesystem::file_size(directory + "/b.experts.npy"), 128U + 70 * 2 * 2);
  EXPECT_EQ(std::filesystem::file_size(directory + "/b.weights.npy"), 128U + 70 * 2 * 2 * 2);

  EXPECT_EQ(Call({"trace", "record", "--out", directory, "--text", "x"}), kFailed);
  EXPECT_THAT(err_.str(), HasSubstr("ALREADY_EXISTS"));
  std::filesystem::remove_all(directory);
}

TEST_F(Commands, TraceRecordLeavesNothingOfARunThatFailed) {
  int scored = 0;
  router_.score = [&](grpc::ServerContext& context, const v1::ScoreRequest& request,
                      FakeRouter::ScoreWriter& writer) {
    if (++scored == 2) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "worker died");
    return FakeRouter::ScoreBytes(context, request, writer);
  };
  const std::string parent = ::testing::TempDir() + "trace_that_fails";
  std::filesystem::create_directory(parent);
  const std::string file = ::testing::TempDir() + "two_lines";
  std::ofstream(file) << "one\ntwo\n";
  EXPECT_EQ(
      Call({"trace", "record", "--out", parent + "/t", "--mix", "a=" + file, "--split", "line"}),
      kFailed);
  EXPECT_THAT(err_.str(), HasSubstr("worker died"));
  EXPECT_TRUE(std::filesystem::is_empty(parent));
  std::filesystem::remove_all(parent);
}

TEST_F(Commands, TraceRecordLooksAtEveryMixBeforeItRecordsTheFirst) {
  const std::string text = ::testing::TempDir() + "mix_text",
                    blank = ::testing::TempDir() + "blank";
  std::ofstream(text) << "text";
  std::ofstream(blank) << " \n";
  const struct {
    std::string second, error;
  } cases[] = {{"a=" + text, "mix \"a\" is given twice"},
               {"../b=" + text, "mix \"../b\": a name is made of"},
               {"b=" + blank, "mix \"b\" holds nothing to record"},
               {"b=/nonexistent", "cannot open \"/nonexistent\""}};
  for (const auto& [second, error] : cases) {
    EXPECT_EQ(Call({"trace", "record", "--out", ::testing::TempDir() + "never", "--mix",
                    "a=" + text, "--mix", second}),
              kUsage);
    EXPECT_THAT(err_.str(), HasSubstr(error));
  }
  EXPECT_EQ(router_.calls(), 0);
}

}  // namespace
}  // namespace conclave::services::cli

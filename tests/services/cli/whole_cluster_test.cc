// `conclave up` with the real processes on a tiny random checkpoint, used by the real commands: the
// flags, ready lines and RPCs of all of them fit together.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "services/child.h"
#include "services/cli/command.h"
#include "tests/worker/testing/tiny_checkpoint.h"
#include "tests/worker/testing/without_experts.h"

namespace conclave::services::cli {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using worker::testing::TempDir;

class WholeCluster : public ::testing::Test {
 protected:
  // Starts a cluster.
  void Start(const std::vector<std::string>& more = {}) {
    worker::testing::WriteTinyDeepSeekV2(model_.path(), 1, {.context_limit = 64, .eos = -1});
    std::vector<std::string> arguments = {
        "up",        "--model", model_.path(),     "--state", state_.path(),
        "--threads", "1",       "--prefill-chunk", "16",      "--default-max-tokens",
        "7"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    auto up = Child::Start(std::string(CONCLAVE_BIN_DIR) + "/conclave", arguments);
    ASSERT_TRUE(up.ok()) << up.status();
    up_ = *std::move(up);
    std::string ready;
    while (up_->out().fd() >= 0 && ready.empty()) {
      WaitFor(up_->out().fd());
      for (const std::string& line : up_->out().Take()) ready += line;
    }
    ASSERT_THAT(ready, ::testing::MatchesRegex("ready grpc=.* http=- metrics=.*")) << Log();
    server_ = ready.substr(11, ready.find(' ', 11) - 11);
  }

  // The commands' JSON.
  json Call(Arguments arguments) {
    arguments.insert(arguments.end(), {"--server", server_, "--json"});
    std::ostringstream out, err;
    Io io = {out, err};
    EXPECT_EQ(cli::Run(arguments, io), kDone) << err.str();
    return json::parse(out.str(), nullptr, false);
  }
  std::string Log() {
    std::string log;
    for (const std::string& line : up_->err().Take()) log += line + "\n";
    return log;
  }
  static void WaitFor(int fd) {
    pollfd poll_fd = {.fd = fd, .events = POLLIN};
    poll(&poll_fd, 1, -1);
  }

  const TempDir model_, state_;
  std::unique_ptr<Child> up_;
  std::string server_;
};

TEST_F(WholeCluster, ServesEveryCommandAndEndsWell) {
  Start();
  const json tokens = Call({"tokenize", "--text", "héllo", "--no-added-tokens"});
  EXPECT_EQ(tokens["token_ids"], json({104, 195, 169, 108, 108, 111}));
  EXPECT_EQ(Call({"detokenize", "--token-ids", "104,195,169"})["text"], "hé");
  EXPECT_EQ(Call({"models"})["models"][0]["context_limit"], 64);

  const json first = Call({"generate", "--prompt", "once", "--seed", "3", "--logprobs", "1"});
  EXPECT_EQ(first["usage"]["completion_tokens"], 7);  // up passed --default-max-tokens on
  EXPECT_EQ(first["logprobs"].size(), 7U);
  EXPECT_EQ(Call({"generate", "--prompt", "once", "--seed", "3", "--logprobs", "1"})["logprobs"],
            first["logprobs"]);

  // What greedy sampling says of its tokens, scoring says of the same tokens.
  const json greedy = Call({"generate", "--token-ids", "1,2,3", "--temperature", "0",
                            "--max-tokens", "30", "--logprobs", "0"});
  std::string ids = "1,2,3";
  for (const json& id : greedy["token_ids"]) ids += "," + id.dump();
  const json scored = Call({"score", "--token-ids", ids});
  ASSERT_EQ(scored["logprobs"].size(), 33U);
  for (size_t i = 0; i < 30; ++i) EXPECT_EQ(scored["logprobs"][3 + i], greedy["logprobs"][i]) << i;

  const std::string text(150, 'x');  // longer than the context
  const json windows = Call({"score", "--text", text, "--window", "64", "--stride", "32"});
  EXPECT_EQ(windows["logprobs"].size() - windows["scored"].get<size_t>(), 1U);
  EXPECT_GT(windows["bits_per_byte"].get<double>(), 0);

  const std::string trace = state_.path() + "/trace";
  const json recorded = Call({"trace", "record", "--out", trace, "--text", text});
  EXPECT_EQ(recorded["mixes"]["default"]["tokens"], windows["token_ids"].size());
  EXPECT_TRUE(std::filesystem::exists(trace + "/default.experts.npy"));

  const json status = Call({"status"});
  EXPECT_EQ(status["workers"].size(), 1U);
  EXPECT_EQ(status["workers"][0]["policies"], json::array());
  EXPECT_EQ(first["policies"], json::array());
  EXPECT_EQ(status["workers"][0]["state"], "ready");
  EXPECT_EQ(status["workers"][0]["id"], "worker-0");
  EXPECT_GT(status["scheduler"]["pid"].get<int>(), 0);

  up_->Signal(SIGTERM);
  WaitFor(up_->exit_fd());
  EXPECT_EQ(DescribeEnd(*up_->Reap()), "exit code 0") << Log();
}

TEST_F(WholeCluster, MarksWhatDependsOnThePlacement) {
  Start({"--workers", "2", "--returns", "sums"});
  const json marked = {"partial_sums"};
  const json answer = Call({"generate", "--prompt", "once", "--seed", "3", "--logprobs", "0"});
  EXPECT_EQ(answer["policies"], marked);
  EXPECT_EQ(Call({"generate", "--prompt", "once", "--seed", "3", "--logprobs", "0"})["logprobs"],
            answer["logprobs"]);
  EXPECT_EQ(Call({"score", "--text", "once upon a time"})["policies"], marked);
  const json model = Call({"models"})["models"][0];
  EXPECT_EQ(model["policies"], marked);
  EXPECT_THAT(model["numerics"].get<std::string>(), ::testing::EndsWith("+sums"));
  const json status = Call({"status"});
  ASSERT_EQ(status["workers"].size(), 2U);
  for (const json& worker : status["workers"]) {
    EXPECT_EQ(worker["policies"], marked);
    EXPECT_EQ(worker["numerics"], model["numerics"]);
  }
}

TEST_F(WholeCluster, IsReadyOnceWhatIsLeftOfItAnswers) {
  Start({"--workers", "3"});
  up_->Signal(SIGTERM);
  WaitFor(up_->exit_fd());
  ASSERT_EQ(DescribeEnd(*up_->Reap()), "exit code 0") << Log();
  Start();
  const json residency = Call({"residency"});
  for (const json& layer : residency["layers"]) {
    for (const json& owners : layer["experts"]) EXPECT_EQ(owners, json({"worker-0"}));
  }
  EXPECT_EQ(Call({"generate", "--prompt", "once"})["token_ids"].size(), 7U);
}

TEST_F(WholeCluster, EndsInTimeThatNobodyHasTheExpertsOf) {
  worker::testing::WriteTinyDeepSeekV2(model_.path(), 1,
                                       {.edit = worker::testing::WithoutExperts()});
  const auto began = std::chrono::steady_clock::now();
  auto up = Child::Start(std::string(CONCLAVE_BIN_DIR) + "/conclave",
                         {"up", "--model", model_.path(), "--workers", "2", "--ready-timeout", "5",
                          "--worker-flag=--fetch-experts"});
  ASSERT_TRUE(up.ok()) << up.status();
  up_ = *std::move(up);
  WaitFor(up_->exit_fd());
  EXPECT_EQ(DescribeEnd(*up_->Reap()), "exit code 1");
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(30));
  const std::string log = Log();
  EXPECT_THAT(log, HasSubstr("lacks experts: waiting for a worker that has them"));
  EXPECT_THAT(log, HasSubstr("the cluster was not ready after 5 s"));
}

// As a terminal does it: the signal goes to the whole process group of the command.
TEST_F(WholeCluster, CtrlCLetsRunningStreamsFinish) {
  Start({"--worker-flag", "--unsafe-failpoints=step.begin=delay:5"});
  const auto stream = Child::Start(std::string(CONCLAVE_BIN_DIR) + "/conclave",
                                   {"generate", "--server", server_, "--prompt", "once",
                                    "--max-tokens", "55", "--ignore-eos", "--temperature", "0"});
  ASSERT_TRUE(stream.ok()) << stream.status();
  WaitFor((*stream)->out().fd());  // its first text
  ASSERT_EQ(kill(-up_->pid(), SIGINT), 0);
  WaitFor((*stream)->exit_fd());
  EXPECT_EQ(DescribeEnd(*(*stream)->Reap()), "exit code 0");
  WaitFor(up_->exit_fd());
  EXPECT_EQ(DescribeEnd(*up_->Reap()), "exit code 0") << Log();
}

}  // namespace
}  // namespace conclave::services::cli

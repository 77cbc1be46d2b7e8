// The processes themselves: what they print, how they take signals, how they end.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "conclave/v1/inference.grpc.pb.h"
#include "services/channel.h"
#include "services/child.h"
#include "tests/cluster/test_link.h"
#include "tests/cluster/test_process.h"
#include "tests/cluster/test_watch.h"
#include "tests/services/testing/scrape.h"
#include "tests/testing/wait_for.h"
#include "tests/worker/testing/tiny_checkpoint.h"
#include "tests/worker/testing/without_experts.h"

namespace conclave::services::testing {
namespace {

using ::testing::HasSubstr;
using worker::testing::TempDir;

class Process : public TestProcess {
 public:
  Process(const std::string& name, const std::vector<std::string>& arguments)
      : TestProcess(CONCLAVE_BIN_DIR, name, arguments) {}
};

// A client of a router, one request at a time.
class Client {
 public:
  // Waits until the router knows a model, that is, has a worker.
  explicit Client(const std::string& router)
      : stub_(v1::Inference::NewStub(MakeChannel(router, Credentials()))) {
    v1::ListModelsResponse models;
    while (models.models().empty()) {
      grpc::ClientContext context;
      const grpc::Status status = stub_->ListModels(&context, {}, &models);
      EXPECT_TRUE(status.ok()) << status.error_message();
      if (!status.ok()) break;
    }
  }

  struct Answer {
    std::vector<uint32_t> tokens;
    v1::FinishReason finish_reason = v1::FINISH_REASON_UNSPECIFIED;
    grpc::Status status;
  };
  // Calls `first` once the first tokens are there.
  Answer Generate(uint32_t prompt_tokens, uint32_t max_tokens,
                  const std::function<void()>& first = {}) {
    v1::GenerateRequest request;
    for (uint32_t i = 0; i < prompt_tokens; ++i) {
      request.mutable_prompt()->mutable_tokens()->add_ids((i * 7 + 1) % 256);
    }
    request.mutable_sampling()->set_temperature(0);
    request.mutable_stopping()->set_max_tokens(max_tokens);
    grpc::ClientContext context;
    const auto stream = stub_->Generate(&context, request);
    Answer answer;
    v1::GenerateResponse response;
    while (stream->Read(&response)) {
      if (first && answer.tokens.empty() && !response.token_ids().empty()) first();
      answer.tokens.insert(answer.tokens.end(), response.token_ids().begin(),
                           response.token_ids().end());
      answer.finish_reason = response.finish_reason();
    }
    answer.status = stream->Finish();
    return answer;
  }

 private:
  std::unique_ptr<v1::Inference::Stub> stub_;
};

class Processes : public ::testing::Test {
 protected:
  Processes() {
    worker::testing::TinyOptions options;
    options.eos = -1;
    worker::testing::WriteTinyDeepSeekV2(model_.path(), 1, options);
  }
  std::vector<std::string> WorkerArguments(const std::vector<std::string>& more = {}) const {
    std::vector<std::string> arguments = {"--model", model_.path(), "--id", "w", "--threads", "1"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }

  TempDir model_;
  TempDir state_;
};

int ExitCode(int wait_status) { return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : -1; }

TEST_F(Processes, SayWhereTheyListen) {
  Process scheduler("conclave-scheduler", {"--state", state_.path()});
  Process worker("conclave-worker", WorkerArguments({"--scheduler", scheduler.grpc()}));
  EXPECT_THAT(worker.ready(),
              ::testing::MatchesRegex("listening grpc=127.0.0.1:[0-9]+ metrics=127.0.0.1:[0-9]+"));
  TestWatch watch(scheduler.grpc());
  const auto view = watch.WaitForState("w", v1::WORKER_STATE_READY);
  ASSERT_TRUE(view.has_value());
  EXPECT_EQ(view->workers(0).pid(), worker.pid());
  EXPECT_EQ(view->workers(0).metrics_address(), worker.metrics());
  EXPECT_THAT(Scrape(*Address::Parse(scheduler.metrics())),
              HasSubstr("conclave_workers{state=\"ready\"} 1\n"));
  EXPECT_THAT(Scrape(*Address::Parse(worker.metrics())), HasSubstr("conclave_links 0\n"));
}

TEST_F(Processes, LoseNothingWhenAskedToStop) {
  Process worker("conclave-worker", WorkerArguments({"--unsafe-failpoints", "step.begin=delay:2"}));
  TestLink link(worker.grpc());
  for (uint64_t id = 1; id <= 4; ++id) ASSERT_TRUE(link.Submit(MakeSubmit(id, 8, 200)));
  link.WaitForTokens(4, 1);
  worker.Signal(SIGTERM);
  for (uint64_t id = 1; id <= 4; ++id) EXPECT_EQ(link.WaitForEnd(id).tokens.size(), 200u);
  EXPECT_TRUE(link.WaitForStatus().ok());
  EXPECT_EQ(ExitCode(worker.WaitForEnd()), 0) << worker.Log();
}

TEST_F(Processes, StopAtOnceAtTheSecondSignal) {
  Process worker("conclave-worker",
                 WorkerArguments({"--unsafe-failpoints", "step.begin=delay:50"}));
  TestLink link(worker.grpc());
  ASSERT_TRUE(link.Submit(MakeSubmit(1, 8, 1000)));
  link.WaitForTokens(1, 1);
  worker.Signal(SIGTERM);
  EXPECT_TRUE(link.WaitForDraining());
  worker.Signal(SIGTERM);
  EXPECT_EQ(ExitCode(worker.WaitForEnd()), 128 + SIGTERM);
}

TEST_F(Processes, SayThatTheyGaveUpDraining) {
  Process worker("conclave-worker", WorkerArguments({"--unsafe-failpoints", "step.begin=delay:50",
                                                     "--drain-ms", "60"}));
  TestLink link(worker.grpc());
  ASSERT_TRUE(link.Submit(MakeSubmit(1, 8, 1000)));
  link.WaitForTokens(1, 1);
  worker.Signal(SIGTERM);
  EXPECT_EQ(ExitCode(worker.WaitForEnd()), 1);
  EXPECT_THAT(worker.Log(), HasSubstr("1 sequences were left after 60 ms"));
}

TEST_F(Processes, DieWhereAFailpointSays) {
  Process worker("conclave-worker",
                 WorkerArguments({"--unsafe-failpoints", "step.publish=kill@5"}));
  TestLink link(worker.grpc());
  ASSERT_TRUE(link.Submit(MakeSubmit(1, 8, 200)));
  EXPECT_LE(link.WaitForEnd(1).tokens.size(), 4u);  // the fifth step was never told
  EXPECT_EQ(link.WaitForStatus().error_code(), grpc::UNAVAILABLE);
  const int end = worker.WaitForEnd();
  EXPECT_TRUE(WIFSIGNALED(end) && WTERMSIG(end) == SIGKILL);
}

TEST_F(Processes, RememberTheClusterOverAKill) {
  uint64_t version = 0;
  {
    Process scheduler("conclave-scheduler", {"--state", state_.path()});
    Process joining("conclave-worker", WorkerArguments({"--scheduler", scheduler.grpc()}));
    TestWatch watch(scheduler.grpc());
    const auto view = watch.WaitForState("w", v1::WORKER_STATE_READY);
    ASSERT_TRUE(view.has_value());
    version = view->version();
    scheduler.Signal(SIGKILL);
    scheduler.WaitForEnd();
  }
  Process scheduler("conclave-scheduler", {"--state", state_.path()});
  {
    TestWatch watch(scheduler.grpc());
    const auto view = watch.WaitFor([](const v1::ClusterView&) { return true; });
    ASSERT_TRUE(view.has_value());
    EXPECT_EQ(view->version(), version);
    EXPECT_EQ(view->workers(0).id(), "w");
  }
  scheduler.Signal(SIGTERM);
  EXPECT_EQ(ExitCode(scheduler.WaitForEnd()), 0) << scheduler.Log();
}

TEST_F(Processes, AnswerThroughRouterAndWorkerWhateverBecomesOfTheScheduler) {
  Process scheduler("conclave-scheduler", {"--state", state_.path()});
  Process worker("conclave-worker", WorkerArguments({"--scheduler", scheduler.grpc()}));
  Process router("conclave-router", {"--model", model_.path(), "--scheduler", scheduler.grpc()});
  Client client(router.grpc());
  const Client::Answer before = client.Generate(20, 50);
  EXPECT_TRUE(before.status.ok()) << before.status.error_message();
  EXPECT_EQ(before.tokens.size(), 50u);
  EXPECT_EQ(before.finish_reason, v1::FINISH_REASON_LENGTH);

  scheduler.Signal(SIGKILL);
  scheduler.WaitForEnd();
  EXPECT_EQ(client.Generate(20, 50).tokens, before.tokens);

  Process restarted("conclave-scheduler", {"--state", state_.path(), "--listen", scheduler.grpc()});
  TestWatch watch(restarted.grpc());
  EXPECT_TRUE(watch.WaitForState("w", v1::WORKER_STATE_READY).has_value());
  EXPECT_EQ(client.Generate(20, 50).tokens, before.tokens);
}

TEST_F(Processes, FinishAStreamWhenRouterAndWorkerAreAskedToStop) {
  Process worker("conclave-worker", WorkerArguments({"--unsafe-failpoints", "step.begin=delay:2"}));
  Process router("conclave-router", {"--model", model_.path(), "--worker", worker.grpc()});
  Client client(router.grpc());
  const Client::Answer answer = client.Generate(8, 300, [&] {
    router.Signal(SIGTERM);
    worker.Signal(SIGTERM);
  });
  EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.tokens.size(), 300u);
  EXPECT_EQ(ExitCode(router.WaitForEnd()), 0) << router.Log();
  EXPECT_EQ(ExitCode(worker.WaitForEnd()), 0) << worker.Log();
}

TEST_F(Processes, EndAtOnceWhenTheyCannotBegin) {
  Process no_model("conclave-worker", {});
  EXPECT_EQ(ExitCode(no_model.WaitForEnd()), 1);
  EXPECT_THAT(no_model.Log(), HasSubstr("--model"));
  Process bad_flag("conclave-scheduler", {"--stat", "x"});
  EXPECT_EQ(ExitCode(bad_flag.WaitForEnd()), 2);
  EXPECT_THAT(bad_flag.Log(), HasSubstr("--stat"));
  worker::testing::WriteFileOrDie(state_.File("scheduler.db"), std::string(4096, 'x'));
  Process bad_state("conclave-scheduler", {"--state", state_.path()});
  EXPECT_EQ(ExitCode(bad_state.WaitForEnd()), 1);
  EXPECT_THAT(bad_state.Log(), HasSubstr("scheduler.db"));
}

// Whoever waits for another's experts has nothing to drain.
TEST_F(Processes, EndAtTheFirstSignalWhileTheyStillStart) {
  worker::testing::WriteTinyDeepSeekV2(model_.path(), 1,
                                       {.edit = worker::testing::WithoutExperts()});
  Process scheduler("conclave-scheduler", {"--state", state_.File("scheduler")});
  for (const int signal : {SIGTERM, SIGINT}) {
    auto worker = Child::Start(
        std::string(CONCLAVE_BIN_DIR) + "/conclave-worker",
        WorkerArguments({"--fetch-experts", "--fetch-wait-ms", "3600000", "--scheduler",
                         scheduler.grpc(), "--state", state_.File("worker")}));
    ASSERT_TRUE(worker.ok()) << worker.status();
    std::string log;
    const auto waits = [&] {
      for (const std::string& line : (*worker)->err().Take()) log += line + "\n";
      return log.find("lacks experts: waiting for a worker that has them") != log.npos;
    };
    ASSERT_TRUE(conclave::testing::WaitFor(waits, "the worker to wait")) << log;
    (*worker)->Signal(signal);
    ASSERT_TRUE(conclave::testing::WaitFor([&] { return (*worker)->Reap().has_value(); },
                                           "the worker to end"));
    EXPECT_EQ(ExitCode(*(*worker)->Reap()), 128 + signal);
  }
  EXPECT_GT(std::stoull(worker::testing::ReadFileOrDie(state_.File("worker") + "/incarnation")),
            0u);
}

TEST_F(Processes, RefuseByNameWhatTheyCannotServe) {
  Process too_wide("conclave-worker", WorkerArguments({"--max-running", "1000"}));
  EXPECT_EQ(ExitCode(too_wide.WaitForEnd()), 1);
  EXPECT_THAT(too_wide.Log(), HasSubstr("--max-running is 1000 and --step-tokens 256"));

  const std::string link = state_.File("mod\xE8le");  // Latin-1
  std::filesystem::create_directory_symlink(model_.path(), link);
  Process bad_name("conclave-worker", {"--model", link});
  EXPECT_EQ(ExitCode(bad_name.WaitForEnd()), 1);
  EXPECT_THAT(bad_name.Log(), HasSubstr("is the model's, and it is not UTF-8"));
}

TEST_F(Processes, SayWhatTheyDoNotUseOfWhatTheyWereGiven) {
  std::filesystem::copy(model_.File("model.safetensors"), model_.File("consolidated.safetensors"));
  Process worker("conclave-worker",
                 WorkerArguments({"--context-limit", "99999", "--kv-bytes", "1000000000"}));
  worker.Signal(SIGTERM);
  EXPECT_EQ(ExitCode(worker.WaitForEnd()), 0);
  const std::string log = worker.Log();
  EXPECT_THAT(log, HasSubstr("level=warning"));
  EXPECT_THAT(log, HasSubstr("--context-limit is 99999, the model's limit is 1024"));
  EXPECT_THAT(log, HasSubstr("(--kv-bytes is 1000000000)"));
  EXPECT_THAT(log, HasSubstr("ignored beside the model's own files: consolidated.safetensors"));
}

}  // namespace
}  // namespace conclave::services::testing

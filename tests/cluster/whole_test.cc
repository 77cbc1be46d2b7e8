// Stories of the three processes together: a real router, scheduler and worker with a tiny random
// model.

#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <thread>

#include "services/worker_metrics.h"
#include "tests/cluster/fake_cluster.h"
#include "tests/cluster/whole_router.h"
#include "tests/testing/wait_for.h"

namespace conclave::services::testing {
namespace {

using conclave::testing::WaitFor;
using namespace std::chrono_literals;

class WholeTest : public ::testing::Test {
 protected:
  WholeTest() : router_(StartRouter(cluster_.model())) {}

  // Ready, with `model` as the directory of its tokenizer; stub_ then calls it.
  std::unique_ptr<RouterNode> StartRouter(const std::string& model,
                                          const Frontend::Options& frontend = {}) {
    auto router = testing::StartRouter(cluster_, model, frontend);
    stub_ = StubOf(*router);
    // The scheduler hears of the worker by its first heartbeat, the router by the view after it.
    const auto serves = [&] {
      return Generate(Request(1, 1)).status.error_code() != grpc::UNAVAILABLE;
    };
    EXPECT_TRUE(WaitFor(serves, "the router to know its worker"));
    return router;
  }

  static v1::GenerateRequest Request(uint64_t seed, uint32_t max_tokens) {
    return SeededRequest(seed, max_tokens);
  }
  Answer Generate(const v1::GenerateRequest& request) { return testing::Generate(*stub_, request); }

  int32_t BlocksUsed() { return cluster_.worker(0).engine().stats().planner.blocks_used; }

  ::testing::AssertionResult Watches(bool connected) {
    return WaitFor([&] { return router_->watch()->connected() == connected; },
                   connected ? "the watch to open" : "the watch to end");
  }

  FakeCluster cluster_;
  std::unique_ptr<v1::Inference::Stub> stub_;
  std::unique_ptr<RouterNode> router_;
};

TEST_F(WholeTest, AnswersSixtyFourAtOnceAsOneByOne) {
  std::vector<Answer> alone(64), together(64);
  for (uint64_t i = 0; i < 64; ++i) alone[i] = Generate(Request(i, 12));
  std::vector<std::thread> clients;
  for (uint64_t i = 0; i < 64; ++i) {
    clients.emplace_back([&, i] { together[i] = Generate(Request(i, 12)); });
  }
  for (std::thread& client : clients) client.join();
  for (size_t i = 0; i < 64; ++i) {
    ASSERT_TRUE(together[i].status.ok()) << together[i].status.error_message();
    EXPECT_EQ(together[i].tokens.size(), 12u);
    EXPECT_EQ(together[i].tokens, alone[i].tokens);
    EXPECT_EQ(together[i].logprobs, alone[i].logprobs);
    EXPECT_EQ(together[i].reason, v1::FINISH_REASON_LENGTH);
  }
}

TEST_F(WholeTest, LeavesNoBlockTakenAfterCancels) {
  for (uint64_t i = 0; i < 100; ++i) {
    grpc::ClientContext context;
    const auto reader = stub_->Generate(&context, Request(i, 900));
    v1::GenerateResponse message;
    for (uint64_t n = 0; n < i % 9; ++n) reader->Read(&message);
    context.TryCancel();
    while (reader->Read(&message)) {
    }
    EXPECT_EQ(reader->Finish().error_code(), grpc::CANCELLED);
  }
  EXPECT_TRUE(router_->frontend().WaitIdle(30s));
  EXPECT_TRUE(WaitFor([&] { return BlocksUsed() == 0; }, "the blocks to be free"));
  EXPECT_EQ(router_->frontend().stats().tokens, 0);
}

TEST_F(WholeTest, ServesOnWhileTheSchedulerIsGoneAndComesBack) {
  const Answer before = Generate(Request(5, 20));
  cluster_.KillScheduler();
  ASSERT_TRUE(Watches(false));
  EXPECT_EQ(Generate(Request(5, 20)).tokens, before.tokens);
  cluster_.StartScheduler();
  ASSERT_TRUE(Watches(true));
  EXPECT_EQ(Generate(Request(5, 20)).tokens, before.tokens);
}

TEST_F(WholeTest, FinishesStreamsWhenTheWorkerDrains) {
  std::atomic<int> complete = 0, too_late = 0, begun = 0;
  std::vector<std::thread> clients;
  for (uint64_t i = 0; i < 8; ++i) {
    clients.emplace_back([&, i] {
      const Answer answer = Generate(Request(i, 300));
      complete += answer.status.ok() && answer.tokens.size() == 300;
      too_late += answer.status.error_code() == grpc::UNAVAILABLE && answer.tokens.empty();
    });
  }
  const auto running = [&] { return cluster_.worker(0).engine().stats().planner.running; };
  EXPECT_TRUE(WaitFor([&] { return running() >= 4; }, "four sequences to run"));
  EXPECT_TRUE(cluster_.worker(0).Drain(60s).ok());
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(complete + too_late, 8);
  EXPECT_GE(complete, 4);
}

TEST_F(WholeTest, FinishesWhatWasAdmittedWhenTheOnlyWorkerDrains) {
  router_ = StartRouter(cluster_.model(), {.admission = {.home = {.requests = 2}}});
  std::atomic<int> complete = 0;
  std::vector<std::thread> clients;
  for (uint64_t i = 0; i < 8; ++i) {
    clients.emplace_back([&, i] { complete += Generate(Request(i, 900)).tokens.size() == 900; });
  }
  // All are admitted: six of them wait, unless some are done already.
  EXPECT_TRUE(WaitFor([&] { return router_->frontend().stats().requests + complete >= 8; },
                      "all eight to be admitted"));
  EXPECT_TRUE(cluster_.worker(0).Drain(60s).ok());
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(complete, 8);
}

TEST_F(WholeTest, TellsEveryClientThatAsksAgainThatItsRouterIsGoing) {
  std::atomic<bool> stop = false;
  std::atomic<int> odd = 0;
  std::vector<std::thread> clients;
  for (uint64_t i = 0; i < 8; ++i) {
    clients.emplace_back([&, i] {
      while (!stop) {
        const auto code = Generate(Request(i, 3)).status.error_code();
        odd += code != grpc::OK && code != grpc::UNAVAILABLE;
      }
    });
  }
  EXPECT_TRUE(router_->Drain(60s).ok());
  stop = true;
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(odd, 0);
}

TEST_F(WholeTest, FinishesStreamsWhenTheRouterDrains) {
  std::thread client([&] { EXPECT_EQ(Generate(Request(3, 500)).tokens.size(), 500u); });
  EXPECT_TRUE(
      WaitFor([&] { return router_->frontend().stats().running > 0; }, "the request to run"));
  EXPECT_TRUE(router_->Drain(60s).ok());
  EXPECT_EQ(Generate(Request(4, 1)).status.error_code(), grpc::UNAVAILABLE);
  client.join();
}

// What is a little too long is read, so that the refusal can say what it is.
TEST_F(WholeTest, NamesAPromptThatIsTooLongAndRefusesOneFarTooLongBySize) {
  v1::GenerateRequest request = Request(1, 8);
  request.mutable_prompt()->set_text(std::string(800'000, 'a'));
  grpc::Status status = Generate(request).status;
  EXPECT_EQ(status.error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_EQ(status.error_message().rfind("prompt.text has 800000 bytes, the limit is ", 0), 0u)
      << status.error_message();
  request.mutable_prompt()->set_text(std::string(2 << 20, 'a'));
  status = Generate(request).status;
  EXPECT_EQ(status.error_code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_NE(status.error_message().find("larger than max"), std::string::npos)
      << status.error_message();
}

// A dashboard made for one vLLM server sums over all it scrapes.
TEST_F(WholeTest, CountsNothingThatVllmCountsInTwoProcesses) {
  MetricsWriter router, worker;
  router_->frontend().WriteMetrics(router);
  WriteWorkerMetrics(cluster_.worker(0).engine(), cluster_.worker(0).service().stats(), worker);
  std::set<std::string> of_router;
  for (const auto& family : router.Take()) of_router.insert(family.name);
  for (const auto& family : worker.Take()) {
    if (family.name.rfind("vllm:", 0) != 0) continue;
    // The one both have counts two queues; a request waits in one of them.
    EXPECT_EQ(of_router.count(family.name), family.name == "vllm:num_requests_waiting")
        << family.name;
  }
}

TEST_F(WholeTest, AnswersTextWithTextAndWithoutATokenizerSaysSo) {
  v1::GenerateRequest request = Request(1, 8);
  request.mutable_prompt()->set_text("hello");
  EXPECT_TRUE(Generate(request).status.ok());

  router_ = StartRouter(cluster_.state().path());
  const Answer answer = Generate(request);
  EXPECT_EQ(answer.status.error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_EQ(answer.status.error_message(),
            "this router has no tokenizer: send prompt.tokens, and no stopping.stop");
}

// Prompts that repeat themselves, with ends of every kind.
v1::GenerateRequest Repetitive(uint64_t seed) {
  v1::GenerateRequest request = SeededRequest(seed, 1 + seed * 5 % 64);
  std::string text;
  for (uint64_t i = 0; i < 4 + seed % 7; ++i) text += "and so on, ";
  request.mutable_prompt()->set_text(text);
  const auto letter = static_cast<uint32_t>(97 + seed % 3);
  (*request.mutable_sampling()->mutable_logit_bias())[letter] = 6.0f;
  if (seed % 3 == 0) request.mutable_sampling()->set_frequency_penalty(0.2f);
  if (seed % 4 == 1) request.mutable_stopping()->add_stop("aa");
  if (seed % 4 == 2) request.mutable_stopping()->add_stop_token_ids(98);
  return request;
}

TEST(Whole, AnswersTheSameWithGuessesAtNextTokensAndInFewerSteps) {
  std::vector<std::vector<Answer>> answers;
  std::vector<uint64_t> steps;
  for (const int32_t guesses : {0, 8}) {
    FakeCluster::Options options;
    options.worker.engine.speculation.tokens = guesses;
    FakeCluster cluster(options);
    const auto router = StartRouter(cluster, cluster.model());
    const auto stub = StubOf(*router);
    ASSERT_TRUE(WaitFor(
        [&] {
          return Generate(*stub, SeededRequest(1, 1)).status.error_code() != grpc::UNAVAILABLE;
        },
        "the router to know its worker"));
    answers.emplace_back();
    for (uint64_t seed = 0; seed < 24; ++seed) {
      answers.back().push_back(Generate(*stub, Repetitive(seed)));
      EXPECT_TRUE(answers.back().back().status.ok())
          << answers.back().back().status.error_message();
    }
    const worker::Engine::Stats stats = cluster.worker(0).engine().stats();
    EXPECT_EQ(stats.speculated_accepted > 0, guesses > 0);
    steps.push_back(stats.steps);
  }
  EXPECT_TRUE(answers[0] == answers[1]);
  EXPECT_LT(steps[1], steps[0]);
}

}  // namespace
}  // namespace conclave::services::testing

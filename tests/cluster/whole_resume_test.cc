// Workers and routers that die under real streams: what clients get is what they would have got.

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "services/convert_inference.h"
#include "tests/cluster/fake_cluster.h"
#include "tests/cluster/test_link.h"
#include "tests/cluster/whole_router.h"
#include "tests/testing/wait_for.h"

namespace conclave::services::testing {
namespace {

using conclave::testing::WaitFor;
using namespace std::chrono_literals;

class WholeResume : public ::testing::Test {
 protected:
  static constexpr uint32_t kTokens = 200;

  static std::unique_ptr<RouterNode> StartRouter(const FakeCluster& cluster) {
    return testing::StartRouter(cluster, cluster.model());
  }

  static ::testing::AssertionResult WaitForWorkers(RouterNode& router, size_t count) {
    return WaitFor(
        [&] {
          const v1::ClusterView view = router.frontend().view();
          size_t linked = 0;
          for (const v1::WorkerInfo& worker : view.workers()) linked += worker.has_load();
          return linked == count;
        },
        "the router to be linked to the workers");
  }

  static v1::GenerateRequest Request(uint64_t seed) {
    v1::GenerateRequest request = SeededRequest(seed, kTokens);
    request.set_request_id("request-" + std::to_string(seed));
    request.mutable_sampling()->set_frequency_penalty(seed % 3 == 0 ? 0.5f : 0.0f);
    return request;
  }

  static Answer Generate(const RouterNode& router, const v1::GenerateRequest& request,
                         std::atomic<size_t>* heard = nullptr) {
    return testing::Generate(*StubOf(router), request, heard);
  }
};

TEST_F(WholeResume, LosesNothingWithAWorker) {
  constexpr uint64_t kStreams = 16;
  FakeCluster cluster({.workers = 3});
  const auto router = StartRouter(cluster);
  ASSERT_TRUE(WaitForWorkers(*router, 3));
  std::vector<Answer> undisturbed(kStreams), disturbed(kStreams);
  for (uint64_t i = 0; i < kStreams; ++i) undisturbed[i] = Generate(*router, Request(i));
  std::atomic<size_t> heard = 0;
  std::vector<std::thread> clients;
  for (uint64_t i = 0; i < kStreams; ++i) {
    clients.emplace_back([&, i] { disturbed[i] = Generate(*router, Request(i), &heard); });
  }
  for (const size_t victim : {0, 1}) {
    const size_t enough = (victim + 1) * kStreams * kTokens / 4;
    EXPECT_TRUE(WaitFor([&] { return heard >= enough; }, "the streams to run"));
    cluster.KillWorker(victim);
  }
  for (std::thread& client : clients) client.join();
  for (uint64_t i = 0; i < kStreams; ++i) {
    SCOPED_TRACE(i);
    ASSERT_TRUE(disturbed[i].status.ok()) << disturbed[i].status.error_message();
    EXPECT_EQ(disturbed[i].tokens.size(), kTokens);
    EXPECT_EQ(disturbed[i], undisturbed[i]);
  }
  EXPECT_TRUE(router->frontend().WaitIdle(10s));
}

// A router that was killed leaves a broken stream and an orphan at the worker.
TEST_F(WholeResume, GoesOnThroughAnotherRouterWhereTheOrphanIs) {
  FakeCluster::Options options;
  // The undisturbed run takes 200 steps. Of the other, the link breaks in a long one before its
  // end.
  options.worker.failpoints = {"step.begin=delay:500@230"};
  FakeCluster cluster(options);
  const auto router = StartRouter(cluster);
  ASSERT_TRUE(WaitForWorkers(*router, 1));
  const v1::GenerateRequest request = Request(3);
  const Answer whole = Generate(*router, request);
  ASSERT_EQ(whole.tokens.size(), kTokens);

  worker::Engine& engine = cluster.worker(0).engine();
  {
    TestLink killed(cluster.worker(0).address());
    const v1::ModelInfo model = killed.Hello().model();
    const router::Request plain = ToRequest(request);
    const std::vector<scheduler::TokenId> prompt(plain.prompt.tokens.begin(),
                                                 plain.prompt.tokens.end());
    v1::Submit submit =
        ToSubmit(plain, Assign(plain, prompt, kTokens, *plain.seed, model), {}, std::nullopt);
    submit.set_sequence(1);
    ASSERT_TRUE(killed.Submit(submit));
    killed.WaitForTokens(1, 20);
  }
  ASSERT_TRUE(WaitFor([&] { return engine.orphans().size() == 1; }, "the worker to keep it"));
  const uint64_t before = engine.stats().generated_tokens;

  v1::GenerateRequest rest = request;
  rest.set_resume_from(15);
  const Answer answer = Generate(*router, rest);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.tokens, std::vector<uint32_t>(whole.tokens.begin() + 15, whole.tokens.end()));
  EXPECT_EQ(answer.logprobs, std::vector<float>(whole.logprobs.begin() + 15, whole.logprobs.end()));
  EXPECT_EQ(engine.stats().orphans_taken_over, 1u);
  EXPECT_EQ(engine.stats().generated_tokens - before, kTokens - 15u);
  EXPECT_TRUE(engine.orphans().empty());
}

TEST_F(WholeResume, GoesOnThroughAnotherRouterThatFindsNothingOfIt) {
  FakeCluster cluster({.workers = 2});
  const auto first = StartRouter(cluster);
  auto second = StartRouter(cluster);
  ASSERT_TRUE(WaitForWorkers(*first, 2));
  ASSERT_TRUE(WaitForWorkers(*second, 2));
  for (const uint64_t seed : {4, 5}) {
    const Answer whole = Generate(*first, Request(seed));
    v1::GenerateRequest rest = Request(seed);
    rest.set_resume_from(77);
    const Answer answer = Generate(*second, rest);
    ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
    EXPECT_EQ(answer.tokens, std::vector<uint32_t>(whole.tokens.begin() + 77, whole.tokens.end()));
    EXPECT_EQ(whole.text.substr(whole.text.size() - answer.text.size()), answer.text);
  }
}

}  // namespace
}  // namespace conclave::services::testing

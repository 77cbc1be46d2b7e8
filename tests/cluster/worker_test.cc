// Stories of one worker and its routers.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "services/channel.h"
#include "services/grpc_status.h"
#include "services/worker_link.h"
#include "tests/cluster/fake_cluster.h"
#include "tests/cluster/test_link.h"
#include "tests/services/testing/scrape.h"
#include "tests/testing/wait_for.h"

namespace conclave::services::testing {
namespace {

using conclave::testing::WaitFor;
using ::testing::HasSubstr;
using ::testing::Not;

FakeCluster::Options Alone() {
  FakeCluster::Options options{.scheduler = false};
  options.model.eos = -1;  // random weights would stop at random places
  options.worker.service.leftovers_answer = std::chrono::milliseconds(0);
  return options;
}

// For stories that are told while a sequence runs: with nothing to compute it would be over first.
FakeCluster::Options Slow() {
  FakeCluster::Options options = Alone();
  options.worker.failpoints = {"step.begin=delay:2"};
  return options;
}

TEST(Worker, SaysWhoItIsBeforeAnythingElse) {
  FakeCluster cluster(Alone());
  TestLink link(cluster.worker(0).address());
  const v1::WorkerHello hello = link.Hello();
  EXPECT_EQ(hello.worker_id(), "worker-0");
  EXPECT_GT(hello.incarnation(), 0u);
  EXPECT_EQ(hello.model().vocab_size(), 260u);
  EXPECT_EQ(hello.model().moe_layers(), 2u);
  EXPECT_EQ(hello.model().numerics(), cluster.worker(0).engine().numerics());
  EXPECT_GT(hello.kv_blocks(), 0u);
}

// So that a router can tell one that is silent from one that has no news.
TEST(Worker, SaysSomethingEverySoOftenAsPromised) {
  FakeCluster::Options options = Alone();
  options.worker.service.load_period = options.worker.service.pulse = std::chrono::milliseconds(1);
  FakeCluster cluster(options);
  WorkerLink link({.address = cluster.worker(0).address()}, Credentials(), [] {});
  scheduler::Micros now{0};
  const auto heard = [&] {
    link.Tick(now += std::chrono::milliseconds(1));
    return link.stats().messages_in;
  };
  EXPECT_TRUE(WaitFor([&] { return heard() >= 20; }, "twenty messages"));
  EXPECT_TRUE(link.pulses());
  EXPECT_EQ(link.hello()->pulse_ms(), 1u);
}

TEST(Worker, StreamsASequenceToItsEnd) {
  FakeCluster cluster(Alone());
  TestLink link(cluster.worker(0).address());
  v1::Submit submit = MakeSubmit(7, 20, 12);
  submit.set_logprobs(0);
  submit.set_prompt_logprobs(true);
  submit.set_routing(true);
  ASSERT_TRUE(link.Submit(submit));
  const TestLink::Sequence sequence = link.WaitForEnd(7);
  EXPECT_EQ(sequence.end.reason(), v1::End::LENGTH) << sequence.end.message();
  EXPECT_EQ(sequence.tokens.size(), 12u);
  EXPECT_EQ(sequence.logprobs.size(), 12u);
  EXPECT_EQ(sequence.prompt_logprobs, 19);
  // uint16 [tokens, 2 layers, top 2], for every token that was computed: all but the last.
  EXPECT_EQ(sequence.routing_slots.size(), (20u + 12u - 1u) * 2u * 2u * 2u);
  const grpc::Status status = link.Close();
  EXPECT_TRUE(status.ok()) << status.error_message();
}

TEST(Worker, ScoresAPromptWithoutGenerating) {
  FakeCluster cluster(Alone());
  TestLink link(cluster.worker(0).address());
  v1::Submit submit = MakeSubmit(1, 40, 0);
  submit.set_prompt_logprobs(true);
  ASSERT_TRUE(link.Submit(submit));
  const TestLink::Sequence sequence = link.WaitForEnd(1);
  EXPECT_EQ(sequence.end.reason(), v1::End::SCORED);
  EXPECT_EQ(sequence.prompt_logprobs, 39);
  EXPECT_TRUE(sequence.tokens.empty());
}

TEST(Worker, SendsAStepOfManySequencesInOneMessage) {
  FakeCluster cluster(Alone());
  TestLink link(cluster.worker(0).address());
  link.Hello();
  v1::ToWorker message;
  for (uint64_t id = 1; id <= 32; ++id) *message.add_submit() = MakeSubmit(id, 8, 32);
  ASSERT_TRUE(link.Send(message));
  size_t tokens = 0;
  for (uint64_t id = 1; id <= 32; ++id) tokens += link.WaitForEnd(id).tokens.size();
  EXPECT_EQ(tokens, 32u * 32u);
  EXPECT_LT(cluster.worker(0).service().stats().messages, tokens / 4);
}

TEST(Worker, GivesTheSameTokensInAnyCompany) {
  FakeCluster cluster(Alone());
  TestLink link(cluster.worker(0).address());
  ASSERT_TRUE(link.Submit(MakeSubmit(1, 30, 20)));
  const TestLink::Sequence alone = link.WaitForEnd(1);
  TestLink other(cluster.worker(0).address());
  for (uint64_t id = 1; id <= 10; ++id) {
    ASSERT_TRUE(other.Submit(MakeSubmit(id, static_cast<uint32_t>(5 * id), 20)));
  }
  ASSERT_TRUE(link.Submit(MakeSubmit(2, 30, 20)));
  EXPECT_EQ(link.WaitForEnd(2).tokens, alone.tokens);
  EXPECT_EQ(other.WaitForEnd(6).tokens, alone.tokens);
}

TEST(Worker, FreesTheBlocksOfACancelledSequence) {
  FakeCluster cluster(Slow());
  TestLink link(cluster.worker(0).address());
  ASSERT_TRUE(link.Submit(MakeSubmit(1, 8, 1000)));
  EXPECT_GE(link.WaitForTokens(1, 3).tokens.size(), 3u);
  ASSERT_TRUE(link.Cancel(1));
  const TestLink::Sequence sequence = link.WaitForEnd(1);
  EXPECT_EQ(sequence.end.reason(), v1::End::ERROR);
  EXPECT_EQ(sequence.end.code(), grpc::CANCELLED);
  EXPECT_EQ(cluster.worker(0).engine().stats().planner.blocks_used, 0);
}

TEST(Worker, KeepsAPausedSequenceUntilItIsResumed) {
  FakeCluster cluster(Slow());
  TestLink link(cluster.worker(0).address());
  v1::ToWorker message;
  *message.add_submit() = MakeSubmit(1, 8, 128);
  *message.add_submit() = MakeSubmit(2, 8, 64);
  message.add_pause(1);
  ASSERT_TRUE(link.Send(message));
  EXPECT_EQ(link.WaitForEnd(2).tokens.size(), 64u);
  const TestLink::Sequence paused = link.WaitForTokens(1, 0);
  EXPECT_EQ(paused.end.reason(), v1::End::REASON_UNSPECIFIED);
  ASSERT_TRUE(link.Submit(MakeSubmit(3, 8, 16)));
  EXPECT_EQ(link.WaitForEnd(3).tokens.size(), 16u);
  EXPECT_EQ(link.WaitForTokens(1, 0).tokens, paused.tokens) << "others ran, it did not";
  message.Clear();
  message.add_resume(1);
  ASSERT_TRUE(link.Send(message));
  EXPECT_EQ(link.WaitForEnd(1).tokens.size(), 128u);
}

TEST(Worker, EndsASequenceWhoseTimeIsUp) {
  FakeCluster cluster(Alone());
  TestLink link(cluster.worker(0).address());
  v1::Submit submit = MakeSubmit(1, 8, 1000);
  submit.set_timeout_us(1);
  ASSERT_TRUE(link.Submit(submit));
  const TestLink::Sequence sequence = link.WaitForEnd(1);
  EXPECT_EQ(sequence.end.code(), grpc::DEADLINE_EXCEEDED);
  EXPECT_EQ(cluster.worker(0).engine().stats().planner.blocks_used, 0);
}

TEST(Worker, RefusesWhatCanNeverWorkByName) {
  FakeCluster cluster(Alone());
  TestLink link(cluster.worker(0).address());
  v1::Submit outside = MakeSubmit(1, 8, 8);
  outside.set_prompt(3, 260);
  v1::Submit huge = MakeSubmit(2, 8, 8);
  huge.set_prompt(0, 0xffffffffu);
  v1::Submit adapter = MakeSubmit(3, 8, 8);
  adapter.set_adapter("nobody");
  v1::ToWorker message;
  for (const v1::Submit& submit :
       {outside, huge, adapter, MakeSubmit(4, 0, 8), MakeSubmit(5, 8, 100'000)}) {
    *message.add_submit() = submit;
  }
  ASSERT_TRUE(link.Send(message));
  EXPECT_EQ(link.WaitForEnd(1).end.code(), grpc::INVALID_ARGUMENT);
  EXPECT_THAT(link.WaitForEnd(1).end.message(), HasSubstr("260"));
  EXPECT_EQ(link.WaitForEnd(2).end.code(), grpc::INVALID_ARGUMENT);
  EXPECT_EQ(link.WaitForEnd(3).end.code(), grpc::NOT_FOUND);
  EXPECT_EQ(link.WaitForEnd(4).end.code(), grpc::INVALID_ARGUMENT);
  EXPECT_EQ(link.WaitForEnd(5).end.code(), grpc::INVALID_ARGUMENT);
  EXPECT_EQ(cluster.worker(0).service().stats().refused, 5u);
}

TEST(Worker, RefusesMoreThanItsQueueHolds) {
  FakeCluster::Options options = Slow();
  options.worker.engine.planner.max_running = 1;
  options.worker.engine.planner.max_waiting = 1;
  FakeCluster cluster(options);
  TestLink link(cluster.worker(0).address());
  v1::ToWorker message;
  for (uint64_t id = 1; id <= 3; ++id) {
    v1::Submit& submit = *message.add_submit();
    submit = MakeSubmit(id, 8, 50);
    submit.set_goes_on(true);  // so that no grant is asked for
  }
  ASSERT_TRUE(link.Send(message));
  EXPECT_EQ(link.WaitForEnd(3).end.code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_EQ(link.WaitForEnd(1).tokens.size(), 50u);
  EXPECT_EQ(link.WaitForEnd(2).tokens.size(), 50u);
}

TEST(Worker, EndsTheSequencesOfARouterThatLeaves) {
  FakeCluster cluster(Alone());
  TestLink stays(cluster.worker(0).address());
  {
    TestLink leaves(cluster.worker(0).address());
    for (uint64_t id = 1; id <= 4; ++id) ASSERT_TRUE(leaves.Submit(MakeSubmit(id, 8, 1000)));
    leaves.WaitForTokens(4, 1);
  }
  ASSERT_TRUE(stays.Submit(MakeSubmit(1, 8, 64)));
  EXPECT_EQ(stays.WaitForEnd(1).tokens.size(), 64u);
  // Cancellation reaches the worker on its own time; draining waits for all of them.
  EXPECT_TRUE(cluster.worker(0).Drain(std::chrono::seconds(10)).ok());
  EXPECT_EQ(cluster.worker(0).engine().stats().planner.blocks_used, 0);
}

TEST(Worker, CutsOffARouterThatDoesNotReadAndServesTheOthers) {
  FakeCluster::Options options = Alone();
  options.worker.service.outbound_bytes = 64 << 10;
  FakeCluster cluster(options);
  TestLink hangs(cluster.worker(0).address(), /*reads=*/false);
  TestLink reads(cluster.worker(0).address());
  v1::Submit loud = MakeSubmit(0, 64, 900);
  loud.set_logprobs(20);
  // Loud until it is cut: how much gRPC and the kernel take before anything waits is theirs to say.
  for (uint64_t id = 1; cluster.worker(0).service().stats().links_cut == 0; ++id) {
    loud.set_sequence(id);
    hangs.Submit(loud);  // fails once the stream is cut
    ASSERT_TRUE(reads.Submit(MakeSubmit(id, 8, 50)));
    EXPECT_EQ(reads.WaitForEnd(id).tokens.size(), 50u);
  }
  hangs.StartReading();
  EXPECT_EQ(hangs.WaitForStatus().error_code(), grpc::CANCELLED);
  EXPECT_TRUE(cluster.worker(0).Drain(std::chrono::seconds(10)).ok());
  EXPECT_EQ(cluster.worker(0).engine().stats().planner.blocks_used, 0);
}

TEST(Worker, WaitsNotForEverForARouterThatLeavesWithoutReading) {
  FakeCluster::Options options = Alone();
  options.worker.service.last_message = std::chrono::milliseconds(0);
  FakeCluster cluster(options);
  TestLink hangs(cluster.worker(0).address(), /*reads=*/false);
  v1::Submit loud = MakeSubmit(0, 64, 900);
  loud.set_logprobs(20);
  WorkerService& service = cluster.worker(0).service();
  // How much gRPC and the kernel take before anything waits is theirs to say.
  for (uint64_t id = 1; service.stats().waiting_bytes < size_t{1} << 20; ++id) {
    loud.set_sequence(id);
    ASSERT_TRUE(hangs.Submit(loud));
    ASSERT_TRUE(WaitFor([&] { return cluster.worker(0).engine().stats().ended_length == id; },
                        "the engine to say it"));
  }
  hangs.LeaveWithoutReading();
  const auto gone = [&] {
    service.Step();
    return service.stats().links == 0;
  };
  EXPECT_TRUE(WaitFor(gone, "the link to be gone"));
  EXPECT_EQ(service.stats().links_cut, 1u);
}

TEST(Worker, FinishesWhatItHasWhenDraining) {
  FakeCluster cluster(Slow());
  TestLink link(cluster.worker(0).address());
  ASSERT_TRUE(link.Submit(MakeSubmit(1, 8, 400)));
  link.WaitForTokens(1, 1);
  std::jthread drain([&] { EXPECT_TRUE(cluster.worker(0).Drain(std::chrono::seconds(30)).ok()); });
  EXPECT_TRUE(link.WaitForDraining());
  v1::ToWorker nothing_left;
  nothing_left.set_still_waiting(0);
  ASSERT_TRUE(link.Send(nothing_left));
  ASSERT_TRUE(link.Submit(MakeSubmit(2, 8, 8)));
  EXPECT_EQ(link.WaitForEnd(2).end.code(), grpc::UNAVAILABLE);
  EXPECT_EQ(link.WaitForEnd(1).tokens.size(), 400u);
  EXPECT_TRUE(link.WaitForStatus().ok());
}

TEST(Worker, TakesWhatARouterHasLeftBeforeItDrains) {
  FakeCluster::Options options = Slow();
  options.worker.service.leftovers_answer = std::chrono::seconds(30);
  FakeCluster cluster(options);
  TestLink link(cluster.worker(0).address());
  link.Hello();
  std::jthread drain([&] { EXPECT_TRUE(cluster.worker(0).Drain(std::chrono::seconds(30)).ok()); });
  EXPECT_TRUE(link.WaitForDraining());
  v1::ToWorker message;
  message.set_still_waiting(1);
  ASSERT_TRUE(link.Send(message));
  ASSERT_TRUE(link.Submit(MakeSubmit(1, 8, 20)));
  EXPECT_EQ(link.WaitForEnd(1).tokens.size(), 20u);
  // The last word, beside a last sequence; what comes after it is refused.
  message.set_still_waiting(0);
  *message.add_submit() = MakeSubmit(2, 8, 20);
  ASSERT_TRUE(link.Send(message));
  ASSERT_TRUE(link.Submit(MakeSubmit(3, 8, 20)));
  EXPECT_EQ(link.WaitForEnd(2).tokens.size(), 20u);
  EXPECT_EQ(link.WaitForEnd(3).end.code(), grpc::UNAVAILABLE);
}

TEST(Worker, GivesUpDrainingAfterItsBound) {
  FakeCluster::Options options = Alone();
  options.worker.failpoints = {"step.begin=delay:20"};
  FakeCluster cluster(options);
  TestLink link(cluster.worker(0).address());
  ASSERT_TRUE(link.Submit(MakeSubmit(1, 8, 1000)));
  link.WaitForTokens(1, 1);
  const absl::Status drained = cluster.worker(0).Drain(std::chrono::milliseconds(30));
  EXPECT_EQ(drained.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(drained.message()), HasSubstr("1 sequences"));
  cluster.KillWorker(0);
  EXPECT_NE(link.WaitForEnd(1).end.reason(), v1::End::LENGTH);
}

TEST(Worker, TellsPrometheusWhatItDid) {
  FakeCluster cluster({.workers = 0, .scheduler = false});
  WorkerNode::Options options{.model = cluster.model(), .id = "w", .threads = 1};
  const auto node = WorkerNode::Start(options, nullptr);
  ASSERT_TRUE(node.ok()) << node.status();
  TestLink link((*node)->address());
  v1::Submit submit = MakeSubmit(1, 20, 0);
  ASSERT_TRUE(link.Submit(submit));
  ASSERT_EQ(link.WaitForEnd(1).end.reason(), v1::End::SCORED);
  const std::string series = Scrape(*Address::Parse((*node)->metrics_address()));
  const std::string name = (*node)->engine().model().spec.name;
  const std::string labels = "engine=\"0\",model_name=\"" + name + "\"";
  EXPECT_THAT(series, HasSubstr("vllm:prompt_tokens_total{" + labels + "} 20\n"));
  EXPECT_THAT(series, HasSubstr("vllm:num_requests_running{" + labels + "} 0\n"));
  // Requests are the router's to count, or a sum over all processes would count them twice.
  EXPECT_THAT(series, Not(HasSubstr("vllm:request_success_total")));
  EXPECT_THAT(series,
              HasSubstr("conclave_sequences_ended_total{" + labels + ",reason=\"scored\"} 1\n"));
  EXPECT_THAT(series,
              HasSubstr("vllm:iteration_tokens_total_bucket{" + labels + ",le=\"16\"} 0\n"));
  EXPECT_THAT(series,
              HasSubstr("vllm:iteration_tokens_total_bucket{" + labels + ",le=\"32\"} 1\n"));
  // 20 tokens to 2 experts in each of 2 layers.
  EXPECT_THAT(series,
              HasSubstr("conclave_expert_tokens_total{engine=\"0\",layer=\"1\",model_name=\"" +
                        name + "\"} 40\n"));
  EXPECT_THAT(series, HasSubstr("conclave_links 1\n"));
}

TEST(Worker, TellsPrometheusWhatItFoundInsteadOfComputing) {
  FakeCluster cluster({.workers = 0, .scheduler = false});
  WorkerNode::Options options{.model = cluster.model(), .id = "w", .threads = 1};
  const auto node = WorkerNode::Start(options, nullptr);
  ASSERT_TRUE(node.ok()) << node.status();
  TestLink link((*node)->address());
  for (const uint64_t sequence : {1, 2}) {
    ASSERT_TRUE(link.Submit(MakeSubmit(sequence, 40, 1)));
    ASSERT_EQ(link.WaitForEnd(sequence).end.reason(), v1::End::LENGTH);
  }
  const std::string series = Scrape(*Address::Parse((*node)->metrics_address()));
  const std::string labels =
      "{engine=\"0\",model_name=\"" + (*node)->engine().model().spec.name + "\"}";
  EXPECT_THAT(series, HasSubstr("vllm:prompt_tokens_total" + labels + " 80\n"));
  EXPECT_THAT(series, HasSubstr("vllm:prefix_cache_queries_total" + labels + " 80\n"));
  EXPECT_THAT(series, HasSubstr("vllm:prefix_cache_hits_total" + labels + " 32\n"));
  EXPECT_THAT(series, HasSubstr("vllm:kv_cache_usage_perc" + labels + " 0\n"));
  EXPECT_THAT(series, HasSubstr("conclave_kv_blocks_cached" + labels + " 2\n"));
  EXPECT_THAT(series, HasSubstr("conclave_kv_blocks_evicted_total" + labels + " 0\n"));
}

TEST(Worker, TellsPrometheusWhatItGuessedAndWhatOfItWasRight) {
  FakeCluster cluster({.workers = 0, .scheduler = false});
  WorkerNode::Options options{.model = cluster.model(), .id = "w", .threads = 1};
  options.engine.speculation.tokens = 4;
  const auto node = WorkerNode::Start(options, nullptr);
  ASSERT_TRUE(node.ok()) << node.status();
  TestLink link((*node)->address());
  v1::Submit submit = MakeSubmit(1, 1, 20);
  for (int i = 0; i < 5; ++i) submit.add_prompt(9);
  (*submit.mutable_logit_bias())[9] = 100.0f;
  ASSERT_TRUE(link.Submit(submit));
  ASSERT_EQ(link.WaitForEnd(1).end.reason(), v1::End::LENGTH);
  const std::string series = Scrape(*Address::Parse((*node)->metrics_address()));
  const std::string labels =
      "{engine=\"0\",model_name=\"" + (*node)->engine().model().spec.name + "\"}";
  // 1 with the prompt, then 3, 5, 5 and 5; the last of the 20 has room for nothing beside it.
  EXPECT_THAT(series, HasSubstr("vllm:generation_tokens_total" + labels + " 20\n"));
  EXPECT_THAT(series, HasSubstr("conclave_speculated_tokens_total" + labels + " 14\n"));
  EXPECT_THAT(series, HasSubstr("conclave_speculated_accepted_total" + labels + " 14\n"));
}

TEST(Worker, TakesNoMoreRoutersThanItsLimit) {
  FakeCluster::Options options = Alone();
  options.worker.service.max_links = 1;
  FakeCluster cluster(options);
  TestLink first(cluster.worker(0).address());
  EXPECT_EQ(first.Hello().worker_id(), "worker-0");
  TestLink second(cluster.worker(0).address());
  EXPECT_EQ(second.WaitForStatus().error_code(), grpc::RESOURCE_EXHAUSTED);
}

TEST(Worker, FailsToStartNamingWhatIsWrong) {
  FakeCluster cluster({.workers = 0, .scheduler = false});
  const auto error = [&](auto&& change) {
    WorkerNode::Options options{.model = cluster.model(), .id = "w", .metrics = ""};
    change(options);
    return std::string(cluster.TryWorker(options).message());
  };
  EXPECT_THAT(error([](auto& o) { o.model = ""; }), HasSubstr("--model"));
  EXPECT_THAT(error([](auto& o) { o.model = "/nonexistent"; }), HasSubstr("/nonexistent"));
  EXPECT_THAT(error([](auto& o) { o.id = "a b"; }), HasSubstr("a b"));
  EXPECT_THAT(error([](auto& o) { o.numerics = "abacus"; }), HasSubstr("abacus"));
  EXPECT_THAT(error([](auto& o) { o.returns = "columns"; }),
              HasSubstr("--returns: owners cannot return \"columns\": want rows or sums"));
  EXPECT_THAT(error([](auto& o) { o.failpoints = {"nowhere=kill"}; }), HasSubstr("nowhere"));
  EXPECT_THAT(error([](auto& o) { o.scheduler = "nowhere"; }), HasSubstr("nowhere"));
  EXPECT_THAT(error([](auto& o) { o.engine.kv_bytes = 1; }), HasSubstr("KV"));
}

}  // namespace
}  // namespace conclave::services::testing

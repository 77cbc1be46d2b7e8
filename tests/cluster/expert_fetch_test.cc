// Stories of workers whose checkpoints lack the experts: they get them from others, bit for bit, or
// say by name what they cannot get, and never serve anything else.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <thread>

#include "services/convert_placement.h"
#include "tests/cluster/ask_status.h"
#include "tests/cluster/fake_cluster.h"
#include "tests/cluster/whole_router.h"
#include "tests/testing/wait_for.h"
#include "tests/worker/testing/without_experts.h"

namespace conclave::services::testing {
namespace {

using conclave::testing::WaitFor;
using ::testing::AllOf;
using ::testing::HasSubstr;
using namespace std::chrono_literals;

constexpr int32_t kLayers = 2;   // that have experts
constexpr int32_t kExperts = 8;  // of each

// Experts whose slot is even to the first of these workers, others to the second.
Plan Halves(int32_t workers, int32_t even, int32_t odd) {
  Plan plan{.workers = workers, .layers = kLayers, .experts = kExperts};
  for (int32_t expert = 0; expert < kLayers * kExperts; ++expert)
    plan.owners.push_back({expert % 2 == 0 ? even : odd});
  return plan;
}

class ExpertFetchTest : public ::testing::Test {
 protected:
  ExpertFetchTest() {
    lacking_ = lacking_parent_.File(std::filesystem::path(cluster_.model()).filename());
    std::filesystem::create_directory(lacking_);
    WriteLacking(worker::testing::WithoutExperts());
  }

  void WriteLacking(decltype(worker::testing::TinyOptions::edit) edit) {
    worker::testing::WriteTinyDeepSeekV2(lacking_, /*seed=*/1, {.edit = std::move(edit)});
  }

  // The first worker, and what it answers alone.
  void StartWhole(const std::vector<std::string>& failpoints = {}) {
    AddWhole(failpoints);
    alone_ = Answers();
  }
  size_t AddLacking() {
    return cluster_.AddWorker([this](WorkerNode::Options& options) {
      options.model = lacking_;
      options.fetch_experts = true;
      options.engine.expert_wait = 1s;
    });
  }
  size_t AddWhole(const std::vector<std::string>& failpoints = {}) {
    return cluster_.AddWorker([&](WorkerNode::Options& options) {
      options.failpoints = failpoints;
      options.service.experts.chunk_bytes = 256;
    });
  }
  WorkerNode& worker(size_t i) { return cluster_.worker(i); }

  grpc::Status Apply(const Plan& plan) {
    const auto joined = [&] {
      const v1::StatusResponse status = AskStatus(cluster_.scheduler_address());
      return std::count_if(status.workers().begin(), status.workers().end(), [](const auto& info) {
               return info.state() != v1::WORKER_STATE_DEAD;
             }) >= plan.workers;
    };
    EXPECT_TRUE(WaitFor(joined, "the workers to join"));
    const auto stub =
        v1::Cluster::NewStub(MakeChannel(cluster_.scheduler_address(), Credentials()));
    grpc::ClientContext context;
    v1::ApplyResponse response;
    return stub->Apply(&context, ToProto(plan), &response);
  }

  std::vector<Answer> Answers() {
    const auto router = StartRouter(cluster_, cluster_.model());
    const auto stub = StubOf(*router);
    const auto serves = [&] {
      return Generate(*stub, SeededRequest(1, 1)).status.error_code() != grpc::UNAVAILABLE;
    };
    EXPECT_TRUE(WaitFor(serves, "the router to know its workers"));
    std::vector<Answer> answers;
    for (uint64_t seed = 0; seed < 12; ++seed) {
      answers.push_back(Generate(*stub, SeededRequest(seed, 16)));
      EXPECT_TRUE(answers.back().status.ok()) << answers.back().status.error_message();
    }
    return answers;
  }

  uint64_t Failures(size_t i, FetchFailure why) {
    return worker(i).fetcher()->stats().failures[static_cast<size_t>(why)];
  }

  FakeCluster cluster_{{.workers = 0}};
  worker::testing::TempDir lacking_parent_;
  std::string lacking_;
  std::vector<Answer> alone_;  // of a whole worker
};

TEST_F(ExpertFetchTest, ServesHalfOfTheExpertsFromAnotherWorkersCheckpointBitForBit) {
  StartWhole();
  const size_t lacking = AddLacking();
  const grpc::Status applied = Apply(Halves(2, 0, 1));
  ASSERT_TRUE(applied.ok()) << applied.error_message();
  EXPECT_EQ(Answers(), alone_);
  EXPECT_EQ(worker(lacking).fetcher()->stats().experts, 8u);
  EXPECT_EQ(worker(lacking).engine().expert_stats().store.fetched, 8u);
  EXPECT_GT(worker(lacking).engine().expert_stats().server.rows, 0u)
      << "rows it computed for others";

  // What it no longer owns goes when the old epoch is released; all of it at the end.
  ASSERT_TRUE(Apply(Halves(2, 1, 0)).ok());
  EXPECT_EQ(Answers(), alone_);
  EXPECT_TRUE(WaitFor([&] { return worker(lacking).engine().expert_stats().store.fetched == 8; },
                      "the other half to be given back"));
  ASSERT_TRUE(Apply(Halves(2, 0, 0)).ok());
  EXPECT_TRUE(
      WaitFor([&] { return worker(lacking).engine().expert_stats().store.fetched_bytes == 0; },
              "all memory to be given back"));
}

TEST_F(ExpertFetchTest, GivesOnWhatItHasFetched) {
  StartWhole();
  AddLacking();
  ASSERT_TRUE(Apply(Halves(2, 0, 1)).ok());
  const size_t second = AddLacking();
  ASSERT_TRUE(Apply(Halves(3, 1, 2)).ok());
  EXPECT_EQ(Answers(), alone_);
  EXPECT_EQ(worker(1).service().stats().experts.given, 8u) << "owners are asked first";
  EXPECT_EQ(worker(second).engine().expert_stats().store.fetched, 8u);
}

TEST_F(ExpertFetchTest, AsksAnotherWorkerWhenOneBreaksOff) {
  StartWhole({"expert.chunk=error@2"});
  AddWhole();
  const size_t lacking = AddLacking();
  const grpc::Status applied = Apply(Halves(3, 2, 0));  // even ones are first asked of the first
  ASSERT_TRUE(applied.ok()) << applied.error_message();
  EXPECT_EQ(Failures(lacking, FetchFailure::kBroken), 1u);
  EXPECT_EQ(worker(lacking).engine().expert_stats().store.fetched, 8u);
  EXPECT_EQ(Answers(), alone_);
}

TEST_F(ExpertFetchTest, WaitsItsTurnWhereAWorkerGivesAsManyAsItMay) {
  cluster_.AddWorker([](WorkerNode::Options& options) {
    options.failpoints = {"expert.chunk=delay:5"};
    options.service.experts = {.max_fetches = 1, .chunk_bytes = 256};
  });
  const size_t lacking = AddLacking();
  const grpc::Status applied = Apply(Halves(2, 0, 1));
  ASSERT_TRUE(applied.ok()) << applied.error_message();
  EXPECT_EQ(worker(lacking).engine().expert_stats().store.fetched, 8u);
  EXPECT_GT(Failures(lacking, FetchFailure::kBusy), 0u);
}

TEST_F(ExpertFetchTest, GoesOnWithoutAWorkerThatDiesWhileItGives) {
  StartWhole();
  const size_t dies = AddWhole({"expert.chunk=delay:20"});
  const size_t lacking = AddLacking();
  grpc::Status applied;
  std::thread applying([&] { applied = Apply(Halves(3, 0, 2)); });  // odd ones of the second
  EXPECT_TRUE(WaitFor([&] { return worker(dies).service().stats().experts.bytes > 0; },
                      "an expert to be on its way"));
  cluster_.KillWorker(dies);
  applying.join();
  // A plan that names the dead is taken back; one of the living is not.
  if (!applied.ok()) {
    EXPECT_EQ(applied.error_code(), grpc::ABORTED) << applied.error_message();
    const auto again = [&] { return Apply(Halves(2, 0, 1)).ok(); };
    EXPECT_TRUE(WaitFor(again, "the dead to be given up"));
  }
  EXPECT_EQ(worker(lacking).engine().expert_stats().store.fetched, 8u);
  EXPECT_EQ(Answers(), alone_);
}

TEST_F(ExpertFetchTest, BelievesNoBytesThatAreNotThoseOfTheDigest) {
  StartWhole({"expert.spoil=error"});
  const size_t lacking = AddLacking();
  const grpc::Status refused = Apply(Halves(2, 0, 1));
  EXPECT_EQ(refused.error_code(), grpc::ABORTED);
  EXPECT_THAT(refused.error_message(),
              AllOf(HasSubstr("is not in the checkpoint at hand: no worker gave it: worker-0: its "
                              "bytes are not those of its SHA-256"),
                    HasSubstr("nothing has changed")));
  EXPECT_GT(Failures(lacking, FetchFailure::kCorrupt), 0u);
  EXPECT_EQ(worker(lacking).engine().expert_stats().store.fetched, 0u);

  AddWhole();  // an honest one
  const grpc::Status applied = Apply(Halves(3, 2, 1));
  ASSERT_TRUE(applied.ok()) << applied.error_message();
  EXPECT_EQ(worker(lacking).engine().expert_stats().store.fetched, 8u);
  EXPECT_EQ(Answers(), alone_);
}

TEST_F(ExpertFetchTest, RefusesACheckpointWhoseDenseWeightsAreNotTheClusters) {
  StartWhole();
  WriteLacking([](nlohmann::json& config, std::vector<worker::testing::TinyTensor>& tensors) {
    worker::testing::WithoutExperts()(config, tensors);
    config["rope_theta"] = 10001.0;
  });
  WorkerNode::Options options;
  options.model = lacking_;
  options.id = "other";
  options.scheduler = cluster_.scheduler_address();
  options.metrics.clear();
  options.fetch_experts = true;
  const absl::Status refused = cluster_.TryWorker(options);
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("worker-0 serves another checkpoint"));
}

TEST_F(ExpertFetchTest, RefusesWhatIsAskedForOfAnotherModelOrWithoutADeadline) {
  StartWhole();
  const auto stub = v1::Worker::NewStub(MakeChannel(worker(0).address(), Credentials()));
  const auto ask = [&](const std::string& model, uint32_t expert, bool deadline) {
    grpc::ClientContext context;
    if (deadline) context.set_deadline(std::chrono::system_clock::now() + 10s);
    v1::FetchExpertRequest request;
    request.set_model(model);
    request.set_expert(expert);
    const auto reader = stub->FetchExpert(&context, request);
    v1::ExpertChunk chunk;
    while (reader->Read(&chunk)) {
    }
    return reader->Finish().error_code();
  };
  const std::string model = worker(0).engine().model().digest;
  EXPECT_EQ(ask(model, 0, true), grpc::OK);
  EXPECT_EQ(ask("another", 0, true), grpc::FAILED_PRECONDITION);
  EXPECT_EQ(ask(model, kLayers * kExperts, true), grpc::INVALID_ARGUMENT);
  EXPECT_EQ(ask(model, 0, false), grpc::INVALID_ARGUMENT);
}

TEST_F(ExpertFetchTest, WaitsForAnExpertThatNobodyHasAndServesOnWhenSomebodyDoes) {
  StartWhole();
  const size_t lacking = AddLacking();
  ASSERT_TRUE(Apply(Halves(2, 0, 1)).ok());
  // Its last words have time enough on a busy machine.
  const auto router = StartRouter(cluster_, cluster_.model(),
                                  {.request = {.last_words_share = 0.5, .last_words_max = 60s}});
  const auto stub = StubOf(*router);
  const auto ask = [&](std::optional<std::chrono::milliseconds> timeout) {
    grpc::ClientContext context;
    if (timeout) context.set_deadline(std::chrono::system_clock::now() + *timeout);
    const auto reader = stub->Generate(&context, SeededRequest(2, 4));
    v1::GenerateResponse message;
    while (reader->Read(&message)) {
    }
    return reader->Finish();
  };
  EXPECT_TRUE(WaitFor([&] { return ask(2s).ok(); }, "both to serve"));

  // An emergency epoch gives the survivor what it cannot have.
  cluster_.KillWorker(0);
  const auto bereft = [&] { return AskStatus(cluster_.scheduler_address()).epoch() == 2; };
  EXPECT_TRUE(WaitFor(bereft, "the emergency epoch"));
  for (const auto& timeout : {std::optional(4000ms), std::optional<std::chrono::milliseconds>()}) {
    const grpc::Status status = ask(timeout);
    EXPECT_EQ(status.error_code(), grpc::UNAVAILABLE);
    EXPECT_THAT(status.error_message(), HasSubstr("no live owner for expert"));
  }
  EXPECT_EQ(worker(lacking).epoch(), 1u) << "it does not serve what it has not got";

  cluster_.AddWorker();  // with all experts
  EXPECT_TRUE(WaitFor([&] { return ask(2s).ok(); }, "the experts to be fetched"));
  const Answer after = Generate(*stub, SeededRequest(2, 16));
  EXPECT_TRUE(after.status.ok()) << after.status.error_message();
  EXPECT_EQ(after, alone_[2]);
}

}  // namespace
}  // namespace conclave::services::testing

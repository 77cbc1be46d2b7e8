// Stories of clusters whose workers hold experts packed: what they answer is what a cluster answers
// whose checkpoint has the packed numbers in BF16, wherever experts are and however they came
// there.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "services/convert_placement.h"
#include "tests/cluster/ask_status.h"
#include "tests/cluster/fake_cluster.h"
#include "tests/cluster/whole_router.h"
#include "tests/testing/wait_for.h"
#include "tests/worker/testing/packed_checkpoint.h"
#include "tests/worker/testing/without_experts.h"
#include "worker/device/packed.h"

namespace conclave::services::testing {
namespace {

using conclave::testing::WaitFor;
using ::testing::HasSubstr;
using worker::DType;

// DeepSeek-V2, and so with shared experts.
worker::testing::TinyOptions Packable(const worker::testing::Edit& edit = nullptr) {
  return {.type = DType::kBF16, .dim = 64, .expert_ffn_dim = 32, .edit = edit};
}

std::vector<Answer> AnswersOf(FakeCluster& cluster) {
  const auto router = StartRouter(cluster, cluster.model());
  const auto stub = StubOf(*router);
  const auto serves = [&] {
    return Generate(*stub, SeededRequest(1, 1)).status.error_code() != grpc::UNAVAILABLE;
  };
  EXPECT_TRUE(WaitFor(serves, "the router to know its workers"));
  std::vector<Answer> answers;
  for (uint64_t seed = 0; seed < 8; ++seed) {
    answers.push_back(Generate(*stub, SeededRequest(seed, 12)));
    EXPECT_TRUE(answers.back().status.ok()) << answers.back().status.error_message();
  }
  return answers;
}

class PackedExpertsTest : public ::testing::TestWithParam<DType> {
 protected:
  const DType form_ = GetParam();
  const std::string weights_ = worker::NameOfPacked(form_);

  std::vector<Answer> Expected() const {
    FakeCluster plain({.workers = 1, .model = Packable(worker::testing::Unpacked(form_))});
    return AnswersOf(plain);
  }
};

TEST_P(PackedExpertsTest, OfTwoWorkersAnswerAsOneCheckpointOfTheirNumbersDoes) {
  FakeCluster::Options options{.workers = 1, .model = Packable()};
  options.worker.weights = weights_;
  FakeCluster cluster(options);
  // The second has no experts of its own, and half of them are to be there.
  const worker::testing::TempDir parent;
  const std::string lacking =
      parent.File(std::filesystem::path(cluster.model()).filename().string());
  std::filesystem::create_directory(lacking);
  worker::testing::WriteTinyDeepSeekV2(lacking, /*seed=*/1,
                                       Packable(worker::testing::WithoutExperts()));
  cluster.AddWorker([&](WorkerNode::Options& second) {
    second.model = lacking;
    second.fetch_experts = true;
  });
  const auto joined = [&] { return AskStatus(cluster.scheduler_address()).workers_size() == 2; };
  ASSERT_TRUE(WaitFor(joined, "the workers to join"));
  Plan plan{.workers = 2, .layers = 2, .experts = 8};
  for (int32_t expert = 0; expert < 16; ++expert) plan.owners.push_back({expert % 2});
  const auto stub = v1::Cluster::NewStub(MakeChannel(cluster.scheduler_address(), Credentials()));
  grpc::ClientContext context;
  v1::ApplyResponse response;
  const grpc::Status applied = stub->Apply(&context, ToProto(plan), &response);
  ASSERT_TRUE(applied.ok()) << applied.error_message();
  EXPECT_EQ(AnswersOf(cluster), Expected());
  EXPECT_GT(cluster.worker(1).engine().expert_stats().server.rows, 0u);
  EXPECT_EQ(cluster.worker(1).engine().expert_stats().store.fetched, 8u);
}

INSTANTIATE_TEST_SUITE_P(Forms, PackedExpertsTest, ::testing::Values(DType::kMxInt8, DType::kMxFp4),
                         [](const auto& form) { return worker::NameOfPacked(form.param); });

TEST(PackedExperts, KeepAWorkerOutThatHasThemAsTheyAreStored) {
  FakeCluster::Options options{.workers = 1, .model = Packable()};
  options.worker.weights = "mxint8";
  FakeCluster cluster(options);
  ASSERT_TRUE(WaitFor([&] { return AskStatus(cluster.scheduler_address()).workers_size() == 1; },
                      "the worker to join"));
  WorkerNode::Options other{.model = cluster.model(),
                            .id = "other",
                            .scheduler = cluster.scheduler_address(),
                            .metrics = "",
                            .threads = 1,
                            .heartbeat = {.period = std::chrono::milliseconds(0)}};
  absl::Status refused;
  auto node = WorkerNode::Start(other, [&](const absl::Status& status) { refused = status; });
  ASSERT_TRUE(node.ok()) << node.status();
  EXPECT_EQ((*node)->heartbeat()->Step().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.message()),
              HasSubstr("-bf16, worker worker-0 as " + cluster.worker(0).engine().numerics() +
                        "; see --numerics, --weights, --dense-weights and --returns"));
  EXPECT_THAT(cluster.worker(0).engine().numerics(), HasSubstr("-bf16-mxint8"));
}

}  // namespace
}  // namespace conclave::services::testing

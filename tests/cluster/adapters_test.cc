// Stories of adapters that come and go: an operator, the scheduler, and workers that serve.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <future>

#include "services/grpc_status.h"
#include "tests/cluster/ask_status.h"
#include "tests/cluster/fake_cluster.h"
#include "tests/cluster/test_link.h"
#include "tests/cluster/test_watch.h"
#include "tests/testing/wait_for.h"
#include "tests/worker/testing/tiny_adapter.h"

namespace conclave::services::testing {
namespace {

using conclave::testing::WaitFor;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using namespace std::chrono_literals;
using Operation = absl::StatusOr<v1::AdapterOperation>;

FakeCluster::Options Quick(int workers, bool placed) {
  FakeCluster::Options options{.workers = workers};
  options.model.eos = -1;
  options.worker.heartbeat.period = 20ms;
  options.scheduling.service.tick = 10ms;
  options.scheduling.service.placement.workers = placed ? workers : 0;
  options.scheduling.service.adapters.listen = 100ms;
  return options;
}

class AdaptersTest : public ::testing::Test {
 protected:
  explicit AdaptersTest(int workers = 2, bool placed = true) : cluster_(Quick(workers, placed)) {
    TestWatch watch(cluster_.scheduler_address());
    EXPECT_TRUE(watch.WaitFor([&](const v1::ClusterView& view) {
      return std::count_if(view.workers().begin(), view.workers().end(), [](const auto& worker) {
               return worker.state() == v1::WORKER_STATE_READY;
             }) == workers;
    }));
  }

  // An adapter's directory, anew.
  std::string Write(const std::string& name, uint64_t seed) {
    const std::string directory = directory_.File(name);
    std::filesystem::remove_all(directory);
    std::filesystem::create_directory(directory);
    worker::testing::WriteAdapter(worker::testing::MakeTinyAdapter(cluster_.model(), seed),
                                  directory);
    return directory;
  }

  Operation Add(const std::string& name, const std::string& source, const std::string& id = "") {
    v1::AddAdapterRequest request;
    request.set_name(name);
    request.set_source(source);
    request.set_operation_id(id);
    return Call(&v1::Cluster::Stub::AddAdapter, request);
  }
  Operation Remove(const std::string& name) {
    v1::RemoveAdapterRequest request;
    request.set_name(name);
    return Call(&v1::Cluster::Stub::RemoveAdapter, request);
  }
  template <typename Request>
  Operation Call(grpc::Status (v1::Cluster::Stub::*method)(grpc::ClientContext*, const Request&,
                                                           v1::AdapterOperation*),
                 const Request& request) {
    const auto stub =
        v1::Cluster::NewStub(MakeChannel(cluster_.scheduler_address(), Credentials()));
    grpc::ClientContext context;
    v1::AdapterOperation response;
    const absl::Status status = FromGrpc(((*stub).*method)(&context, request, &response));
    if (!status.ok()) return status;
    return response;
  }

  v1::Submit Through(const std::string& digest, uint64_t sequence, uint32_t tokens = 20) {
    v1::Submit submit = MakeSubmit(sequence, 8, tokens);
    if (!digest.empty()) submit.set_adapter("any@" + digest);
    return submit;
  }
  std::vector<uint32_t> Tokens(const std::string& digest, size_t worker = 0, uint32_t tokens = 20) {
    TestLink link(cluster_.worker(worker).address());
    EXPECT_TRUE(link.Submit(Through(digest, 1, tokens)));
    return link.WaitForEnd(1).tokens;
  }
  uint64_t HeldBytes() {
    uint64_t bytes = 0;
    for (size_t i = 0; i < workers_; ++i)
      bytes += cluster_.worker(i).engine().expert_stats().adapters.bytes;
    return bytes;
  }

  size_t workers_ = 2;
  FakeCluster cluster_;
  worker::testing::TempDir directory_;
};

TEST_F(AdaptersTest, OneIsServedByAllWorkersWhenItsAdditionIsAnswered) {
  const Operation added = Add("law", Write("law", 7));
  ASSERT_TRUE(added.ok()) << added.status();
  EXPECT_EQ(added->stage(), v1::ADAPTER_STAGE_DONE);
  EXPECT_EQ(HeldBytes(), added->bytes());
  const std::vector<uint32_t> tokens = Tokens(added->digest());
  EXPECT_EQ(tokens.size(), 20u);
  EXPECT_THAT(tokens, Not(::testing::ContainerEq(Tokens(""))));
  EXPECT_EQ(Tokens(added->digest(), 1), tokens);
  const v1::StatusResponse status = AskStatus(cluster_.scheduler_address());
  ASSERT_EQ(status.adapters_size(), 1);
  EXPECT_EQ(status.adapters(0).name(), "law");
  EXPECT_EQ(status.adapters(0).bytes(), added->bytes());
}

TEST_F(AdaptersTest, ARequestKeepsTheVersionItBeganWithWhileItIsReplaced) {
  const Operation first = Add("law", Write("law", 7));
  ASSERT_TRUE(first.ok()) << first.status();
  const std::vector<uint32_t> tokens = Tokens(first->digest(), 0, 60);
  TestLink link(cluster_.worker(0).address());
  ASSERT_TRUE(link.Submit(Through(first->digest(), 1, 60)));
  link.WaitForTokens(1, 1);
  v1::ToWorker pause;
  pause.add_pause(1);
  ASSERT_TRUE(link.Send(pause));
  const Operation second = Add("law", Write("law", 8));
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(second->replaced(), first->digest());
  EXPECT_NE(second->digest(), first->digest());
  EXPECT_EQ(HeldBytes(), first->bytes() + second->bytes()) << "the first is held by a request";
  v1::ToWorker resume;
  resume.add_resume(1);
  ASSERT_TRUE(link.Send(resume));
  EXPECT_EQ(link.WaitForEnd(1).tokens, tokens);
  EXPECT_TRUE(WaitFor([&] { return HeldBytes() == second->bytes(); }, "the first to go"));
  EXPECT_EQ(link.WaitForEnd(1).end.reason(), v1::End::LENGTH);
}

TEST_F(AdaptersTest, ARemovalGivesBackAllItsBytes) {
  const Operation added = Add("law", Write("law", 7));
  ASSERT_TRUE(added.ok()) << added.status();
  const Operation removed = Remove("law");
  ASSERT_TRUE(removed.ok()) << removed.status();
  EXPECT_EQ(removed->bytes_freed(), added->bytes());
  EXPECT_EQ(HeldBytes(), 0u);
  EXPECT_EQ(Remove("law").status().code(), absl::StatusCode::kNotFound);
  TestLink link(cluster_.worker(0).address());
  ASSERT_TRUE(link.Submit(Through(added->digest(), 1)));
  EXPECT_EQ(link.WaitForEnd(1).end.reason(), v1::End::ERROR);
}

TEST_F(AdaptersTest, ABadOneIsRefusedByNameAndLeavesNothing) {
  const std::string directory = Write("law", 7);
  std::filesystem::resize_file(directory + "/model-00001-of-000001.safetensors", 100);
  const Operation added = Add("law", directory);
  EXPECT_EQ(added.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(added.status().message()),
              AllOf(HasSubstr("adapter law: worker worker-"), HasSubstr(directory + "/model-")));
  EXPECT_THAT(AskStatus(cluster_.scheduler_address()).adapters(), IsEmpty());
  EXPECT_EQ(HeldBytes(), 0u);
  EXPECT_EQ(Add("law", directory_.File("none")).status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(Add("law", Write("law", 7)).ok()) << "once it is whole";
}

TEST_F(AdaptersTest, ASchedulerThatIsKilledInBetweenGoesOn) {
  const std::string directory = Write("law", 7);
  auto first = std::async(std::launch::async, [&] { return Add("law", directory, "mine"); });
  TestWatch watch(cluster_.scheduler_address());
  watch.WaitFor([](const v1::ClusterView& view) {
    return view.has_check() || view.prepared().adapters_size() > 0 || view.adapters_size() > 0;
  });
  cluster_.KillScheduler();
  first.wait();  // with whatever it was told
  cluster_.StartScheduler();
  Operation again = absl::UnavailableError("");
  ASSERT_TRUE(WaitFor(
      [&] {
        again = Add("law", directory, "mine");
        return again.ok();
      },
      "the operation to be told"));
  EXPECT_EQ(HeldBytes(), again->bytes());
  EXPECT_EQ(Tokens(again->digest()).size(), 20u);
}

TEST_F(AdaptersTest, OneThatJoinsServesThemToo) {
  const Operation added = Add("law", Write("law", 7));
  ASSERT_TRUE(added.ok()) << added.status();
  const std::vector<uint32_t> tokens = Tokens(added->digest());
  cluster_.AddWorker();
  TestWatch watch(cluster_.scheduler_address());
  ASSERT_TRUE(watch.WaitForState("worker-2", v1::WORKER_STATE_READY));
  EXPECT_EQ(Tokens(added->digest(), 2), tokens);
}

class AloneAdaptersTest : public AdaptersTest {
 protected:
  AloneAdaptersTest() : AdaptersTest(1, false) { workers_ = 1; }
};

TEST_F(AloneAdaptersTest, AWorkerWithoutAPlacementServesOneToo) {
  const std::vector<uint32_t> base = Tokens("");
  const Operation added = Add("law", Write("law", 7));
  ASSERT_TRUE(added.ok()) << added.status();
  EXPECT_THAT(Tokens(added->digest()), Not(::testing::ContainerEq(base)));
  EXPECT_EQ(Tokens(""), base);
}

}  // namespace
}  // namespace conclave::services::testing

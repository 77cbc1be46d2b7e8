// Stories of more adapters than there is memory for, before real workers: they take turns, and who
// asks for one is answered as if there were room for all.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/cluster/ask_status.h"
#include "tests/cluster/fake_cluster.h"
#include "tests/cluster/whole_router.h"
#include "tests/testing/wait_for.h"
#include "tests/worker/testing/tiny_adapter.h"

namespace conclave::services::testing {
namespace {

using conclave::testing::WaitFor;
using ::testing::HasSubstr;
using namespace std::chrono_literals;

const std::vector<std::string> kNames = {"a", "b", "c", "d", "e"};
constexpr uint64_t kSeeds = 4;

FakeCluster::Options Quick() {
  FakeCluster::Options options = QuickAdapters(2);
  options.scheduling.adapter_turn_ms = 100;
  return options;
}

Answer Ask(v1::Inference::Stub& stub, const std::string& adapter, uint64_t seed,
           const std::function<void()>& heard = nullptr, std::chrono::seconds deadline = 120s) {
  v1::GenerateRequest request = SeededRequest(seed, 10);
  request.set_adapter(adapter);
  const auto each = [&heard](const v1::GenerateResponse&) {
    if (heard) heard();
  };
  return Listen(stub, request, each, deadline);
}

// Five adapters of one size. Their answers are known from when there was room for all; since then
// there is room for two.
class AdapterMemoryTest : public ::testing::Test {
 protected:
  AdapterMemoryTest() : cluster_(Quick()) {
    Frontend::Options options;
    options.adapter_wait = 120s;
    router_ = StartRouter(cluster_, cluster_.model(), options);
    stub_ = StubOf(*router_);
    for (const std::string& name : kNames) Add(name);
    EXPECT_TRUE(WaitFor([&] { return Ask(*stub_, "e", 1).status.ok(); }, "the last to answer"));
    for (const std::string& name : kNames) {
      for (uint64_t seed = 0; seed < kSeeds; ++seed) known_[{name, seed}] = Ask(*stub_, name, seed);
    }
    cluster_.KillScheduler();
    cluster_.scheduling().service.adapters.rotation.bytes = 2 * each_;
    cluster_.StartScheduler();
    EXPECT_TRUE(WaitFor([&] { return MostHeld() <= 2 * each_; }, "three to leave memory"));
  }

  std::string Directory(const std::string& name) { return directory_.File(name); }

  void Add(const std::string& name) {
    std::filesystem::create_directory(Directory(name));
    worker::testing::WriteAdapter(worker::testing::MakeTinyAdapter(
                                      cluster_.model(), static_cast<uint64_t>(name[0]),
                                      {.which = worker::testing::TinyAdapterOptions::Which::kAll}),
                                  Directory(name));
    absl::StatusOr<v1::AdapterOperation> added;
    EXPECT_TRUE(WaitFor(
        [&] {
          added = AddAdapter(cluster_, name, Directory(name));
          return added.ok();
        },
        "the adapter to be added"));
    each_ = (added->bytes() + 1) / 2;
  }

  // On the worker that has most.
  uint64_t MostHeld() {
    uint64_t most = 0;
    for (size_t i = 0; i < 2; ++i)
      most = std::max(most, cluster_.worker(i).engine().expert_stats().adapters.bytes);
    return most;
  }

  v1::Adapter Row(const std::string& name) {
    const v1::StatusResponse status = AskStatus(cluster_.scheduler_address());
    for (const v1::Adapter& adapter : status.adapters()) {
      if (adapter.name() == name) return adapter;
    }
    return {};
  }
  std::string OneOnDisk() {
    for (const std::string& name : kNames) {
      if (Row(name).on_disk()) return name;
    }
    return "";
  }

  FakeCluster cluster_;
  worker::testing::TempDir directory_;
  std::unique_ptr<RouterNode> router_;
  std::unique_ptr<v1::Inference::Stub> stub_;
  uint64_t each_ = 0;  // bytes on each worker
  std::map<std::pair<std::string, uint64_t>, Answer> known_;
};

TEST_F(AdapterMemoryTest, EachAnswersBitForBitWhileTheyTakeTurns) {
  std::map<std::pair<std::string, uint64_t>, Answer> heard;
  for (const auto& [what, answer] : known_) heard[what];
  std::atomic<bool> too_much = false;
  const auto watch = [&] {
    if (MostHeld() > 2 * each_) too_much = true;
  };
  std::vector<std::thread> clients;
  for (auto& [what, answer] : heard) {
    clients.emplace_back(
        [&, what = what, out = &answer] { *out = Ask(*stub_, what.first, what.second, watch); });
  }
  for (std::thread& client : clients) client.join();
  for (const auto& [what, answer] : heard) {
    SCOPED_TRACE(what.first + " " + std::to_string(what.second));
    EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
    EXPECT_EQ(answer, known_.at(what));
  }
  EXPECT_FALSE(too_much);
  EXPECT_GE(cluster_.scheduler().service().stats().adapters.to_memory, 3u);
}

TEST_F(AdapterMemoryTest, AWorkersDeathLosesNobodyWhoWaits) {
  std::map<std::string, Answer> heard;
  for (const std::string& name : kNames) heard[name];
  std::vector<std::thread> clients;
  for (auto& [name, answer] : heard)
    clients.emplace_back([&, name = name, out = &answer] { *out = Ask(*stub_, name, 1); });
  cluster_.KillWorker(1);
  for (std::thread& client : clients) client.join();
  for (const auto& [name, answer] : heard) {
    SCOPED_TRACE(name);
    EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
    EXPECT_EQ(answer, known_.at({name, 1}));
  }
}

TEST_F(AdapterMemoryTest, WhoCannotHaveMemoryIsToldWhyInTime) {
  const std::string lost = OneOnDisk();
  ASSERT_NE(lost, "");
  const std::string file = Directory(lost) + "/model-00001-of-000001.safetensors";
  const auto size = std::filesystem::file_size(file);
  std::filesystem::resize_file(file, size - 1);
  const std::string why = "adapter '" + lost + "' is on disk and got no place in memory: worker ";
  const auto told = [&] {
    const Answer answer = Ask(*stub_, lost, 1, nullptr, 1s);
    return answer.status.error_code() == grpc::UNAVAILABLE &&
           answer.status.error_message().rfind(why, 0) == 0;
  };
  EXPECT_TRUE(WaitFor(told, "the reason to come to the client"));
  EXPECT_THAT(Row(lost).problem(), HasSubstr("cannot"));
  for (const std::string& name : kNames) {
    if (name != lost) {
      EXPECT_EQ(Ask(*stub_, name, 2), known_.at({name, 2}));
    }
  }
}

TEST_F(AdapterMemoryTest, OneThatIsRemovedOnDiskIsGone) {
  const std::string name = OneOnDisk();
  const auto stub = v1::Cluster::NewStub(MakeChannel(cluster_.scheduler_address(), Credentials()));
  v1::RemoveAdapterRequest request;
  request.set_name(name);
  v1::AdapterOperation response;
  grpc::ClientContext context;
  ASSERT_TRUE(stub->RemoveAdapter(&context, request, &response).ok());
  EXPECT_EQ(response.stage(), v1::ADAPTER_STAGE_DONE);
  EXPECT_EQ(Row(name).name(), "");
  EXPECT_EQ(Ask(*stub_, name, 1).status.error_code(), grpc::NOT_FOUND);
}

}  // namespace
}  // namespace conclave::services::testing

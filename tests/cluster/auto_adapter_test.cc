// Requests that leave their adapter to the router, before real workers: what is chosen answers as
// if it had been named, whatever else is served and whoever dies meanwhile.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "tests/cluster/fake_cluster.h"
#include "tests/cluster/whole_router.h"
#include "tests/testing/wait_for.h"
#include "tests/worker/testing/tiny_adapter.h"

namespace conclave::services::testing {
namespace {

using conclave::testing::WaitFor;
using ::testing::Contains;
using namespace std::chrono_literals;

constexpr uint64_t kPrompts = 24;

class AutoAdapterTest : public ::testing::Test {
 protected:
  AutoAdapterTest() : cluster_(QuickAdapters(2)) {
    for (const char* const name : {"a", "b", "c"}) Add(name);
    Frontend::Options options;
    options.auto_adapter = {.tokens = 16, .least_margin = 0.01};
    router_ = StartRouter(cluster_, cluster_.model(), options);
    stub_ = StubOf(*router_);
    EXPECT_TRUE(WaitFor([&] { return router_->frontend().Models().size() == 4; },
                        "the router to know the adapters"));
    EXPECT_TRUE(WaitFor([&] { return Generate(*stub_, Request(1, "base", 1)).status.ok(); },
                        "the router to have a worker"));
  }

  void Add(const std::string& name) {
    const std::string directory = directory_.File(name);
    std::filesystem::create_directory(directory);
    worker::testing::WriteAdapter(
        worker::testing::MakeTinyAdapter(cluster_.model(), static_cast<uint64_t>(name[0])),
        directory);
    EXPECT_TRUE(WaitFor([&] { return AddAdapter(cluster_, name, directory).ok(); },
                        "the adapter to be added"));
  }

  v1::GenerateRequest Request(uint64_t seed, const std::string& adapter, uint32_t tokens = 12) {
    v1::GenerateRequest request = SeededRequest(seed, tokens);
    request.set_adapter(adapter);
    return request;
  }

  FakeCluster cluster_;
  worker::testing::TempDir directory_;
  std::unique_ptr<RouterNode> router_;
  std::unique_ptr<v1::Inference::Stub> stub_;
};

TEST_F(AutoAdapterTest, AnswersBitForBitAsIfItHadBeenNamed) {
  std::set<std::string> chosen;
  for (uint64_t seed = 0; seed < kPrompts; ++seed) {
    SCOPED_TRACE(seed);
    const Answer heard = Generate(*stub_, Request(seed, "auto"));
    ASSERT_TRUE(heard.status.ok()) << heard.status.error_message();
    EXPECT_EQ(heard.adapter, heard.choice.margin() < 0.01 ? "" : heard.choice.best());
    chosen.insert(heard.adapter);
    const Answer named =
        Generate(*stub_, Request(seed, heard.adapter.empty() ? "base" : heard.adapter));
    EXPECT_EQ(heard, named);
    EXPECT_EQ(heard.tokens.size(), 12u);
  }
  EXPECT_GE(chosen.size(), 3u) << "prompts that go to different ones";
  EXPECT_THAT(chosen, Contains(""));
}

TEST_F(AutoAdapterTest, ChoosesTheSameInAnyBatchAndWhenAWorkerDies) {
  std::vector<Answer> alone;
  for (uint64_t seed = 0; seed < kPrompts; ++seed)
    alone.push_back(Generate(*stub_, Request(seed, "auto")));
  std::vector<Answer> together(kPrompts);
  std::vector<std::thread> clients;
  for (uint64_t seed = 0; seed < kPrompts; ++seed) {
    clients.emplace_back([&, seed] { together[seed] = Generate(*stub_, Request(seed, "auto")); });
  }
  cluster_.KillWorker(1);
  for (std::thread& client : clients) client.join();
  for (uint64_t seed = 0; seed < kPrompts; ++seed) {
    SCOPED_TRACE(seed);
    EXPECT_TRUE(together[seed].status.ok()) << together[seed].status.error_message();
    EXPECT_EQ(together[seed].adapter, alone[seed].adapter);
    EXPECT_EQ(together[seed].choice.share(), alone[seed].choice.share());
    EXPECT_EQ(together[seed].choice.margin(), alone[seed].choice.margin());
    EXPECT_EQ(together[seed], alone[seed]);
  }
}

}  // namespace
}  // namespace conclave::services::testing

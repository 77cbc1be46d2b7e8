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

FakeCluster::Options TwoWorkers() {
  FakeCluster::Options options{.workers = 2};
  options.model.eos = -1;
  options.worker.heartbeat.period = 20ms;
  options.scheduling.service.tick = 10ms;
  options.scheduling.service.placement.workers = 2;
  options.scheduling.service.adapters.listen = 100ms;
  return options;
}

struct Heard {
  std::string adapter;
  v1::AutoChoice choice;
  Answer answer;
};

Heard Ask(v1::Inference::Stub& stub, const v1::GenerateRequest& request) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + 60s);
  const auto reader = stub.Generate(&context, request);
  v1::GenerateResponse all, message;
  std::string text;
  while (reader->Read(&message)) {
    text += message.text();
    all.MergeFrom(message);
  }
  Heard heard{.adapter = all.adapter(), .choice = all.auto_choice()};
  heard.answer.status = reader->Finish();
  heard.answer.tokens = {all.token_ids().begin(), all.token_ids().end()};
  for (const auto& logprob : all.logprobs()) heard.answer.logprobs.push_back(logprob.logprob());
  heard.answer.text = text;
  heard.answer.reason = all.finish_reason();
  return heard;
}

class AutoAdapterTest : public ::testing::Test {
 protected:
  AutoAdapterTest() : cluster_(TwoWorkers()) {
    for (const char* const name : {"a", "b", "c"}) Add(name);
    Frontend::Options options;
    options.auto_adapter = {.tokens = 16, .least_margin = 0.01};
    router_ = StartRouter(cluster_, cluster_.model(), options);
    stub_ = StubOf(*router_);
    EXPECT_TRUE(WaitFor([&] { return router_->frontend().Models().size() == 4; },
                        "the router to know the adapters"));
    EXPECT_TRUE(WaitFor([&] { return Ask(*stub_, Request(1, "base", 1)).answer.status.ok(); },
                        "the router to have a worker"));
  }

  void Add(const std::string& name) {
    const std::string directory = directory_.File(name);
    std::filesystem::create_directory(directory);
    worker::testing::WriteAdapter(
        worker::testing::MakeTinyAdapter(cluster_.model(), static_cast<uint64_t>(name[0])),
        directory);
    const auto stub =
        v1::Cluster::NewStub(MakeChannel(cluster_.scheduler_address(), Credentials()));
    v1::AddAdapterRequest request;
    request.set_name(name);
    request.set_source(directory);
    v1::AdapterOperation response;
    EXPECT_TRUE(WaitFor(
        [&] {
          grpc::ClientContext context;
          return stub->AddAdapter(&context, request, &response).ok();
        },
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
    const Heard heard = Ask(*stub_, Request(seed, "auto"));
    ASSERT_TRUE(heard.answer.status.ok()) << heard.answer.status.error_message();
    EXPECT_EQ(heard.adapter, heard.choice.margin() < 0.01 ? "" : heard.choice.best());
    chosen.insert(heard.adapter);
    const Heard named = Ask(*stub_, Request(seed, heard.adapter.empty() ? "base" : heard.adapter));
    EXPECT_EQ(heard.answer, named.answer);
    EXPECT_EQ(heard.answer.tokens.size(), 12u);
  }
  EXPECT_GE(chosen.size(), 3u) << "prompts that go to different ones";
  EXPECT_THAT(chosen, Contains(""));
}

TEST_F(AutoAdapterTest, ChoosesTheSameInAnyBatchAndWhenAWorkerDies) {
  std::vector<Heard> alone;
  for (uint64_t seed = 0; seed < kPrompts; ++seed)
    alone.push_back(Ask(*stub_, Request(seed, "auto")));
  std::vector<Heard> together(kPrompts);
  std::vector<std::thread> clients;
  for (uint64_t seed = 0; seed < kPrompts; ++seed) {
    clients.emplace_back([&, seed] { together[seed] = Ask(*stub_, Request(seed, "auto")); });
  }
  cluster_.KillWorker(1);
  for (std::thread& client : clients) client.join();
  for (uint64_t seed = 0; seed < kPrompts; ++seed) {
    SCOPED_TRACE(seed);
    EXPECT_TRUE(together[seed].answer.status.ok()) << together[seed].answer.status.error_message();
    EXPECT_EQ(together[seed].adapter, alone[seed].adapter);
    EXPECT_EQ(together[seed].choice.share(), alone[seed].choice.share());
    EXPECT_EQ(together[seed].choice.margin(), alone[seed].choice.margin());
    EXPECT_EQ(together[seed].answer, alone[seed].answer);
  }
}

}  // namespace
}  // namespace conclave::services::testing

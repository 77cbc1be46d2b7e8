// Which adapter a request gets, which version of it, and that a flood on one delays itself.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "services/grpc_status.h"
#include "services/router_node.h"
#include "tests/cluster/test_router.h"

namespace conclave::testing {
namespace {

using router::AdapterView;
using State = router::AdapterView::State;
using ::testing::HasSubstr;
using namespace std::chrono_literals;

v1::GenerateRequest AdapterRequest(const std::string& adapter, uint32_t tokens = 3) {
  v1::GenerateRequest request = TextRequest("hello", tokens);
  request.set_adapter(adapter);
  return request;
}

std::vector<AdapterView> LawAndIntent() {
  return {{"law", "aa11", "tiny", State::kActive}, {"intent", "bb22", "tiny", State::kActive}};
}

TEST(RouterAdapters, GivesTheWorkerTheVersionThatAnActiveNameMeans) {
  FakeWorker worker;
  TestRouter router({&worker});
  router.frontend().SetAdapters(LawAndIntent());
  const Stream stream = router.Generate(AdapterRequest("law"));
  ASSERT_TRUE(stream.status.ok()) << stream.status.error_message();
  EXPECT_EQ(worker.counts().last_submit.adapter(), "law@aa11");
  EXPECT_EQ(stream.messages[0].adapter(), "law@aa11");

  v1::GenerateRequest by_model = TextRequest("hello", 3);
  by_model.set_model("tiny:intent");
  EXPECT_TRUE(router.Generate(by_model).status.ok());
  EXPECT_EQ(worker.counts().last_submit.adapter(), "intent@bb22");
}

TEST(RouterAdapters, GivesTheBaseModelToWhoNamesNone) {
  FakeWorker worker;
  TestRouter router({&worker});
  router.frontend().SetAdapters(LawAndIntent());
  const Stream stream = router.Generate(TextRequest("hello", 3));
  ASSERT_TRUE(stream.status.ok()) << stream.status.error_message();
  EXPECT_EQ(worker.counts().last_submit.adapter(), "");
  EXPECT_EQ(stream.messages[0].adapter(), "");
}

TEST(RouterAdapters, RefusesBeforeAnyWorkerHearsOfIt) {
  FakeWorker worker;
  TestRouter router({&worker});
  router.frontend().SetAdapters({{"law", "aa11", "tiny", State::kActive},
                                 {"old", "cc33", "tiny", State::kDraining},
                                 {"new", "dd44", "tiny", State::kLoading}});
  const auto refused = [&](const std::string& model, const std::string& adapter) {
    v1::GenerateRequest request = AdapterRequest(adapter);
    request.set_model(model);
    return router.Generate(request).status;
  };
  EXPECT_EQ(refused("", "lw").error_code(), grpc::NOT_FOUND);
  EXPECT_THAT(refused("", "lw").error_message(), HasSubstr("'lw' is not known; there are law"));
  EXPECT_EQ(refused("tiny:lw", "").error_code(), grpc::NOT_FOUND);
  EXPECT_EQ(refused("tiny:law", "old").error_code(), grpc::UNAVAILABLE);
  EXPECT_EQ(refused("tiny:law@aa", "new").error_code(), grpc::UNAVAILABLE);
  EXPECT_EQ(refused("", "old").error_code(), grpc::UNAVAILABLE);
  EXPECT_EQ(refused("tiny:", "").error_code(), grpc::INVALID_ARGUMENT);

  v1::ScoreRequest score;
  score.mutable_prompt()->set_text("hello");
  score.set_adapter("lw");
  grpc::ClientContext context;
  const auto reader = router.stub().Score(&context, score);
  v1::ScoreResponse message;
  while (reader->Read(&message)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::NOT_FOUND);
  EXPECT_EQ(worker.counts().submits, 0u);
  EXPECT_EQ(router.frontend().stats().requests, 0);
}

TEST(RouterAdapters, TakesAliasesAndATenantsDefault) {
  FakeWorker worker;
  std::string error;
  auto names = router::AdapterNames::Create(
      {.aliases = {"lawyer=law"}, .defaults = {"default=intent"}}, &error);
  ASSERT_TRUE(names) << error;
  TestRouter router({&worker}, {}, "", nullptr, *std::move(names));
  router.frontend().SetAdapters(LawAndIntent());
  EXPECT_TRUE(router.Generate(TextRequest("hello", 3)).status.ok());
  EXPECT_EQ(worker.counts().last_submit.adapter(), "intent@bb22");
  v1::GenerateRequest request = TextRequest("hello", 3);
  request.set_model("tiny");
  EXPECT_TRUE(router.Generate(request).status.ok());
  EXPECT_EQ(worker.counts().last_submit.adapter(), "");
  request.set_model("lawyer");
  EXPECT_TRUE(router.Generate(request).status.ok());
  EXPECT_EQ(worker.counts().last_submit.adapter(), "law@aa11");
}

TEST(RouterAdapters, RefusesToStartWithSettingsThatAreNone) {
  using Options = services::RouterNode::Options;
  const auto start = [](const std::function<void(Options&)>& set) {
    Options options{.model = "/", .workers = {"127.0.0.1:1"}};
    set(options);
    return services::RouterNode::Start(options).status();
  };
  for (const char* const line : {"law", "law=", "=2", "law=0", "law=1001", "law=x"}) {
    const absl::Status status = start([&](Options& o) { o.adapter_weights = {line}; });
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << line << " " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("want NAME=WEIGHT, 1 to 1000"));
  }
  const absl::Status alias = start([](Options& o) { o.adapters.aliases = {"law"}; });
  EXPECT_TRUE(absl::IsInvalidArgument(alias)) << alias;
  EXPECT_THAT(std::string(alias.message()), HasSubstr("'law': want NAME=ADAPTER"));
}

TEST(RouterAdapters, RefusesTwoDifferentOnes) {
  FakeWorker worker;
  TestRouter router({&worker});
  router.frontend().SetAdapters(LawAndIntent());
  v1::GenerateRequest request = AdapterRequest("law");
  request.set_model("tiny:intent");
  const grpc::Status status = router.Generate(request).status;
  EXPECT_EQ(status.error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("name different adapters"));
}

TEST(RouterAdapters, GoesOnWithTheVersionItBeganWithWhenItsHomeIsLost) {
  FakeWorker first({.id = "a", .manual = true});
  TestRouter router({&first});
  router.frontend().SetAdapters({{"law", "aa11", "tiny", State::kActive}});
  std::thread client([&] {
    const Stream stream = router.Generate(AdapterRequest("law", 9));
    EXPECT_TRUE(stream.status.ok()) << stream.status.error_message();
    EXPECT_EQ(stream.text, HashedText("hello", 1, 9));
  });
  ASSERT_TRUE(first.WaitFor([](const auto& counts) { return counts.live == 1; }));
  first.Step();
  router.frontend().SetAdapters(
      {{"law", "aa11", "tiny", State::kDraining}, {"law", "bb22", "tiny", State::kActive}});
  FakeWorker second({.id = "b"});
  router.frontend().AddWorker(second.address());
  first.Crash();
  client.join();
  EXPECT_EQ(second.counts().last_submit.adapter(), "law@aa11");
  EXPECT_TRUE(router.Generate(AdapterRequest("law", 9)).status.ok());
  EXPECT_EQ(second.counts().last_submit.adapter(), "law@bb22");
}

TEST(RouterAdapters, KeepsTheVersionOfARequestThatIsAskedForAgain) {
  FakeWorker worker({.manual = true});
  TestRouter router({&worker});
  router.frontend().SetAdapters({{"law", "aa11", "tiny", State::kActive}});
  v1::GenerateRequest request = AdapterRequest("law", 9);
  request.set_request_id("mine");
  grpc::ClientContext context;
  const auto older = router.stub().Generate(&context, request);
  ASSERT_TRUE(worker.WaitFor([](const auto& counts) { return counts.live == 1; }));
  worker.Step();
  v1::GenerateResponse message;
  ASSERT_TRUE(older->Read(&message));
  router.frontend().SetAdapters(
      {{"law", "aa11", "tiny", State::kDraining}, {"law", "bb22", "tiny", State::kActive}});
  request.set_resume_from(1);
  grpc::ClientContext again;
  const auto newer = router.stub().Generate(&again, request);
  ASSERT_TRUE(worker.WaitFor([](const auto& counts) { return counts.submits == 2; }));
  EXPECT_EQ(worker.counts().last_submit.adapter(), "law@aa11");
  worker.SetManual(false);
  const Stream rest = TestRouter::ReadAll(*newer);
  ASSERT_TRUE(rest.status.ok()) << rest.status.error_message();
  EXPECT_EQ(rest.messages[0].adapter(), "law@aa11");
  EXPECT_EQ(TestRouter::ReadAll(*older).status.error_code(), grpc::ABORTED);

  // Nobody knows it any more, so it has to say with which version it began.
  ASSERT_TRUE(router.frontend().WaitIdle(10s));
  const grpc::Status status = router.Generate(request).status;
  EXPECT_EQ(status.error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("the adapter that the first message reported"));
  request.set_adapter(message.adapter());
  EXPECT_TRUE(router.Generate(request).status.ok());
  EXPECT_EQ(worker.counts().last_submit.adapter(), "law@aa11");
}

std::vector<AdapterView> LawOnDisk(const std::string& problem = "") {
  std::vector<AdapterView> adapters = LawAndIntent();
  adapters[0].on_disk = true;
  adapters[0].placed = false;
  adapters[0].problem = problem;
  return adapters;
}

TEST(RouterAdapters, LetsARequestWaitUntilItsAdapterIsInMemory) {
  FakeWorker worker;
  TestRouter router({&worker});
  router.frontend().SetAdapters(LawOnDisk());
  std::thread client([&] {
    const Stream stream = router.Generate(AdapterRequest("law"));
    EXPECT_TRUE(stream.status.ok()) << stream.status.error_message();
    EXPECT_EQ(stream.messages[0].adapter(), "law@aa11");
  });
  EXPECT_TRUE(WaitFor([&] { return router.Metric("conclave_router_waiting_for_memory") == 1; },
                      "the request to wait"));
  const auto use = router.frontend().adapter_use();
  EXPECT_EQ(use.digests, (std::set<std::string>{"aa11"}));
  EXPECT_EQ(use.waiting, (std::set<std::string>{"aa11"}));
  EXPECT_TRUE(router.Generate(AdapterRequest("intent")).status.ok()) << "others do not wait";
  router.frontend().SetAdapters(LawAndIntent());
  client.join();
}

TEST(RouterAdapters, SaysWhyAnAdapterGotNoMemoryWhenTheWaitIsOver) {
  FakeWorker worker;
  services::Frontend::Options options;
  options.adapter_wait = 50ms;
  TestRouter router({&worker}, options);
  router.frontend().SetAdapters(LawOnDisk());
  const grpc::Status status = router.Generate(AdapterRequest("law")).status;
  EXPECT_EQ(status.error_code(), grpc::UNAVAILABLE);
  EXPECT_EQ(status.error_message(),
            "adapter 'law' is on disk and got no place in memory (waited 50 ms)");
  router.frontend().SetAdapters(LawOnDisk("worker a cannot: no such directory"));
  EXPECT_THAT(router.Generate(AdapterRequest("law")).status.error_message(),
              HasSubstr("no place in memory: worker a cannot: no such directory"));
  EXPECT_EQ(worker.counts().submits, 0u);
  EXPECT_TRUE(router.frontend().WaitIdle(10s));
}

TEST(RouterAdapters, SaysBeforeADeadlineThatItWaitsForMemory) {
  FakeWorker worker;
  TestRouter router({&worker});
  router.frontend().SetAdapters(LawOnDisk());
  const grpc::Status status = router.Generate(AdapterRequest("law"), 5s).status;
  EXPECT_EQ(status.error_code(), grpc::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("adapter 'law' is on disk and got no place"));
}

TEST(RouterAdapters, ListsThemWithTheirParent) {
  FakeWorker worker;
  TestRouter router({&worker});
  router.frontend().SetAdapters(
      {{"law", "aa11", "tiny", State::kActive}, {"old", "cc33", "tiny", State::kDraining}});
  grpc::ClientContext context;
  v1::ListModelsResponse models;
  ASSERT_TRUE(router.stub().ListModels(&context, {}, &models).ok());
  ASSERT_EQ(models.models_size(), 2);
  EXPECT_EQ(models.models(0).name(), "tiny");
  EXPECT_EQ(models.models(0).parent(), "");
  EXPECT_EQ(models.models(1).name(), "tiny:law");
  EXPECT_EQ(models.models(1).parent(), "tiny");
  EXPECT_EQ(models.models(1).version(), "aa11");
  EXPECT_EQ(models.models(1).context_limit(), models.models(0).context_limit());
  v1::GenerateRequest request = TextRequest("hello", 3);
  request.set_model(models.models(1).name());
  EXPECT_TRUE(router.Generate(request).status.ok()) << "what is listed can be asked for";
}

// A flood of `law`: one of its requests runs, and is more than its adapter has in a round.
class Flood {
 public:
  Flood(TestRouter& router, FakeWorker& worker, int requests) {
    for (int i = 0; i < requests; ++i) {
      clients_.emplace_back(
          [&] { EXPECT_TRUE(router.Generate(AdapterRequest("law", 300)).status.ok()); });
    }
    EXPECT_TRUE(worker.WaitFor([](const auto& counts) { return counts.live == 1; }));
    EXPECT_TRUE(WaitFor([&] { return router.frontend().stats().waiting == requests - 1; },
                        "the others to wait"));
  }
  ~Flood() {
    for (std::thread& client : clients_) client.join();
  }

 private:
  std::vector<std::thread> clients_;
};

TEST(RouterAdapters, LetsOthersPastAFlood) {
  FakeWorker worker({.manual = true, .granted = 1});
  TestRouter router({&worker});
  router.frontend().SetAdapters(LawAndIntent());
  const Flood flood(router, worker, 6);
  std::thread light([&] { EXPECT_TRUE(router.Generate(AdapterRequest("intent")).status.ok()); });
  ASSERT_TRUE(WaitFor([&] { return router.frontend().stats().waiting == 6; }, "it to wait"));
  worker.Grant(1);
  ASSERT_TRUE(worker.WaitFor([](const auto& counts) { return counts.live == 2; }));
  EXPECT_EQ(worker.counts().last_submit.adapter(), "intent@bb22");
  worker.Grant(10);
  worker.SetManual(false);
  light.join();
}

TEST(RouterAdapters, RefusesAFloodAndNotTheOthers) {
  FakeWorker worker({.manual = true, .granted = 1});
  TestRouter router({&worker}, {.admission = {.max_waiting = 8}});
  router.frontend().SetAdapters(LawAndIntent());
  const Flood flood(router, worker, 5);
  grpc::ClientContext context;
  const auto reader = router.stub().Generate(&context, AdapterRequest("law"));
  const grpc::Status status = TestRouter::ReadAll(*reader).status;
  EXPECT_EQ(status.error_code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_EQ(status.error_message(), "4 requests of adapter 'law' wait for a worker, its limit");
  EXPECT_TRUE(services::RetryPushback(context));
  std::thread base([&] { EXPECT_TRUE(router.Generate(TextRequest("x", 3)).status.ok()); });
  ASSERT_TRUE(WaitFor([&] { return router.frontend().stats().waiting == 5; }, "it to wait"));
  worker.Grant(10);
  worker.SetManual(false);
  base.join();
}

// Of a gauge or counter, by adapter_name.
std::map<std::string, double> ByAdapter(TestRouter& router, const std::string& name) {
  services::MetricsWriter writer;
  router.frontend().WriteMetrics(writer);
  std::map<std::string, double> values;
  for (const auto& family : writer.Take()) {
    if (family.name != name) continue;
    for (const auto& metric : family.metric) {
      const bool histogram = family.type == prometheus::MetricType::Histogram;
      values[metric.label.at(0).value] = histogram
                                             ? static_cast<double>(metric.histogram.sample_count)
                                             : metric.gauge.value + metric.counter.value;
    }
  }
  return values;
}

TEST(RouterAdapters, MeasuresEachOfThem) {
  FakeWorker worker({.manual = true, .granted = 1});
  TestRouter router({&worker});
  EXPECT_TRUE(ByAdapter(router, "conclave_adapter_requests_waiting").empty());
  router.frontend().SetAdapters(LawAndIntent());
  {
    const Flood flood(router, worker, 3);
    EXPECT_EQ(ByAdapter(router, "conclave_adapter_requests_waiting")["law"], 2);
    EXPECT_EQ(ByAdapter(router, "conclave_adapter_requests_running")["law"], 1);
    worker.Grant(10);
    worker.SetManual(false);
  }
  ASSERT_TRUE(router.Generate(TextRequest("hello", 3)).status.ok());
  ASSERT_TRUE(router.frontend().WaitIdle(10s));
  EXPECT_EQ(ByAdapter(router, "conclave_adapter_requests_waiting")["law"], 0);
  EXPECT_EQ(ByAdapter(router, "conclave_adapter_generated_tokens_total")["law"], 900);
  EXPECT_EQ(ByAdapter(router, "conclave_adapter_prompt_tokens_total")["law"], 15);
  EXPECT_EQ(ByAdapter(router, "conclave_adapter_first_token_seconds")["law"], 3);
  EXPECT_EQ(ByAdapter(router, "conclave_adapter_request_seconds")["(base)"], 1);
}

}  // namespace
}  // namespace conclave::testing

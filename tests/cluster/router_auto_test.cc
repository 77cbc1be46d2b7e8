// Requests that leave their adapter to the router: what is asked of a worker for it, and what
// becomes of them when that goes wrong.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <thread>
#include <vector>

#include "services/grpc_status.h"
#include "tests/cluster/test_router.h"

namespace conclave::testing {
namespace {

using router::AdapterView;
using State = router::AdapterView::State;
using ::testing::HasSubstr;
using namespace std::chrono_literals;

// Tokens are bytes: 'd' goes to slot 0, 'e' to 1, 'f' to 2, 'g' to 3, in both layers.
uint16_t SlotOf(uint32_t token) { return static_cast<uint16_t>(token % FakeWorker::kSlots); }

FakeWorker::Options WithGate(FakeWorker::Options options = {}) {
  options.gate = SlotOf;
  return options;
}

// law has the experts that 'd' goes to, intent those of 'e'.
std::vector<AdapterView> LawAndIntent() {
  return {{"law", "aa11", "tiny", State::kActive, {0, 4}},
          {"intent", "bb22", "tiny", State::kActive, {1, 5}}};
}

v1::GenerateRequest AutoRequest(const std::string& prompt, uint32_t tokens = 3) {
  v1::GenerateRequest request = TextRequest(prompt, tokens);
  request.set_adapter("auto");
  return request;
}

class RouterAuto : public ::testing::Test {
 protected:
  explicit RouterAuto(const FakeWorker::Options& worker = {},
                      const services::Frontend::Options& options = {})
      : worker_(WithGate(worker)), router_({&worker_}, options) {
    router_.frontend().SetAdapters(LawAndIntent());
  }
  ~RouterAuto() override {
    EXPECT_TRUE(router_.frontend().WaitIdle(10s));
    EXPECT_EQ(router_.frontend().stats().requests, 0);
  }

  FakeWorker worker_;
  TestRouter router_;
};

TEST_F(RouterAuto, ChoosesTheAdapterWhoseExpertsThePromptActivates) {
  const Stream stream = router_.Generate(AutoRequest("ddde"));
  ASSERT_TRUE(stream.status.ok()) << stream.status.error_message();
  EXPECT_EQ(stream.text, HashedText("ddde", 1, 3));
  EXPECT_EQ(stream.messages[0].adapter(), "law@aa11");
  const v1::AutoChoice& choice = stream.messages[0].auto_choice();
  EXPECT_EQ(choice.best(), "law@aa11");
  EXPECT_NEAR(choice.share(), 0.75, 1e-6);
  EXPECT_NEAR(choice.margin(), 0.5, 1e-6);
  EXPECT_EQ(choice.least_margin(), 0.02);
  EXPECT_EQ(choice.tokens(), 4u);
  EXPECT_EQ(worker_.counts().last_submit.adapter(), "law@aa11");
  EXPECT_EQ(router_.Generate(AutoRequest("eeed")).messages[0].adapter(), "intent@bb22");
}

TEST_F(RouterAuto, AsksTheBaseModelForTheRoutingAndNothingElse) {
  v1::GenerateRequest request = AutoRequest("dddd", 50);
  request.set_request_id("mine");
  request.set_cache_salt("salt");
  EXPECT_TRUE(router_.Generate(request).status.ok());
  const v1::Submit probe = worker_.counts().last_probe;
  EXPECT_EQ(worker_.counts().submits, 2u);
  EXPECT_EQ(worker_.counts().probes, 1u);
  EXPECT_EQ(probe.adapter(), "");
  EXPECT_EQ(probe.max_tokens(), 0u);
  EXPECT_TRUE(probe.routing());
  EXPECT_FALSE(probe.prompt_logprobs());
  EXPECT_EQ(probe.cache_salt(), "salt");
  EXPECT_EQ(probe.request_id(), "") << "no worker keeps it for another router";
  EXPECT_TRUE(probe.has_timeout_us());
}

TEST_F(RouterAuto, AsksNothingForWhoNamesAnAdapterOrNone) {
  v1::GenerateRequest request = TextRequest("dddd", 3);
  EXPECT_FALSE(router_.Generate(request).messages[0].has_auto_choice());
  request.set_adapter("intent");
  EXPECT_FALSE(router_.Generate(request).messages[0].has_auto_choice());
  request.set_model("tiny:auto");
  EXPECT_EQ(router_.Generate(request).messages[0].adapter(), "intent@bb22");
  request.set_adapter("base");
  EXPECT_EQ(router_.Generate(request).messages[0].adapter(), "");
  EXPECT_EQ(worker_.counts().probes, 0u);
}

TEST_F(RouterAuto, TakesItAsAModelToo) {
  v1::GenerateRequest request = TextRequest("eeee", 3);
  request.set_model("tiny:auto");
  EXPECT_EQ(router_.Generate(request).messages[0].adapter(), "intent@bb22");
}

TEST_F(RouterAuto, GivesTheBaseModelToAPromptThatIsLikeNoAdapter) {
  const Stream stream = router_.Generate(AutoRequest("ggggd"));
  ASSERT_TRUE(stream.status.ok()) << stream.status.error_message();
  EXPECT_EQ(stream.messages[0].adapter(), "");
  EXPECT_EQ(stream.messages[0].auto_choice().best(), "law@aa11");
  EXPECT_NEAR(stream.messages[0].auto_choice().share(), 0.2, 1e-6);
  EXPECT_NEAR(stream.messages[0].auto_choice().margin(), 0.2 - 0.25, 1e-6);
  EXPECT_EQ(worker_.counts().last_submit.adapter(), "");
}

TEST_F(RouterAuto, GivesTheBaseModelWithoutAskingWhereThereIsNoAdapter) {
  for (const std::vector<AdapterView>& adapters :
       {std::vector<AdapterView>(),
        std::vector<AdapterView>{{"law", "aa11", "tiny", State::kDraining, {0, 4}}}}) {
    router_.frontend().SetAdapters(adapters);
    const Stream stream = router_.Generate(AutoRequest("dddd"));
    ASSERT_TRUE(stream.status.ok()) << stream.status.error_message();
    EXPECT_EQ(stream.messages[0].adapter(), "");
    EXPECT_TRUE(stream.messages[0].has_auto_choice());
    EXPECT_EQ(stream.messages[0].auto_choice().best(), "");
  }
  EXPECT_EQ(worker_.counts().probes, 0u);
}

TEST_F(RouterAuto, AsksOnceForAllCompletions) {
  v1::GenerateRequest request = AutoRequest("dddd");
  request.set_n(3);
  const Stream stream = router_.Generate(request);
  ASSERT_TRUE(stream.status.ok()) << stream.status.error_message();
  int first = 0;
  for (const v1::GenerateResponse& message : stream.messages) {
    if (!message.has_seed()) continue;
    ++first;
    EXPECT_EQ(message.adapter(), "law@aa11");
  }
  EXPECT_EQ(first, 3);
  EXPECT_EQ(worker_.counts().probes, 1u);
}

TEST_F(RouterAuto, ChoosesForAScoreToo) {
  v1::ScoreRequest request;
  request.mutable_prompt()->set_text("eeee");
  request.set_adapter("auto");
  grpc::ClientContext context;
  const auto reader = router_.stub().Score(&context, request);
  v1::ScoreResponse all, message;
  while (reader->Read(&message)) all.MergeFrom(message);
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(all.adapter(), "intent@bb22");
  EXPECT_EQ(all.auto_choice().best(), "intent@bb22");
  EXPECT_EQ(all.logprobs_size(), 3);
}

TEST_F(RouterAuto, CountsWhatItChose) {
  ASSERT_TRUE(router_.Generate(AutoRequest("dddd")).status.ok());
  ASSERT_TRUE(router_.Generate(AutoRequest("gggg")).status.ok());
  EXPECT_EQ(router_.Metric("conclave_router_auto_probe_seconds"), 2);
  EXPECT_EQ(router_.Metric("vllm:time_to_first_token_seconds"), 2) << "probes are no requests";
  services::MetricsWriter writer;
  router_.frontend().WriteMetrics(writer);
  std::map<std::string, double> choices;
  for (const auto& family : writer.Take()) {
    if (family.name != "conclave_adapter_auto_choices_total") continue;
    for (const auto& metric : family.metric)
      choices[metric.label.at(0).value] = metric.counter.value;
  }
  EXPECT_EQ(choices["law"], 1);
  EXPECT_EQ(choices["(base)"], 1);
}

class RouterAutoThreshold : public RouterAuto {
 protected:
  RouterAutoThreshold() : RouterAuto({}, {.auto_adapter = {.tokens = 4, .least_margin = 0.5}}) {}
};

TEST_F(RouterAutoThreshold, IsTheLeastMarginThatIsEnough) {
  EXPECT_EQ(router_.Generate(AutoRequest("ddde")).messages[0].adapter(), "law@aa11");
  const Stream below = router_.Generate(AutoRequest("ddee"));
  EXPECT_EQ(below.messages[0].adapter(), "");
  EXPECT_EQ(below.messages[0].auto_choice().least_margin(), 0.5);
}

TEST_F(RouterAutoThreshold, ReadsNoMoreOfThePromptThanItMay) {
  const Stream stream = router_.Generate(AutoRequest("ddddeeeeeeee"));
  EXPECT_EQ(stream.messages[0].adapter(), "law@aa11");
  EXPECT_EQ(stream.messages[0].auto_choice().tokens(), 4u);
  EXPECT_EQ(worker_.counts().last_probe.prompt_size(), 4);
  EXPECT_EQ(worker_.counts().last_submit.prompt_size(), 12);
  router_.Generate(AutoRequest("d"));
  EXPECT_EQ(worker_.counts().last_probe.prompt_size(), 1);
}

// The worker computes nothing but by Step, two tokens of a probe each time.
class RouterAutoSlow : public RouterAuto {
 protected:
  RouterAutoSlow() : RouterAuto({.id = "a", .manual = true, .report_tokens = 2}) {}

  bool WaitForProbe() {
    return worker_.WaitFor([](const auto& counts) { return counts.live == 1; });
  }
};

TEST_F(RouterAutoSlow, GivesUpTheProbeWithTheRequest) {
  grpc::ClientContext context;
  const auto reader = router_.stub().Generate(&context, AutoRequest("dddd"));
  ASSERT_TRUE(WaitForProbe());
  context.TryCancel();
  EXPECT_EQ(TestRouter::ReadAll(*reader).status.error_code(), grpc::CANCELLED);
  EXPECT_TRUE(worker_.WaitFor([](const auto& counts) { return counts.live == 0; }));
  EXPECT_EQ(worker_.counts().cancels, 1u);
  EXPECT_EQ(worker_.counts().submits, 1u);
}

TEST_F(RouterAutoSlow, KeepsToTheDeadline) {
  EXPECT_EQ(router_.Generate(AutoRequest("dddd"), 200ms).status.error_code(),
            grpc::DEADLINE_EXCEEDED);
  EXPECT_TRUE(worker_.WaitFor([](const auto& counts) { return counts.live == 0; }));
}

TEST_F(RouterAutoSlow, GoesOnWithTheProbeWhenItsHomeIsLost) {
  std::thread client([&] {
    const Stream stream = router_.Generate(AutoRequest("ddddd", 9));
    EXPECT_TRUE(stream.status.ok()) << stream.status.error_message();
    EXPECT_EQ(stream.text, HashedText("ddddd", 1, 9));
    ASSERT_FALSE(stream.messages.empty());
    EXPECT_EQ(stream.messages[0].adapter(), "law@aa11");
    EXPECT_NEAR(stream.messages[0].auto_choice().share(), 1.0, 1e-6);
  });
  ASSERT_TRUE(WaitForProbe());
  worker_.Step();
  FakeWorker second(WithGate({.id = "b"}));
  router_.frontend().AddWorker(second.address());
  worker_.Crash();
  client.join();
  EXPECT_EQ(second.counts().probes, 1u);
  EXPECT_EQ(second.counts().last_submit.adapter(), "law@aa11");
}

TEST_F(RouterAutoSlow, ChoosesAmongWhatIsThereWhenItIsDecided) {
  std::thread client([&] {
    const Stream stream = router_.Generate(AutoRequest("dddde"));
    EXPECT_TRUE(stream.status.ok()) << stream.status.error_message();
    ASSERT_FALSE(stream.messages.empty());
    EXPECT_EQ(stream.messages[0].adapter(), "law@cc33");
  });
  ASSERT_TRUE(WaitForProbe());
  router_.frontend().SetAdapters({{"law", "aa11", "tiny", State::kDraining, {0, 4}},
                                  {"law", "cc33", "tiny", State::kActive, {0, 5}}});
  worker_.SetManual(false);
  client.join();
}

TEST_F(RouterAutoSlow, GivesTheBaseModelWhenTheLastAdapterWentMeanwhile) {
  std::thread client([&] {
    const Stream stream = router_.Generate(AutoRequest("dddd"));
    EXPECT_TRUE(stream.status.ok()) << stream.status.error_message();
    ASSERT_FALSE(stream.messages.empty());
    EXPECT_EQ(stream.messages[0].adapter(), "");
    EXPECT_EQ(stream.messages[0].auto_choice().best(), "");
    EXPECT_EQ(stream.messages[0].auto_choice().tokens(), 4u);
  });
  ASSERT_TRUE(WaitForProbe());
  router_.frontend().SetAdapters({});
  worker_.SetManual(false);
  client.join();
}

TEST_F(RouterAutoSlow, LetsTheSameRequestTakeThePlaceOfOneThatIsUndecided) {
  v1::GenerateRequest request = AutoRequest("dddd", 9);
  request.set_request_id("mine");
  grpc::ClientContext context;
  const auto older = router_.stub().Generate(&context, request);
  ASSERT_TRUE(WaitForProbe());
  v1::GenerateRequest other = request;
  other.set_adapter("base");
  EXPECT_EQ(router_.Generate(other).status.error_code(), grpc::ALREADY_EXISTS);
  grpc::ClientContext again;
  const auto newer = router_.stub().Generate(&again, request);
  EXPECT_EQ(TestRouter::ReadAll(*older).status.error_code(), grpc::ABORTED);
  worker_.SetManual(false);
  const Stream stream = TestRouter::ReadAll(*newer);
  EXPECT_TRUE(stream.status.ok()) << stream.status.error_message();
  EXPECT_EQ(stream.text, HashedText("dddd", 1, 9));
}

TEST_F(RouterAutoSlow, KeepsTheChoiceOfARequestThatIsAskedForAgain) {
  v1::GenerateRequest request = AutoRequest("dd", 9);
  request.set_request_id("mine");
  grpc::ClientContext context;
  const auto older = router_.stub().Generate(&context, request);
  ASSERT_TRUE(WaitForProbe());
  worker_.Step();
  ASSERT_TRUE(worker_.WaitFor([](const auto& c) { return c.submits == 2 && c.live == 1; }));
  worker_.Step();
  v1::GenerateResponse message;
  ASSERT_TRUE(older->Read(&message));
  EXPECT_EQ(message.adapter(), "law@aa11");
  router_.frontend().SetAdapters({{"law", "aa11", "tiny", State::kDraining, {0, 4}},
                                  {"all", "cc33", "tiny", State::kActive, {0, 1, 4, 5}}});
  request.set_resume_from(1);
  grpc::ClientContext again;
  const auto newer = router_.stub().Generate(&again, request);
  ASSERT_TRUE(worker_.WaitFor([](const auto& counts) { return counts.submits == 3; }));
  worker_.SetManual(false);
  const Stream rest = TestRouter::ReadAll(*newer);
  ASSERT_TRUE(rest.status.ok()) << rest.status.error_message();
  EXPECT_EQ(rest.messages[0].adapter(), "law@aa11");
  EXPECT_EQ(rest.messages[0].auto_choice().margin(), message.auto_choice().margin());
  EXPECT_EQ(worker_.counts().probes, 1u);
  EXPECT_EQ(TestRouter::ReadAll(*older).status.error_code(), grpc::ABORTED);

  // Nobody knows it any more, and what there is to choose from has changed.
  ASSERT_TRUE(router_.frontend().WaitIdle(10s));
  const grpc::Status status = router_.Generate(request).status;
  EXPECT_EQ(status.error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("the adapter that the first message reported"));
  request.set_adapter(message.adapter());
  const Stream named = router_.Generate(request);
  ASSERT_TRUE(named.status.ok()) << named.status.error_message();
  EXPECT_EQ(named.messages[0].adapter(), "law@aa11");
}

TEST(RouterAutoErrors, EndsARequestWhoseProbeIsAnsweredByNonsense) {
  FakeWorker worker({.gate = [](uint32_t) { return uint16_t{FakeWorker::kSlots}; }});
  TestRouter router({&worker});
  router.frontend().SetAdapters(LawAndIntent());
  const grpc::Status status = router.Generate(AutoRequest("dddd")).status;
  EXPECT_EQ(status.error_code(), grpc::INTERNAL);
  EXPECT_THAT(status.error_message(), HasSubstr("a routing that the model's gate cannot choose"));
  EXPECT_TRUE(router.frontend().WaitIdle(10s));
  EXPECT_EQ(worker.counts().submits, 1u);
}

TEST(RouterAutoErrors, RefusesARequestForWhoseProbeThereIsNoPlace) {
  FakeWorker worker(WithGate());
  TestRouter router({&worker}, {.admission = {.max_waiting = 1}});
  router.frontend().SetAdapters(LawAndIntent());
  EXPECT_EQ(router.Generate(AutoRequest("dddd")).status.error_code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(router.frontend().WaitIdle(10s));
  EXPECT_TRUE(router.Generate(TextRequest("dddd", 3)).status.ok());
}

TEST(RouterAutoErrors, RefusesAPromptThatIsTooLongBeforeItIsRead) {
  FakeWorker::Options options = WithGate();
  options.context_limit = 8;
  FakeWorker worker(options);
  TestRouter router({&worker});
  router.frontend().SetAdapters(LawAndIntent());
  EXPECT_EQ(router.Generate(AutoRequest("ddddddddd")).status.error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_EQ(worker.counts().submits, 0u);
}

TEST(RouterAutoErrors, EndsARequestWhoseProbeFindsNoWorker) {
  FakeWorker worker(WithGate({.manual = true}));
  TestRouter router({&worker});
  router.frontend().SetAdapters(LawAndIntent());
  grpc::Status status;
  std::thread client([&] { status = router.Generate(AutoRequest("dddd"), 2s).status; });
  ASSERT_TRUE(worker.WaitFor([](const auto& counts) { return counts.live == 1; }));
  worker.Crash();
  client.join();
  EXPECT_EQ(status.error_code(), grpc::UNAVAILABLE) << status.error_message();
  EXPECT_TRUE(router.frontend().WaitIdle(10s));
}

TEST(RouterAutoTurns, LetsOthersPastAFloodOfProbes) {
  FakeWorker worker(WithGate({.manual = true, .granted = 1}));
  TestRouter router({&worker});
  router.frontend().SetAdapters(LawAndIntent());
  const auto stats = [&] { return router.frontend().stats(); };
  std::vector<std::thread> clients;
  for (int i = 0; i < 4; ++i) {
    clients.emplace_back(
        [&] { EXPECT_TRUE(router.Generate(AutoRequest(std::string(300, 'd'))).status.ok()); });
  }
  ASSERT_TRUE(worker.WaitFor([](const auto& counts) { return counts.live == 1; }));
  ASSERT_TRUE(WaitFor([&] { return stats().waiting == 3; }, "the other probes to wait"));
  EXPECT_EQ(stats().preparing, 4) << "the requests themselves keep their places";
  clients.emplace_back([&] { EXPECT_TRUE(router.Generate(TextRequest("x", 3)).status.ok()); });
  ASSERT_TRUE(WaitFor([&] { return stats().waiting == 4; }, "the base's request to wait"));
  worker.Grant(1);
  ASSERT_TRUE(worker.WaitFor([](const auto& counts) { return counts.live == 2; }));
  EXPECT_FALSE(worker.counts().last_submit.reads_at_once());
  EXPECT_EQ(worker.counts().last_submit.prompt_size(), 1);
  worker.Grant(100);
  worker.SetManual(false);
  for (std::thread& client : clients) client.join();
}

TEST(RouterAutoNames, TakesItFromAnAliasAndATenantsDefault) {
  FakeWorker worker(WithGate());
  std::string error;
  auto names = router::AdapterNames::Create(
      {.aliases = {"best=auto"}, .defaults = {"default=best"}}, &error);
  ASSERT_TRUE(names) << error;
  TestRouter router({&worker}, {}, "", nullptr, *std::move(names));
  router.frontend().SetAdapters(LawAndIntent());
  v1::GenerateRequest request = TextRequest("dddd", 3);
  EXPECT_EQ(router.Generate(request).messages[0].adapter(), "law@aa11");
  request.set_model("best");
  EXPECT_EQ(router.Generate(request).messages[0].adapter(), "law@aa11");
  request.set_model("tiny");
  EXPECT_EQ(router.Generate(request).messages[0].adapter(), "");
}

}  // namespace
}  // namespace conclave::testing

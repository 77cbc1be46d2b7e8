// Loads that are made of parts: adapters, slow readers, phases and actions.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <mutex>
#include <string>
#include <thread>

#include "loadtest/load.h"
#include "loadtest/vocabulary.h"
#include "tests/loadtest/temporary_file.h"
#include "tests/services/cli/fake_router.h"
#include "tests/testing/wait_for.h"

namespace conclave::loadtest {
namespace {

using conclave::testing::FakeRouter;
using conclave::testing::WaitFor;
using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::HasSubstr;

const std::atomic<bool> kNeverStop{false};

class LoadMix : public ::testing::Test {
 protected:
  Results Run() { return RunLoad(options_, Workload(load_), kNeverStop); }

  FakeRouter server_;
  Options options_ = {
      .server = server_.address(), .rate = 2000, .requests = 40, .seed = 3, .max_tokens = 5};
  Workload::Options load_ = {.prompts = {{.line = 1, .text = "one"}}};
};

TEST_F(LoadMix, EveryAdapterIsMeasuredApart) {
  load_.adapters = *AdapterMix::Parse("weights:a=3,b=1");
  server_.generate = [](grpc::ServerContext& context, const v1::GenerateRequest& request,
                        FakeRouter::GenerateWriter& writer) {
    if (request.adapter() == "b") return grpc::Status(grpc::StatusCode::NOT_FOUND, "no b");
    return FakeRouter::GenerateAlphabet(context, request, writer);
  };
  const Results results = Run();
  ASSERT_EQ(results.adapters.size(), 2U);
  const Measures& a = results.adapters.at("a");
  const Measures& b = results.adapters.at("b");
  EXPECT_EQ(a.sent + b.sent, 40U);
  EXPECT_GT(a.sent, b.sent);
  EXPECT_GT(b.sent, 0U);
  EXPECT_EQ(a.completed, a.sent);
  EXPECT_EQ(a.output_tokens, 5 * a.sent);
  EXPECT_EQ(a.ttft.count(), a.sent);
  EXPECT_EQ(a.itl.count(), 4 * a.sent);
  EXPECT_EQ(b.failed, b.sent);
  EXPECT_EQ(b.ttft.count(), 0U);
  EXPECT_EQ(results.failed, b.sent);
}

TEST_F(LoadMix, ATraceIsAskedForAsItIs) {
  std::mutex mutex;
  std::multiset<std::pair<int, uint32_t>> asked;
  server_.generate = [&](grpc::ServerContext& context, const v1::GenerateRequest& request,
                         FakeRouter::GenerateWriter& writer) {
    {
      const std::lock_guard lock(mutex);
      asked.emplace(request.prompt().tokens().ids_size(), request.stopping().max_tokens());
      EXPECT_TRUE(request.stopping().ignore_eos());
    }
    return FakeRouter::GenerateAlphabet(context, request, writer);
  };
  load_ = {
      .trace = {{.prompt_tokens = 3, .output_tokens = 2},
                {.at = milliseconds(50), .prompt_tokens = 600, .output_tokens = 9, .blocks = {1}},
                {.at = milliseconds(600), .prompt_tokens = 4, .output_tokens = 1}},
      .vocabulary = 50,
      .prompt_tokens_limit = 500};
  options_.rate = 0;
  options_.requests = 0;
  options_.trace_speed = 2;
  const Results results = Run();
  EXPECT_EQ(results.completed, 3U);
  EXPECT_EQ(results.cut, 1U);
  EXPECT_EQ(asked, (std::multiset<std::pair<int, uint32_t>>{{3, 2}, {500, 9}, {4, 1}}));
  EXPECT_GE(results.sending, milliseconds(300));
}

TEST_F(LoadMix, ATraceThatHasEndedIsNotWaitedOut) {
  load_ = {.trace = {{.prompt_tokens = 3, .output_tokens = 2}}, .vocabulary = 50};
  options_.rate = 0;
  options_.requests = 0;
  options_.duration = seconds(20);
  const Results results = Run();
  EXPECT_EQ(results.completed, 1U);
  EXPECT_LT(results.total, seconds(15));
}

// The action ends two seconds after the load, which is but one request.
TEST_F(LoadMix, TheTimeOfTheLoadIsNotThatOfItsActions) {
  options_.requests = 1;
  options_.actions = {{.name = "nap", .at = 0, .command = {"sleep", "2"}}};
  const Results results = Run();
  EXPECT_TRUE(results.actions[0].ok);
  EXPECT_LT(results.total, seconds(2));
}

TEST_F(LoadMix, SlowReadersTakeTheirTimeAndCountApart) {
  options_.slow_fraction = 1;
  options_.slow_rate = 50;
  options_.requests = 4;
  options_.objectives.itl_ms = 1000;
  const Results results = Run();
  EXPECT_EQ(results.slowly_read, 4U);
  EXPECT_EQ(results.completed, 4U);
  EXPECT_EQ(results.output_tokens, 20U);
  EXPECT_EQ(results.ttft.count(), 4U);
  EXPECT_EQ(results.itl.count(), 0U);
  EXPECT_EQ(results.e2e.count(), 0U);
  EXPECT_EQ(results.judged, 0U);
  EXPECT_GE(results.total, milliseconds(100));  // five tokens at 50 a second
}

TEST_F(LoadMix, ADeadlineEndsASlowReader) {
  options_.slow_fraction = 1;
  options_.slow_rate = 0.01;
  options_.requests = 2;
  options_.timeout = milliseconds(300);
  const Results results = Run();
  EXPECT_EQ(results.completed + results.failed, 2U);
  EXPECT_LT(results.total, seconds(50));
}

TEST_F(LoadMix, AStopEndsASlowReader) {
  options_.slow_fraction = 1;
  options_.slow_rate = 0.01;
  options_.requests = 2;
  std::atomic<bool> stop{false};
  std::thread stopper([&] {
    EXPECT_TRUE(WaitFor([&] { return server_.calls() >= 2; }, "two calls"));
    stop = true;
  });
  const Results results = RunLoad(options_, Workload(load_), stop);
  stopper.join();
  EXPECT_LT(results.total, seconds(50));
}

TEST_F(LoadMix, GoodputCountsWhatKeepsEveryObjective) {
  options_.objectives = {.ttft_ms = 50'000, .itl_ms = 50'000, .tpot_ms = 50'000, .e2e_ms = 50'000};
  const Results all = Run();
  EXPECT_EQ(all.judged, 40U);
  EXPECT_EQ(all.good, 40U);
  server_.generate = [](grpc::ServerContext& context, const v1::GenerateRequest& request,
                        FakeRouter::GenerateWriter& writer) {
    if (request.prompt().text() == "fails") return grpc::Status(grpc::StatusCode::INTERNAL, "no");
    return FakeRouter::GenerateAlphabet(context, request, writer);
  };
  load_.prompts.push_back({.line = 2, .text = "fails"});
  const Results half = Run();
  EXPECT_EQ(half.judged, 40U);
  EXPECT_EQ(half.good, 20U);
  for (double Objectives::*limit :
       {&Objectives::ttft_ms, &Objectives::itl_ms, &Objectives::tpot_ms, &Objectives::e2e_ms}) {
    options_.objectives = {};
    options_.objectives.*limit = 1e-6;
    EXPECT_EQ(Run().good, 0U);
  }
}

TEST_F(LoadMix, NamesBeyondThoseKeptAreOne) {
  load_.prompts.clear();
  for (size_t i = 0; i < Results::kAdaptersKept + 2; ++i) {
    load_.prompts.push_back({.line = i + 1, .text = "x", .adapter = "a" + std::to_string(i)});
  }
  options_.requests = load_.prompts.size();
  options_.max_tokens = 1;
  const Results results = Run();
  EXPECT_EQ(results.adapters.size(), Results::kAdaptersKept + 1);
  EXPECT_EQ(results.adapters.at(Results::kOtherAdapters).sent, 2U);
}

// The wait for the first token lasts until the end if there is none.
TEST_F(LoadMix, AnAnswerWithoutATokenKeepsNoLimitForTheFirst) {
  server_.generate = [](grpc::ServerContext&, const v1::GenerateRequest&,
                        FakeRouter::GenerateWriter& writer) {
    v1::GenerateResponse end;
    end.set_finish_reason(v1::FINISH_REASON_STOP);
    writer.Write(end);
    return grpc::Status::OK;
  };
  options_.objectives.ttft_ms = 1e-6;
  const Results results = Run();
  EXPECT_EQ(results.completed, 40U);
  EXPECT_EQ(results.good, 0U);
}

TEST_F(LoadMix, PhasesHaveTheirRequestsAndActionsWhatTheyOverlap) {
  load_.phases = {{.name = "calm", .seconds = 0.4, .rate_from = 50, .rate_to = 50},
                  {.name = "flood",
                   .seconds = 0.4,
                   .rate_from = 50,
                   .rate_to = 450,
                   .adapters = *AdapterMix::Parse("uniform:x")}};
  options_.rate = 0;
  options_.requests = 0;
  options_.variation = 0;
  options_.actions = {{.name = "nap", .at = 0.05, .command = {"sleep", "0.2"}},
                      {.name = "fails", .at = 0, .command = {"sh", "-c", "echo why; exit 3"}}};
  const Results results = Run();
  ASSERT_EQ(results.phases.size(), 2U);
  EXPECT_EQ(results.phases[0].measures.sent, 19U);  // the 20th is due when the second begins
  EXPECT_EQ(results.phases[1].measures.sent, 100U);
  EXPECT_EQ(results.adapters.at("x").sent, 100U);
  EXPECT_EQ(results.phases[1].begin, 0.4);
  EXPECT_EQ(results.completed, 119U);
  const ActionResult& nap = results.actions[0];
  ASSERT_TRUE(nap.begin && nap.end);
  EXPECT_TRUE(nap.ok);
  EXPECT_GE(*nap.begin, 0.05);
  EXPECT_GE(*nap.end - *nap.begin, 0.2);
  EXPECT_GT(nap.measures.sent, 0U);
  EXPECT_LT(nap.measures.sent, results.sent);
  EXPECT_GT(nap.measures.ttft.count(), 0U);
  EXPECT_FALSE(results.actions[1].ok);
  EXPECT_EQ(results.actions[1].outcome, "exit code 3");
  EXPECT_EQ(results.actions[1].output, "why\n");
  uint64_t in_windows = 0;
  for (const Measures& window : results.timeline.windows()) in_windows += window.sent;
  EXPECT_EQ(in_windows, results.sent);
}

TEST_F(LoadMix, AStopEndsActionsToo) {
  load_.phases = {{.name = "long", .seconds = 3600, .rate_from = 100, .rate_to = 100}};
  options_.rate = 0;
  options_.requests = 0;
  const std::string begun = TemporaryPath("begun");
  options_.actions = {{.name = "sleep",
                       .at = 0,
                       .command = {"sh", "-c", "touch \"$0\"; exec sleep 1000", begun},
                       .timeout = 3600},
                      {.name = "never", .at = 3000, .command = {"true"}}};
  std::atomic<bool> stop{false};
  std::thread stopper([&] {
    EXPECT_TRUE(WaitFor([&] { return server_.calls() >= 20; }, "twenty calls"));
    EXPECT_TRUE(WaitFor([&] { return std::filesystem::exists(begun); }, "the action to begin"));
    stop = true;
  });
  const Results results = RunLoad(options_, Workload(load_), stop);
  stopper.join();
  EXPECT_EQ(results.actions[0].outcome, "stopped with the load");
  EXPECT_FALSE(results.actions[1].begin);
}

TEST_F(LoadMix, TheServerSaysItsVocabulary) {
  const auto vocabulary = AskVocabulary(server_.address(), options_.credentials);
  ASSERT_TRUE(vocabulary.ok()) << vocabulary.status();
  EXPECT_EQ(*vocabulary, 256U);
  EXPECT_THAT(std::string(AskVocabulary("127.0.0.1:1", options_.credentials).status().message()),
              HasSubstr("asking 127.0.0.1:1 for its vocabulary"));
}

}  // namespace
}  // namespace conclave::loadtest

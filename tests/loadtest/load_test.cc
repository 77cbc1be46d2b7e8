#include "loadtest/load.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "loadtest/figures.h"
#include "loadtest/open_calls.h"
#include "loadtest/report.h"
#include "loadtest/samples.h"
#include "tests/loadtest/temporary_file.h"
#include "tests/services/cli/fake_router.h"
#include "tests/testing/wait_for.h"

namespace conclave::loadtest {
namespace {

using conclave::testing::FakeRouter;
using conclave::testing::FakeToken;
using conclave::testing::WaitFor;
using ::testing::HasSubstr;

const std::atomic<bool> kNeverStop{false};

class Load : public ::testing::Test {
 protected:
  Results Run() { return RunLoad(options_, Workload(prompts_), kNeverStop); }

  FakeRouter server_;
  Options options_ = {
      .server = server_.address(), .rate = 2000, .requests = 40, .seed = 3, .max_tokens = 5};
  std::vector<Prompt> prompts_ = {{.line = 1, .text = "one"}, {.line = 2, .token_ids = {4, 5}}};
};

TEST_F(Load, OpenLoopSendsAllAndMeasuresEveryToken) {
  const Results results = Run();
  EXPECT_EQ(results.sent, 40U);
  EXPECT_EQ(results.completed, 40U);
  EXPECT_EQ(results.by_code, (std::map<std::string, uint64_t>{{"OK", 40}}));
  EXPECT_EQ(results.output_tokens, 200U);
  EXPECT_EQ(results.input_tokens, 20U * 3 + 20U * 2);
  EXPECT_EQ(results.ttft.count(), 40U);
  EXPECT_EQ(results.itl.count(), 160U);
  EXPECT_EQ(results.tpot.count(), 40U);
  EXPECT_EQ(results.e2e.count(), 40U);
  EXPECT_EQ(results.lag.count(), 40U);
  EXPECT_LE(results.ttft.max(), results.e2e.max());
  EXPECT_GT(results.sending.count(), 0);
  EXPECT_LE(results.sending, results.total);
}

TEST_F(Load, ClosedLoopNeverHasMoreThanItsStreams) {
  std::atomic<int> open{0};
  std::atomic<int> most{0};
  server_.generate = [&](grpc::ServerContext& context, const v1::GenerateRequest& request,
                         FakeRouter::GenerateWriter& writer) {
    const int now = ++open;
    int seen = most;
    while (seen < now && !most.compare_exchange_weak(seen, now)) {
    }
    const grpc::Status status = FakeRouter::GenerateAlphabet(context, request, writer);
    --open;
    return status;
  };
  options_.rate = 0;
  options_.concurrency = 3;
  const Results results = Run();
  EXPECT_EQ(results.completed, 40U);
  EXPECT_LE(most, 3);
}

// Those that it has when its time is over end, and no further ones are sent; they count from when
// their stream became free.
TEST_F(Load, AClosedLoopEndsWithItsTime) {
  server_.generate = [](grpc::ServerContext& context, const v1::GenerateRequest& request,
                        FakeRouter::GenerateWriter& writer) {
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    return FakeRouter::GenerateAlphabet(context, request, writer);
  };
  options_.rate = 0;
  options_.requests = 0;
  options_.concurrency = 2;
  options_.duration = std::chrono::milliseconds(300);
  EXPECT_EQ(Run().sent, 2U);
}

// So a stall of the generator's own is in the latencies of a closed loop too.
TEST_F(Load, AClosedLoopsRequestsAreDueWhenTheirStreamIsFree) {
  OpenCalls open;
  const Clock::time_point start = Clock::now();
  open.AddSlots(2, start);
  EXPECT_EQ(open.TakeSlot(start), start);
  EXPECT_EQ(open.TakeSlot(start), start);
  EXPECT_EQ(open.TakeSlot(start), std::nullopt);
  const auto call = std::make_shared<Call>();
  open.Add(call);
  const Clock::time_point before = Clock::now();
  open.Remove(call);
  const Clock::time_point after = Clock::now();
  std::this_thread::sleep_for(std::chrono::milliseconds(1));
  const auto due = open.TakeSlot(start);
  ASSERT_TRUE(due);
  EXPECT_GE(*due, before);
  EXPECT_LE(*due, after);
}

// The server answers nothing until all have arrived, which only an open loop survives; and the wait
// is in the latencies, for they count from the intended moment.
TEST_F(Load, ArrivalsDoNotWaitForAnswersAndLatencyCountsFromTheIntendedMoment) {
  std::atomic<int> arrived{0};
  server_.generate = [&](grpc::ServerContext& context, const v1::GenerateRequest& request,
                         FakeRouter::GenerateWriter& writer) {
    ++arrived;
    EXPECT_TRUE(
        WaitFor([&] { return arrived == 30 || context.IsCancelled(); }, "all requests to arrive"));
    return FakeRouter::GenerateAlphabet(context, request, writer);
  };
  options_.requests = 30;
  options_.rate = 300;
  const Results results = Run();
  EXPECT_EQ(results.completed, 30U);
  // The first arrival waited for the last one: nearly the whole time of sending.
  EXPECT_GT(results.ttft.max(), results.sending / 2);
}

TEST_F(Load, TheSameSeedAsksTheSame) {
  const auto ask = [&](uint64_t seed) {
    std::mutex mutex;
    std::multiset<std::string> asked;
    server_.generate = [&](grpc::ServerContext& context, const v1::GenerateRequest& request,
                           FakeRouter::GenerateWriter& writer) {
      {
        const std::lock_guard lock(mutex);
        asked.insert(request.SerializeAsString());
      }
      return FakeRouter::GenerateAlphabet(context, request, writer);
    };
    options_.seed = seed;
    Run();
    return asked;
  };
  const auto first = ask(8);
  EXPECT_EQ(first.size(), 40U);
  EXPECT_EQ(first, ask(8));
  EXPECT_NE(first, ask(9));
}

TEST_F(Load, RefusalsAreCountedByCodeAndTimedApart) {
  std::atomic<int> calls{0};
  server_.generate = [&](grpc::ServerContext& context, const v1::GenerateRequest& request,
                         FakeRouter::GenerateWriter& writer) {
    if (calls++ % 4 == 0) return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "queue\nfull");
    return FakeRouter::GenerateAlphabet(context, request, writer);
  };
  const Results results = Run();
  EXPECT_EQ(results.by_code,
            (std::map<std::string, uint64_t>{{"OK", 30}, {"RESOURCE_EXHAUSTED", 10}}));
  EXPECT_EQ(results.first_message.at("RESOURCE_EXHAUSTED"), "queue\\nfull");
  EXPECT_EQ(results.refusal.count(), 10U);
  EXPECT_EQ(results.broken.count(), 0U);
  EXPECT_EQ(results.ttft.count(), 30U);
  EXPECT_EQ(results.e2e.count(), 30U);
}

TEST_F(Load, OkWithoutAFinishReasonIsIncomplete) {
  server_.generate = [](grpc::ServerContext&, const v1::GenerateRequest&,
                        FakeRouter::GenerateWriter& writer) {
    v1::GenerateResponse delta;
    delta.add_token_ids('a');
    writer.Write(delta);
    return grpc::Status::OK;
  };
  const Results results = Run();
  EXPECT_EQ(results.incomplete, 40U);
  EXPECT_EQ(results.broken.count(), 40U);
  EXPECT_EQ(results.completed, 0U);
}

TEST_F(Load, ExpectationsAreHeldAgainstTextAndTokens) {
  prompts_ = {{.line = 1, .text = "right", .expect_text = "abcde"},
              {.line = 7, .text = "wrong", .expect_token_ids = {{FakeToken(0), 99}}}};
  const Results results = Run();
  EXPECT_EQ(results.completed, 40U);
  EXPECT_EQ(results.checked, 40U);
  EXPECT_EQ(results.mismatched, 20U);
  ASSERT_EQ(results.mismatches.size(), Results::kMismatchesKept);
  EXPECT_EQ(results.mismatches[0].line, 7U);
  EXPECT_THAT(results.mismatches[0].what, HasSubstr("token 1 differs: got 98, want 99"));
}

TEST_F(Load, CancelsTheFractionItWasTold) {
  server_.generate = [](grpc::ServerContext& context, const v1::GenerateRequest& request,
                        FakeRouter::GenerateWriter& writer) {
    const grpc::Status status = FakeRouter::GenerateAlphabet(context, request, writer);
    // So that none ends by itself.
    EXPECT_TRUE(WaitFor([&] { return context.IsCancelled(); }, "the stream to be cancelled"));
    return status;
  };
  options_.cancel_fraction = 1;
  prompts_[0].expect_text = "abcde";  // a cancelled stream is right as far as it came
  const Results results = Run();
  EXPECT_EQ(results.cancelled, 40U);
  EXPECT_EQ(results.completed, 0U);
  EXPECT_TRUE(results.by_code.empty());
  EXPECT_EQ(results.mismatched, 0U);
}

TEST_F(Load, ADeadlineEndsAStreamThatHangs) {
  server_.generate = FakeRouter::GenerateOneThenHang;
  options_.requests = 3;
  options_.timeout = std::chrono::milliseconds(200);
  const Results results = Run();
  EXPECT_EQ(results.by_code, (std::map<std::string, uint64_t>{{"DEADLINE_EXCEEDED", 3}}));
  EXPECT_EQ(results.refusal.count(), 0U);
  EXPECT_EQ(results.broken.count(), 3U);
  EXPECT_GT(results.broken.min().count(), 0);
}

TEST_F(Load, ArrivalsBeyondTheLimitAreReportedNotSent) {
  server_.generate = FakeRouter::GenerateOneThenHang;
  options_.requests = 10;
  options_.rate = 100;
  options_.variation = 0;
  options_.in_flight_limit = 4;
  options_.timeout = std::chrono::seconds(5);
  const Results results = Run();
  EXPECT_EQ(results.sent, 4U);
  EXPECT_EQ(results.unsent, 6U);
  EXPECT_GE(results.sending, std::chrono::milliseconds(100));
  EXPECT_LE(OfferedRate(results), 100);
  EXPECT_LE(AchievedRate(results), 40);
}

TEST_F(Load, SlowReadersHoldUpNobody) {
  options_.slow_readers = 3;
  options_.max_tokens = 2000;
  options_.requests = 10;
  const Results results = Run();
  EXPECT_EQ(results.slow_readers, 3U);
  EXPECT_EQ(results.completed, 10U);
  EXPECT_EQ(results.output_tokens, 20'000U);
}

TEST_F(Load, AStopCancelsWhatIsOpenAndSendsNoMore) {
  server_.generate = FakeRouter::GenerateOneThenHang;
  options_.requests = 0;
  options_.rate = 100;
  options_.duration = std::chrono::hours(1);
  options_.timeout = std::chrono::hours(1);
  std::atomic<bool> stop{false};
  std::thread stopper([&] {
    EXPECT_TRUE(WaitFor([&] { return server_.calls() >= 5; }, "five calls"));
    stop = true;
  });
  const Results results = RunLoad(options_, Workload(prompts_), stop);
  stopper.join();
  EXPECT_GE(results.sent, 5U);
  EXPECT_EQ(results.cancelled, results.sent);
}

TEST_F(Load, NobodyListeningIsUnavailable) {
  options_.server = "127.0.0.1:1";
  options_.requests = 3;
  const Results results = Run();
  EXPECT_EQ(results.by_code, (std::map<std::string, uint64_t>{{"UNAVAILABLE", 3}}));
  EXPECT_EQ(results.refusal.count(), 3U);
}

TEST_F(Load, WaitsOutItsTimeThoughNoRequestIsDueInIt) {
  options_.requests = 0;
  options_.rate = 1e-4;
  options_.duration = std::chrono::milliseconds(150);
  const Results results = Run();
  EXPECT_EQ(results.sent, 0U);
  EXPECT_GE(results.total, options_.duration);
  const std::string table = ToTable({.server = "s", .open = true, .rate = options_.rate}, results);
  EXPECT_THAT(table, HasSubstr("NO REQUEST was due in this time\n"));
  EXPECT_THAT(table, HasSubstr("Request rate configured (req/s):         0.0001    \n"));
}

TEST_F(Load, SamplesAreWhatTheReportIsMadeOf) {
  const std::string path = TemporaryPath("samples");
  auto file = SampleFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  options_.samples = file->get();
  const Results results = Run();
  ASSERT_TRUE((*file)->Close().ok());
  std::ifstream lines(path);
  std::set<int> indices;
  int64_t end = 0;
  uint64_t tokens = 0;
  for (std::string line; std::getline(lines, line);) {
    const nlohmann::json sample = nlohmann::json::parse(line);
    indices.insert(sample["index"].get<int>());
    EXPECT_EQ(sample["status"], "OK");
    EXPECT_EQ(sample["complete"], true);
    EXPECT_EQ(sample["prompt_tokens"], sample["index"].get<int>() % 2 == 0 ? 3 : 2);
    auto last = sample["sent"].get<int64_t>();
    EXPECT_LE(sample["due"], last);
    for (const auto& message : sample["messages"]) {
      EXPECT_GE(message[0], last);
      last = message[0].get<int64_t>();
      tokens += message[1].get<uint64_t>();
    }
    EXPECT_GE(sample["end"], last);
    end = std::max(end, sample["end"].get<int64_t>());
  }
  EXPECT_EQ(indices.size(), 40U);
  EXPECT_EQ(*indices.rbegin(), 39);
  EXPECT_EQ(tokens, results.output_tokens);
  EXPECT_LE(end, results.total.count() * 1e6);
}

TEST_F(Load, SamplesOfFailedRequestsSayHowTheyEnded) {
  const std::string path = TemporaryPath("samples");
  auto file = SampleFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  options_.samples = file->get();
  options_.server = "127.0.0.1:1";
  options_.requests = 1;
  Run();
  ASSERT_TRUE((*file)->Close().ok());
  std::ifstream lines(path);
  const nlohmann::json sample = nlohmann::json::parse(lines);
  EXPECT_EQ(sample["status"], "UNAVAILABLE");
  EXPECT_EQ(sample["complete"], false);
  EXPECT_EQ(sample["messages"].size(), 0U);
}

TEST(Samples, WhatCannotBeWrittenIsTold) {
  EXPECT_THAT(std::string(SampleFile::Open("/no/such/folder/x").status().message()),
              HasSubstr("cannot write \"/no/such/folder/x\""));
  auto full = SampleFile::Open("/dev/full");
  ASSERT_TRUE(full.ok()) << full.status();
  (*full)->Write({});
  EXPECT_EQ((*full)->Close().code(), absl::StatusCode::kDataLoss);
}

TEST(Samples, AnAdapterMayBeNamedAnything) {
  const nlohmann::json sample = nlohmann::json::parse(ToLine({.adapter = "\"\xff\n"}));
  EXPECT_EQ(sample["adapter"], "\"\xEF\xBF\xBD\n");
}

TEST_F(Load, ItsOwnTimeOnProcessorsIsTold) {
  const Results results = Run();
  EXPECT_GT(results.cpu.count(), 0);
  EXPECT_EQ(ToJson({}, results)["cpu_s"], results.cpu.count());
}

TEST_F(Load, ReportsSayTheSameInJsonAndInTheTable) {
  prompts_[0].expect_text = "wrong";
  const Results results = Run();
  const Setting setting = {.server = "s", .seed = 3, .open = true, .rate = 2000};
  const nlohmann::json json = ToJson(setting, results);
  EXPECT_EQ(json["mode"], "open");
  EXPECT_EQ(json["requests"]["completed"], 40);
  EXPECT_EQ(json["status"]["OK"], 40);
  EXPECT_EQ(json["mismatches"]["count"], 20);
  EXPECT_EQ(json["ttft_ms"]["count"], 40);
  EXPECT_LE(json["ttft_ms"]["p50"], json["ttft_ms"]["p99_9"]);
  EXPECT_LE(json["ttft_ms"]["p99_9"], json["ttft_ms"]["max"]);
  const std::string table = ToTable(setting, results);
  EXPECT_THAT(table, HasSubstr("============ Serving Benchmark Result ============\n"));
  EXPECT_THAT(table, HasSubstr("Successful requests:                     40        \n"));
  EXPECT_THAT(table, HasSubstr("Median TTFT (ms):"));
  EXPECT_THAT(table, HasSubstr("MISMATCHES:                              20"));
  EXPECT_THAT(table, HasSubstr("line 1: text differs at byte 0"));
}

}  // namespace
}  // namespace conclave::loadtest

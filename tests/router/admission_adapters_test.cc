// Admission between adapters; that it is first come, first served within one is
// admission_test.cc's.

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <string>
#include <vector>

#include "router/admission.h"

namespace conclave::router {
namespace {

using Reason = Admission::Reason;
using Keys = std::vector<uint64_t>;
using std::chrono::milliseconds;
using std::chrono::seconds;

std::vector<WorkerView> Workers(int count, std::optional<uint64_t> credit = std::nullopt) {
  std::vector<WorkerView> workers;
  for (int i = 1; i <= count; ++i) {
    workers.push_back(
        {.key = static_cast<uint64_t>(i), .model = "m", .ready = true, .credit = credit});
  }
  return workers;
}

// Reserves and queues; the refusal, if it was one, and the request is then forgotten.
std::optional<Admission::Refusal> Offer(Admission& admission, uint64_t key,
                                        const std::string& adapter, int64_t prompt,
                                        int64_t output = 0, const std::string& version = "") {
  if (auto refusal = admission.Reserve(key, "r" + std::to_string(key), std::nullopt, adapter))
    return refusal;
  auto refusal =
      admission.Enqueue(key, {.prompt = prompt, .output = output}, /*goes_on=*/false, version);
  if (refusal) admission.Remove(key, Admission::Micros(0));
  return refusal;
}

Keys Go(Admission& admission, const std::vector<WorkerView>& workers) {
  Keys keys;
  for (const auto& start : admission.Dispatch(workers, "m", 1)) keys.push_back(start.key);
  admission.CheckInvariants();
  return keys;
}

TEST(AdmissionOfAdapters, LetsThemTakeTurns) {
  Admission admission({.home = {.requests = 4, .tokens = 10'000}});
  for (uint64_t key = 1; key <= 6; ++key) ASSERT_FALSE(Offer(admission, key, "flood", 256));
  for (uint64_t key : {7, 8}) ASSERT_FALSE(Offer(admission, key, "", 256));
  EXPECT_EQ(Go(admission, Workers(1)), (Keys{1, 7, 2, 8}));
}

TEST(AdmissionOfAdapters, GivesAllItHasToOneWhoIsAlone) {
  Admission admission({.home = {.requests = 20}});
  admission.ShareOut(true);
  for (uint64_t key = 1; key <= 20; ++key) ASSERT_FALSE(Offer(admission, key, "one", 100));
  EXPECT_EQ(Go(admission, Workers(1)).size(), 20u);
}

TEST(AdmissionOfAdapters, KeepsPlacesForThoseThatHaveLess) {
  Admission admission({.kept_percent = 10});
  ASSERT_FALSE(Offer(admission, 1, "light", 10));
  ASSERT_EQ(Go(admission, Workers(1, 20)), (Keys{1}));
  admission.Remove(1, seconds(1));
  for (uint64_t key = 101; key <= 130; ++key) ASSERT_FALSE(Offer(admission, key, "flood", 100));
  EXPECT_EQ(Go(admission, Workers(1, 20)).size(), 18u) << "a tenth is kept: light was there lately";
  EXPECT_EQ(admission.stats().waiting_for_credit, 0) << "credit there is, but not for it";
  for (uint64_t key : {2, 3, 4}) ASSERT_FALSE(Offer(admission, key, "light", 100));
  EXPECT_EQ(Go(admission, Workers(1, 2)), (Keys{2, 3}));
  EXPECT_EQ(admission.stats().waiting_for_credit, 13);
  admission.Remove(101, seconds(2));
  EXPECT_EQ(Go(admission, Workers(1, 1)), (Keys{4}));
}

TEST(AdmissionOfAdapters, KeepsRoomWhereAWorkerGrantsNoCredits) {
  Admission admission({.kept_percent = 25, .home = {.requests = 8, .tokens = 1000}});
  ASSERT_FALSE(Offer(admission, 1, "light", 10));
  for (uint64_t key : {2, 3, 4}) ASSERT_FALSE(Offer(admission, key, "flood", 300));
  EXPECT_EQ(Go(admission, Workers(1)), (Keys{1, 2, 3})) << "of the tokens 750 are for the flood";
  ASSERT_FALSE(Offer(admission, 5, "light", 390));
  EXPECT_EQ(Go(admission, Workers(1)), (Keys{5}));
  EXPECT_EQ(admission.stats().waiting, 1);
  admission.Remove(2, seconds(1));
  EXPECT_EQ(Go(admission, Workers(1)), (Keys{4}));
}

TEST(AdmissionOfAdapters, LetsOthersPassOneWithoutRoomUpToItsOwnSize) {
  Admission admission({.kept_percent = 0, .home = {.requests = 100, .tokens = 100}});
  ASSERT_FALSE(Offer(admission, 1, "a", 60));
  ASSERT_EQ(Go(admission, Workers(1)), (Keys{1}));
  ASSERT_FALSE(Offer(admission, 2, "large", 50));
  ASSERT_FALSE(Offer(admission, 3, "large", 1));
  for (uint64_t key = 11; key <= 18; ++key) ASSERT_FALSE(Offer(admission, key, "small", 10));
  EXPECT_EQ(Go(admission, Workers(1)), (Keys{11, 12, 13, 14}));
  for (uint64_t key : {11, 12, 13, 14}) admission.Remove(key, seconds(1));
  EXPECT_EQ(Go(admission, Workers(1)), (Keys{15})) << "then as many tokens have passed as it has";
  admission.Remove(15, seconds(1));
  EXPECT_EQ(Go(admission, Workers(1)), Keys());
  admission.Remove(1, seconds(1));
  EXPECT_EQ(Go(admission, Workers(1)), (Keys{2, 3, 16, 17, 18}));
}

TEST(AdmissionOfAdapters, HoldsNobodyUpForOneThatHasLeft) {
  Admission admission({.kept_percent = 0, .home = {.requests = 100, .tokens = 100}});
  ASSERT_FALSE(Offer(admission, 1, "a", 95));
  ASSERT_EQ(Go(admission, Workers(1)), (Keys{1}));
  ASSERT_FALSE(Offer(admission, 2, "large", 6));
  for (uint64_t key : {3, 4}) ASSERT_FALSE(Offer(admission, key, "small", 4));
  EXPECT_EQ(Go(admission, Workers(1)), (Keys{3}));
  admission.Remove(3, seconds(1));
  EXPECT_EQ(Go(admission, Workers(1)), Keys()) << "four more would be eight";
  admission.Remove(2, seconds(1));
  EXPECT_EQ(Go(admission, Workers(1)), (Keys{4}));
}

TEST(AdmissionOfAdapters, LetsNobodyPassWhoLostItsHome) {
  Admission admission({.home = {.requests = 4, .tokens = 100}});
  ASSERT_FALSE(Offer(admission, 1, "a", 80));
  ASSERT_EQ(Go(admission, Workers(1)), (Keys{1}));
  ASSERT_FALSE(Offer(admission, 2, "b", 30));
  admission.LeaveHome(1, seconds(1), 0);
  ASSERT_EQ(Go(admission, Workers(1)), (Keys{2}));
  admission.Requeue(1, /*goes_on=*/true);
  ASSERT_FALSE(Offer(admission, 3, "b", 1));
  EXPECT_EQ(Go(admission, Workers(1)), Keys());
  admission.Remove(2, seconds(1));
  EXPECT_EQ(Go(admission, Workers(1)), (Keys{1, 3}));
}

TEST(AdmissionOfAdapters, ChargesWhatWasServedAndNotWhatWasAskedFor) {
  // `modest` asks for 1000 tokens each time and takes 100, `exact` asks for what it takes.
  Admission admission({.kept_percent = 0, .home = {.requests = 2}});
  uint64_t key = 0;
  std::map<std::string, int> served;
  std::map<uint64_t, std::string> names;
  const auto ask = [&](const std::string& name) {
    names[++key] = name;
    ASSERT_FALSE(Offer(admission, key, name, 10, name == "modest" ? 1000 : 100));
  };
  for (int i = 0; i < 4; ++i) {
    ask("modest");
    ask("exact");
  }
  Keys running;
  for (int i = 0; i < 400; ++i) {
    for (const uint64_t gone : Go(admission, Workers(1))) running.push_back(gone);
    const uint64_t done = running.front();
    running.erase(running.begin());
    ++served[names[done]];
    admission.LeaveHome(done, seconds(i), 110);
    admission.Remove(done, seconds(i));
    ask(names[done]);
  }
  EXPECT_NEAR(served["modest"], served["exact"], 12);
}

TEST(AdmissionOfAdapters, TakesNothingForWhatNoWorkerServed) {
  Admission admission({.home = {.requests = 1}});
  for (uint64_t key = 1; key <= 3; ++key) ASSERT_FALSE(Offer(admission, key, "unlucky", 5000));
  for (uint64_t key = 11; key <= 13; ++key) ASSERT_FALSE(Offer(admission, key, "other", 250));
  ASSERT_EQ(Go(admission, Workers(1)), (Keys{1}));
  admission.LeaveHome(1, seconds(1), 0);
  admission.Remove(1, seconds(1));
  Keys next;
  for (int i = 0; i < 3; ++i) {
    for (const uint64_t gone : Go(admission, Workers(1))) {
      next.push_back(gone);
      admission.Remove(gone, seconds(2));
    }
  }
  EXPECT_EQ(next, (Keys{11, 12, 2}));
}

TEST(AdmissionOfAdapters, RefusesAFloodWhileOthersFindAPlace) {
  Admission admission({.max_waiting = 16});
  admission.ShareOut(true);
  for (uint64_t key = 1; key <= 8; ++key) ASSERT_FALSE(Offer(admission, key, "flood", 1));
  const auto refusal = Offer(admission, 9, "flood", 1);
  ASSERT_TRUE(refusal);
  EXPECT_EQ(refusal->reason, Reason::kWaiting);
  EXPECT_EQ(refusal->adapter, "flood");
  EXPECT_EQ(refusal->limit, 8);
  for (uint64_t key = 11; key <= 14; ++key) ASSERT_FALSE(Offer(admission, key, "", 1));
  const auto base = Offer(admission, 15, "", 1);
  ASSERT_TRUE(base);
  EXPECT_EQ(base->adapter, "");
  EXPECT_EQ(base->limit, 4) << "half of what the other leaves";
  EXPECT_FALSE(Offer(admission, 20, "third", 1));
}

TEST(AdmissionOfAdapters, GivesEachHalfOfTheTokensThatOthersLeave) {
  Admission admission({.max_tokens = 100});
  admission.ShareOut(true);
  EXPECT_FALSE(Offer(admission, 1, "a", 40));
  const auto refusal = Offer(admission, 2, "a", 11);
  ASSERT_TRUE(refusal);
  EXPECT_EQ(refusal->reason, Reason::kTokens);
  EXPECT_EQ(refusal->adapter, "a");
  EXPECT_EQ(refusal->limit, 50);
  EXPECT_FALSE(Offer(admission, 3, "a", 10));
  EXPECT_FALSE(Offer(admission, 4, "b", 50)) << "its first may have any size";
}

TEST(AdmissionOfAdapters, GivesEachHalfOfTheRequestsThatOthersLeave) {
  Admission admission({.max_requests = 6});
  admission.ShareOut(true);
  for (uint64_t key : {1, 2, 3}) ASSERT_FALSE(Offer(admission, key, "a", 1));
  Go(admission, Workers(1));
  const auto refusal = Offer(admission, 4, "a", 1);
  ASSERT_TRUE(refusal);
  EXPECT_EQ(refusal->reason, Reason::kRequests);
  EXPECT_EQ(refusal->adapter, "a");
  EXPECT_EQ(refusal->limit, 3);
  EXPECT_FALSE(Offer(admission, 5, "b", 1));
}

TEST(AdmissionOfAdapters, KeepsToWhatOneMayHaveWaiting) {
  Admission admission({.max_waiting_each = 2, .home = {.requests = 1}});
  for (uint64_t key : {1, 2}) ASSERT_FALSE(Offer(admission, key, "a", 1));
  const auto refusal = Offer(admission, 3, "a", 1);
  ASSERT_TRUE(refusal);
  EXPECT_EQ(refusal->adapter, "a");
  EXPECT_EQ(refusal->limit, 2);
  EXPECT_EQ(Go(admission, Workers(1)), (Keys{1}));
  EXPECT_FALSE(Offer(admission, 3, "a", 1)) << "what runs does not wait";
}

TEST(AdmissionOfAdapters, TellsARefusedOneWhenItsOwnQueueMoves) {
  Admission admission({.max_waiting_each = 4, .kept_percent = 0});
  for (uint64_t key = 1; key <= 4; ++key) {
    ASSERT_FALSE(Offer(admission, key, "slow", 1));
    ASSERT_FALSE(Offer(admission, 10 + key, "fast", 1));
  }
  ASSERT_EQ(Go(admission, Workers(1, 8)).size(), 8u);
  for (uint64_t key = 5; key <= 8; ++key) {
    ASSERT_FALSE(Offer(admission, key, "slow", 1));
    ASSERT_FALSE(Offer(admission, 10 + key, "fast", 1));
  }
  for (uint64_t key = 1; key <= 4; ++key) {
    admission.Remove(key, seconds(3 * key));
    admission.Remove(10 + key, milliseconds(200 * key));
  }
  // Of four that wait three have to go before the queue is half empty.
  EXPECT_EQ(Offer(admission, 21, "slow", 1)->pushback, seconds(9));
  EXPECT_EQ(Offer(admission, 22, "fast", 1)->pushback, milliseconds(600));
}

TEST(AdmissionOfAdapters, CountsThemOneByOne) {
  Admission admission({.home = {.requests = 2}});
  for (uint64_t key : {1, 2, 3}) ASSERT_FALSE(Offer(admission, key, "a", 10, 5));
  ASSERT_FALSE(Offer(admission, 4, "", 7));
  ASSERT_FALSE(admission.Reserve(5, "five", std::nullopt, "b"));
  Go(admission, Workers(1));
  auto adapters = admission.adapters();
  ASSERT_EQ(adapters.size(), 3u);
  EXPECT_EQ(adapters["a"].running + adapters[""].running, 2);
  EXPECT_EQ(adapters["a"].waiting + adapters[""].waiting, 2);
  EXPECT_EQ(adapters["a"].tokens, 45);
  EXPECT_EQ(adapters["b"].preparing, 1);
  for (uint64_t key = 1; key <= 5; ++key) admission.Remove(key, seconds(1));
  EXPECT_TRUE(admission.adapters().empty());
}

TEST(AdmissionOfAdapters, MovesWhoIsPreparedToAnotherAdapter) {
  Admission admission({.max_waiting = 8, .home = {.requests = 8}});
  ASSERT_FALSE(admission.Reserve(1, "one", std::nullopt, "auto"));
  ASSERT_FALSE(admission.MoveTo(1, "law"));
  admission.CheckInvariants();
  EXPECT_EQ(admission.adapters().count("auto"), 0u);
  EXPECT_EQ(admission.adapters().at("law").preparing, 1);
  EXPECT_EQ(admission.stats().requests, 1);
  ASSERT_FALSE(admission.MoveTo(1, "law"));
  ASSERT_FALSE(admission.Enqueue(1, {.prompt = 7}));
  EXPECT_EQ(admission.adapters().at("law").tokens, 7);
  EXPECT_EQ(Go(admission, Workers(1)), Keys({1}));
}

TEST(AdmissionOfAdapters, MovesNobodyToAnAdapterThatHasItsLimit) {
  Admission admission({.max_waiting = 3, .max_waiting_each = 2});
  ASSERT_FALSE(Offer(admission, 1, "law", 5));
  ASSERT_FALSE(Offer(admission, 2, "law", 5));
  ASSERT_FALSE(admission.Reserve(3, "three", std::nullopt, "auto"));
  const auto refusal = admission.MoveTo(3, "law");
  ASSERT_TRUE(refusal);
  EXPECT_EQ(refusal->reason, Reason::kWaiting);
  EXPECT_EQ(refusal->adapter, "law");
  admission.CheckInvariants();
  EXPECT_EQ(admission.adapters().at("auto").preparing, 1) << "it stays where it was";
  EXPECT_FALSE(admission.MoveTo(3, "intent")) << "though all together have their limit";
  admission.Remove(3, Admission::Micros(0));
  admission.CheckInvariants();
  EXPECT_EQ(admission.stats().requests, 2);
}

TEST(AdmissionOfAdapters, ForgetsHowAdaptersWereBeyondANumberOfThem) {
  Admission admission({.known_adapters = 3, .fair = {.idle_lanes = 1}});
  for (uint64_t key = 1; key <= 50; ++key) {
    ASSERT_FALSE(Offer(admission, key, "a" + std::to_string(key), 1));
    ASSERT_EQ(Go(admission, Workers(1)), (Keys{key}));
    admission.Remove(key, seconds(1));
    admission.CheckInvariants();
  }
}

TEST(AdmissionOfAdapters, LetsWhoWaitsForMemoryHoldUpNobodyElse) {
  Admission admission({.home = {.requests = 10, .tokens = 100}});
  admission.SetAway({{"aa", false}});
  ASSERT_FALSE(Offer(admission, 1, "law", 50, 0, "aa"));
  ASSERT_FALSE(Offer(admission, 2, "intent", 50, 0, "bb"));
  ASSERT_FALSE(Offer(admission, 3, "", 50));
  EXPECT_EQ(Go(admission, Workers(1)), (Keys{2, 3}));
  EXPECT_TRUE(admission.WaitsForMemory(1));
  EXPECT_EQ(admission.waiting_for_memory(), 1);
  EXPECT_EQ(admission.versions_waited_for(), (std::set<std::string>{"aa"}));
  admission.LeaveHome(2, seconds(1));
  admission.SetAway({});
  EXPECT_EQ(Go(admission, Workers(1)), (Keys{1}));
  EXPECT_FALSE(admission.WaitsForMemory(1));
  EXPECT_EQ(admission.waiting_for_memory(), 0);
}

TEST(AdmissionOfAdapters, LetsOneThatBeganGoOnWhileItsVersionLeavesMemory) {
  Admission admission({});
  ASSERT_FALSE(Offer(admission, 1, "law", 50, 0, "aa"));
  ASSERT_FALSE(Offer(admission, 2, "law", 50, 0, "aa"));
  ASSERT_EQ(Go(admission, Workers(1, 1)), (Keys{1}));
  admission.SetAway({{"aa", true}});
  EXPECT_EQ(admission.versions_waited_for(), (std::set<std::string>{})) << "one runs";
  admission.LeaveHome(1, seconds(1));
  EXPECT_EQ(admission.versions_waited_for(), (std::set<std::string>{})) << "it may look for a home";
  admission.Requeue(1);
  EXPECT_EQ(admission.versions_waited_for(), (std::set<std::string>{}))
      << "a worker had it, and another must be able to go on";
  EXPECT_EQ(Go(admission, Workers(1)), (Keys{1})) << "but nobody begins";
  admission.LeaveHome(1, seconds(2));
  admission.Requeue(1);
  admission.SetAway({{"aa", false}});
  ASSERT_FALSE(Offer(admission, 3, "intent", 50));
  EXPECT_EQ(Go(admission, Workers(1)), (Keys{3}))
      << "nobody has it; who has had his turn waits too";
  EXPECT_EQ(admission.versions_waited_for(), (std::set<std::string>{"aa"}));
}

TEST(AdmissionOfAdapters, IsNotHeldUpByALargeOneWhoseVersionHasLeftMemory) {
  Admission admission({.kept_percent = 0, .home = {.requests = 10, .tokens = 100}});
  ASSERT_FALSE(Offer(admission, 1, "", 60));
  ASSERT_EQ(Go(admission, Workers(1)), (Keys{1}));
  ASSERT_FALSE(Offer(admission, 2, "law", 100, 0, "aa"));
  ASSERT_EQ(Go(admission, Workers(1)), (Keys{})) << "it waits for room";
  admission.SetAway({{"aa", true}});
  for (uint64_t key = 3; key <= 8; ++key) {
    ASSERT_FALSE(Offer(admission, key, "", 40));
    EXPECT_EQ(Go(admission, Workers(1)), (Keys{key}));
    admission.Remove(key, seconds(1));
  }
}

TEST(AdmissionOfAdapters, KeepsItsPromisesThroughRandomTraffic) {
  for (uint32_t seed = 0; seed < 50; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    Admission admission({.max_requests = 60,
                         .max_tokens = 2000,
                         .max_waiting = 40,
                         .kept_percent = static_cast<int32_t>(random() % 30),
                         .known_adapters = 3,
                         .fair = {.quantum = 64, .weights = {{"b", 3}}, .idle_lanes = 2},
                         .home = {.requests = 5, .paused = 2, .tokens = 200}});
    admission.ShareOut(seed % 2 == 0);
    Keys live;
    Admission::Micros now{0};
    for (uint64_t key = 1; key <= 400; ++key) {
      now += milliseconds(random() % 20);
      const std::string adapter(random() % 6 == 0 ? 0 : 1, static_cast<char>('a' + random() % 5));
      if (!Offer(admission, key, adapter, random() % 80, random() % 80)) live.push_back(key);
      admission.CheckInvariants();
      std::vector<WorkerView> workers = Workers(3);
      for (WorkerView& worker : workers) {
        if (random() % 2 == 0) worker.credit = random() % 3;
      }
      for (const auto& start : admission.Dispatch(workers, "m", seed)) {
        if (random() % 8 == 0) {
          admission.LeaveHome(start.key, now, random() % 100);
          admission.Requeue(start.key, /*goes_on=*/random() % 2 == 0);
        }
        admission.CheckInvariants();
      }
      for (const uint64_t one : live) {
        if (random() % 4 == 0) admission.SetPaused(one, random() % 2 == 0);
      }
      while (!live.empty() && random() % 3 == 0) {
        const size_t index = random() % live.size();
        if (random() % 2 == 0) admission.LeaveHome(live[index], now, random() % 100);
        if (random() % 2 == 0) admission.ReleaseId(live[index]);
        admission.Remove(live[index], now);
        live.erase(live.begin() + static_cast<std::ptrdiff_t>(index));
        admission.CheckInvariants();
      }
    }
    // With room, everybody who waits goes home, and in so many turns.
    for (int turn = 0; turn < 400 && admission.stats().waiting > 0; ++turn) {
      Go(admission, Workers(3));
      for (const uint64_t one : live) admission.LeaveHome(one, now);
    }
    EXPECT_EQ(admission.stats().waiting, 0);
    for (uint64_t key : live) admission.Remove(key, now);
    admission.CheckInvariants();
    EXPECT_EQ(admission.stats().requests, 0);
    EXPECT_EQ(admission.stats().tokens, 0);
  }
}

}  // namespace
}  // namespace conclave::router

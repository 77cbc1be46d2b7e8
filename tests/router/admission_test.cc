#include "router/admission.h"

#include <gtest/gtest.h>

#include <random>

namespace conclave::router {
namespace {

using Reason = Admission::Reason;
using std::chrono::milliseconds;
using std::chrono::seconds;

std::vector<WorkerView> Workers(int count) {
  std::vector<WorkerView> workers;
  for (int i = 1; i <= count; ++i) {
    workers.push_back({.key = static_cast<uint64_t>(i), .model = "m", .ready = true});
  }
  return workers;
}

std::string Id(uint64_t key) { return "r" + std::to_string(key); }

// Reserves and queues; the reason if it was refused (and then forgotten).
std::optional<Reason> Offer(Admission& admission, uint64_t key, int64_t tokens) {
  if (auto refusal = admission.Reserve(key, Id(key))) return refusal->reason;
  auto refusal = admission.Enqueue(key, {.prompt = tokens});
  if (!refusal) return std::nullopt;
  admission.Remove(key, Admission::Micros(0));
  return refusal->reason;
}

std::vector<uint64_t> Keys(const std::vector<Admission::Start>& starts) {
  std::vector<uint64_t> keys;
  for (const auto& start : starts) keys.push_back(start.key);
  return keys;
}

TEST(Admission, SendsRequestsHomeInOrderOfArrival) {
  Admission admission({.home = {.requests = 2, .tokens = 100}});
  for (uint64_t key : {3, 1, 2}) ASSERT_FALSE(Offer(admission, key, 10));
  EXPECT_EQ(Keys(admission.Dispatch(Workers(1), "m", 1)), (std::vector<uint64_t>{3, 1}));
  admission.LeaveHome(3, seconds(1));
  EXPECT_EQ(Keys(admission.Dispatch(Workers(1), "m", 1)), (std::vector<uint64_t>{2}));
  admission.CheckInvariants();
}

TEST(Admission, HandsAnIdOverToWhoGoesOnWithTheRequest) {
  Admission admission({.max_requests = 3});
  ASSERT_FALSE(admission.Reserve(1, "mine"));
  EXPECT_EQ(admission.KeyOf("mine"), 1u);
  EXPECT_EQ(admission.Reserve(2, "mine")->reason, Reason::kDuplicateId);
  EXPECT_EQ(admission.Reserve(2, "mine", 7)->reason, Reason::kDuplicateId);
  EXPECT_FALSE(admission.Reserve(2, "mine", 1));
  EXPECT_EQ(admission.KeyOf("mine"), 2u);
  admission.CheckInvariants();
  admission.Remove(1, seconds(1));
  EXPECT_EQ(admission.KeyOf("mine"), 2u) << "it is not the older one's any more";
  admission.CheckInvariants();
  admission.Remove(2, seconds(1));
  EXPECT_FALSE(admission.KeyOf("mine"));
}

TEST(Admission, SendsARequestWhereMuchOfItIsComputed) {
  Admission admission({.home = {.requests = 2, .tokens = 100}});
  for (uint64_t key : {1, 2, 3}) {
    ASSERT_FALSE(Offer(admission, key, 10));
    admission.Prefer(key, 2);
  }
  const auto starts = admission.Dispatch(Workers(3), "m", 1);
  ASSERT_EQ(Keys(starts), (std::vector<uint64_t>{1, 2, 3}));
  EXPECT_EQ(starts[0].worker, 2u);
  EXPECT_EQ(starts[1].worker, 2u);
  EXPECT_NE(starts[2].worker, 2u) << "it is full";
  EXPECT_EQ(admission.HomeOf(1), 2u);
  admission.LeaveHome(1, seconds(1));
  EXPECT_FALSE(admission.HomeOf(1));
}

TEST(Admission, APausedRequestLeavesItsPlaceAndHasItBackWhenItGoesOn) {
  Admission admission({.home = {.requests = 1, .paused = 1, .tokens = 10}});
  for (uint64_t key : {1, 2, 3}) ASSERT_FALSE(Offer(admission, key, 10));
  EXPECT_EQ(Keys(admission.Dispatch(Workers(1), "m", 1)), (std::vector<uint64_t>{1}));
  admission.SetPaused(1, true);
  EXPECT_EQ(Keys(admission.Dispatch(Workers(1), "m", 1)), (std::vector<uint64_t>{2}));
  admission.SetPaused(2, true);  // one too many: it keeps its place
  EXPECT_TRUE(admission.Dispatch(Workers(1), "m", 1).empty());
  admission.CheckInvariants();
  admission.SetPaused(1, false);
  EXPECT_TRUE(admission.Dispatch(Workers(1), "m", 1).empty());
  admission.CheckInvariants();
  admission.LeaveHome(1, seconds(1));
  admission.LeaveHome(2, seconds(1));
  EXPECT_EQ(Keys(admission.Dispatch(Workers(1), "m", 1)), (std::vector<uint64_t>{3}));
  admission.CheckInvariants();
}

TEST(Admission, TakesTheLastPlaceOfAllAndRefusesOneMore) {
  Admission admission({.max_requests = 3});
  for (uint64_t key : {1, 2, 3}) ASSERT_FALSE(Offer(admission, key, 1));
  const auto refusal = admission.Reserve(4, "r4");
  ASSERT_TRUE(refusal);
  EXPECT_EQ(refusal->reason, Reason::kRequests);
  EXPECT_EQ(refusal->limit, 3);
  EXPECT_GT(refusal->pushback.count(), 0);
  admission.Remove(2, seconds(1));
  EXPECT_FALSE(admission.Reserve(4, "r4"));
  admission.CheckInvariants();
}

TEST(Admission, CountsRequestsBeingTokenisedAmongThoseWhoWait) {
  Admission admission({.max_waiting = 2});
  EXPECT_FALSE(admission.Reserve(1, "r1"));
  EXPECT_FALSE(Offer(admission, 2, 1));
  const auto refusal = admission.Reserve(3, "r3");
  ASSERT_TRUE(refusal);
  EXPECT_EQ(refusal->reason, Reason::kWaiting);
  EXPECT_EQ(admission.Dispatch(Workers(1), "m", 1).size(), 1u);
  EXPECT_FALSE(admission.Reserve(3, "r3"));
}

TEST(Admission, TakesTheLastTokenAndRefusesOneMore) {
  Admission admission({.max_tokens = 100});
  EXPECT_FALSE(Offer(admission, 1, 60));
  EXPECT_EQ(Offer(admission, 2, 41), Reason::kTokens);
  EXPECT_FALSE(Offer(admission, 3, 40));
  admission.CheckInvariants();
}

TEST(Admission, TakesOneRequestOfAnySizeWhenNothingElseIsThere) {
  Admission admission({.max_tokens = 100, .home = {.requests = 4, .tokens = 50}});
  EXPECT_FALSE(Offer(admission, 1, 1000));
  EXPECT_EQ(admission.Dispatch(Workers(1), "m", 1).size(), 1u);
}

TEST(Admission, RefusesALiveIdAndTakesItOnceItIsFree) {
  Admission admission({});
  EXPECT_FALSE(admission.Reserve(1, "same"));
  const auto refusal = admission.Reserve(2, "same");
  ASSERT_TRUE(refusal);
  EXPECT_EQ(refusal->reason, Reason::kDuplicateId);
  admission.Remove(1, seconds(1));
  EXPECT_FALSE(admission.Reserve(2, "same"));
}

TEST(Admission, FreesAnIdBeforeItsPlace) {
  Admission admission({.max_requests = 2});
  ASSERT_FALSE(admission.Reserve(1, "same"));
  admission.ReleaseId(1);
  admission.ReleaseId(1);
  admission.ReleaseId(99);
  EXPECT_EQ(admission.stats().requests, 1);
  EXPECT_FALSE(admission.Reserve(2, "same"));
  admission.CheckInvariants();
  admission.Remove(1, seconds(1));
  EXPECT_TRUE(admission.Reserve(3, "same")) << "the id is now the second one's";
  admission.CheckInvariants();
}

TEST(Admission, LetsNobodyPassTheHeadOfTheQueue) {
  Admission admission({.home = {.requests = 8, .tokens = 100}});
  ASSERT_FALSE(Offer(admission, 1, 80));
  ASSERT_FALSE(Offer(admission, 2, 50));
  ASSERT_FALSE(Offer(admission, 3, 1));
  EXPECT_EQ(Keys(admission.Dispatch(Workers(1), "m", 1)), (std::vector<uint64_t>{1}));
  admission.Remove(1, seconds(1));
  EXPECT_EQ(Keys(admission.Dispatch(Workers(1), "m", 1)), (std::vector<uint64_t>{2, 3}));
}

TEST(Admission, SpreadsOverWorkersByLoad) {
  Admission admission({.home = {.requests = 2, .tokens = 100}});
  for (uint64_t key = 1; key <= 5; ++key) ASSERT_FALSE(Offer(admission, key, 10));
  EXPECT_EQ(admission.Dispatch(Workers(2), "m", 1).size(), 4u);
  EXPECT_EQ(admission.stats().waiting, 1);
  EXPECT_EQ(admission.stats().running, 4);
  admission.CheckInvariants();
}

std::vector<WorkerView> Granting(int count, uint64_t each) {
  std::vector<WorkerView> workers = Workers(count);
  for (WorkerView& worker : workers) worker.credit = each;
  return workers;
}

TEST(Admission, SendsHomeWhatWasGrantedAndKeepsTheRest) {
  Admission admission({.home = {.requests = 8, .tokens = 100}});
  for (uint64_t key = 1; key <= 6; ++key) ASSERT_FALSE(Offer(admission, key, 1));
  EXPECT_EQ(Keys(admission.Dispatch(Granting(2, 2), "m", 1)), (std::vector<uint64_t>{1, 2, 3, 4}));
  EXPECT_EQ(admission.stats().waiting_for_credit, 2);
  admission.Remove(5, seconds(1));
  EXPECT_EQ(admission.stats().waiting_for_credit, 1);
  EXPECT_EQ(Keys(admission.Dispatch(Granting(2, 1), "m", 1)), (std::vector<uint64_t>{6}));
  EXPECT_EQ(admission.stats().waiting_for_credit, 0);
  admission.CheckInvariants();
}

TEST(Admission, SendsWhatGoesOnPastThoseThatWaitForCredit) {
  Admission admission({.home = {.requests = 8, .tokens = 100}});
  for (uint64_t key : {1, 2}) ASSERT_FALSE(Offer(admission, key, 1));
  ASSERT_FALSE(admission.Reserve(3, Id(3)));
  ASSERT_FALSE(admission.Enqueue(3, {.prompt = 1}, /*goes_on=*/true));
  EXPECT_EQ(Keys(admission.Dispatch(Granting(1, 0), "m", 1)), (std::vector<uint64_t>{3}));
  admission.LeaveHome(3, seconds(1));
  admission.Requeue(3, /*goes_on=*/true);
  admission.CheckInvariants();
  EXPECT_EQ(Keys(admission.Dispatch(Granting(1, 1), "m", 1)), (std::vector<uint64_t>{3}))
      << "it has used the credit, though it needs none";
  EXPECT_EQ(Keys(admission.Dispatch(Granting(1, 1), "m", 1)), (std::vector<uint64_t>{1}));
}

TEST(Admission, LetsNobodyPassWhoWouldNotFitWithACreditEither) {
  Admission admission({.home = {.requests = 8, .tokens = 100}});
  ASSERT_FALSE(Offer(admission, 1, 80));
  ASSERT_EQ(admission.Dispatch(Granting(1, 1), "m", 1).size(), 1u);
  ASSERT_FALSE(Offer(admission, 2, 50));
  ASSERT_FALSE(admission.Reserve(3, Id(3)));
  ASSERT_FALSE(admission.Enqueue(3, {.prompt = 1}, /*goes_on=*/true));
  EXPECT_TRUE(admission.Dispatch(Granting(1, 0), "m", 1).empty());
  EXPECT_EQ(admission.stats().waiting_for_credit, 0) << "it waits for room";
}

TEST(Admission, PutsARefusedRequestBackAtTheHead) {
  Admission admission({.home = {.requests = 1, .tokens = 100}});
  ASSERT_FALSE(Offer(admission, 1, 10));
  ASSERT_FALSE(Offer(admission, 2, 10));
  ASSERT_EQ(admission.Dispatch(Workers(1), "m", 1).size(), 1u);
  admission.LeaveHome(1, seconds(1));
  admission.Requeue(1);
  admission.CheckInvariants();
  EXPECT_EQ(admission.Waiting(), (std::vector<uint64_t>{1, 2}));
}

TEST(Admission, ForgetsARequestInAnyState) {
  Admission admission({.home = {.requests = 1, .tokens = 100}});
  ASSERT_FALSE(admission.Reserve(1, "r1"));
  ASSERT_FALSE(Offer(admission, 2, 10));
  ASSERT_EQ(admission.Dispatch(Workers(1), "m", 1).size(), 1u);
  ASSERT_FALSE(Offer(admission, 3, 10));
  for (uint64_t key : {1, 2, 3, 3, 99}) admission.Remove(key, seconds(1));
  admission.CheckInvariants();
  const Admission::Stats stats = admission.stats();
  EXPECT_EQ(stats.requests + stats.preparing + stats.waiting + stats.running, 0);
  EXPECT_EQ(stats.tokens, 0);
}

TEST(Admission, EstimatesTheReturnFromDeparturesWithinItsBounds) {
  Admission admission({.home = {.requests = 1, .tokens = 1000}});
  EXPECT_EQ(admission.Pushback(), seconds(1));
  for (uint64_t key = 1; key <= 12; ++key) ASSERT_FALSE(Offer(admission, key, 1));
  Admission::Micros now = seconds(1);
  for (uint64_t key = 1; key <= 6; ++key) {
    ASSERT_EQ(Keys(admission.Dispatch(Workers(1), "m", 1)), (std::vector<uint64_t>{key}));
    admission.Remove(key, now += milliseconds(200));
  }
  // Six wait; a place frees every 200 ms; three have to go before the queue is half empty.
  EXPECT_EQ(admission.Pushback(), milliseconds(800));

  for (uint64_t key = 7; key <= 11; ++key) {
    admission.Dispatch(Workers(1), "m", 1);
    admission.Remove(key, now += seconds(1000));
  }
  EXPECT_EQ(admission.Pushback(), seconds(10));
}

TEST(Admission, KeepsItsPromisesThroughRandomTraffic) {
  for (uint32_t seed = 0; seed < 50; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    Admission admission({.max_requests = 40,
                         .max_tokens = 900,
                         .max_waiting = 20,
                         .home = {.requests = 5, .tokens = 200}});
    std::vector<uint64_t> live;
    Admission::Micros now{0};
    for (uint64_t key = 1; key <= 400; ++key) {
      now += milliseconds(random() % 20);
      if (!Offer(admission, key, 1 + random() % 150)) live.push_back(key);
      std::vector<WorkerView> workers = Workers(3);
      for (WorkerView& worker : workers) {
        if (random() % 2 == 0) worker.credit = random() % 3;
      }
      for (const auto& start : admission.Dispatch(workers, "m", seed)) {
        if (random() % 8 == 0) {
          admission.LeaveHome(start.key, now);
          admission.Requeue(start.key, /*goes_on=*/random() % 2 == 0);
        }
      }
      while (!live.empty() && random() % 3 == 0) {
        const size_t index = random() % live.size();
        if (random() % 2 == 0) admission.LeaveHome(live[index], now);
        if (random() % 2 == 0) admission.ReleaseId(live[index]);
        admission.Remove(live[index], now);
        live.erase(live.begin() + static_cast<std::ptrdiff_t>(index));
      }
      admission.CheckInvariants();
    }
    for (uint64_t key : live) admission.Remove(key, now);
    admission.CheckInvariants();
    EXPECT_EQ(admission.stats().requests, 0);
    EXPECT_EQ(admission.stats().tokens, 0);
  }
}

}  // namespace
}  // namespace conclave::router

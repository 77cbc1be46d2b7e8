#include "router/fair_queue.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <string>
#include <vector>

namespace conclave::router {
namespace {

using Answer = FairQueue::Answer;

// A queue whose requests have costs, and a server that takes them.
class FairLine {
 public:
  explicit FairLine(const FairQueue::Options& options = {}) : queue_(options) {}

  FairQueue& queue() { return queue_; }
  void Push(uint64_t key, const std::string& lane, int64_t cost, bool goes_on = false) {
    requests_[key] = {lane, cost};
    queue_.Push(key, lane, goes_on);
  }
  // Up to so many go, with a credit each.
  std::vector<uint64_t> Take(int places) {
    return Serve([&](uint64_t) { return places-- > 0 ? Answer::kGoes : Answer::kAllNeedCredit; });
  }
  std::vector<uint64_t> Serve(const FairQueue::Offer& offer) {
    std::vector<uint64_t> gone;
    queue_.Serve([&](uint64_t key) {
      const Answer answer = offer(key);
      if (answer != Answer::kGoes) return answer;
      const Request& request = requests_.at(key);
      queue_.Charge(request.lane, request.cost);
      served_[request.lane] += request.cost;
      gone.push_back(key);
      return answer;
    });
    queue_.CheckInvariants();
    return gone;
  }
  int64_t served(const std::string& lane) { return served_[lane]; }
  const std::string& lane(uint64_t key) const { return requests_.at(key).lane; }

 private:
  struct Request {
    std::string lane;
    int64_t cost = 0;
  };
  FairQueue queue_;
  std::map<uint64_t, Request> requests_;
  std::map<std::string, int64_t> served_;
};

using Keys = std::vector<uint64_t>;

TEST(FairQueue, ServesALaneAloneInOrderOfArrivalWithoutAPause) {
  FairLine line;
  for (uint64_t key : {5, 3, 4, 1}) line.Push(key, "a", 10'000);
  EXPECT_EQ(line.Take(3), (Keys{5, 3, 4}));
  EXPECT_EQ(line.Take(3), (Keys{1}));
}

TEST(FairQueue, LetsLanesTakeTurns) {
  FairLine line;
  for (uint64_t key = 1; key <= 6; ++key) line.Push(key, "a", 256);
  for (uint64_t key = 11; key <= 13; ++key) line.Push(key, "b", 256);
  EXPECT_EQ(line.Take(9), (Keys{1, 11, 2, 12, 3, 13, 4, 5, 6}));
}

TEST(FairQueue, CountsTokensAndNotRequests) {
  FairLine line({.quantum = 100});
  for (uint64_t key = 1; key <= 4; ++key) line.Push(key, "large", 300);
  for (uint64_t key = 11; key <= 22; ++key) line.Push(key, "small", 100);
  line.Take(8);
  EXPECT_EQ(line.served("large"), 600);
  EXPECT_EQ(line.served("small"), 600);
}

TEST(FairQueue, GivesEachLaneItsWeight) {
  FairLine line({.quantum = 100, .weights = {{"a", 3}}});
  for (uint64_t key = 1; key <= 40; ++key) line.Push(key, key % 2 == 0 ? "a" : "b", 100);
  line.Take(20);
  EXPECT_EQ(line.served("a"), 1500);
  EXPECT_EQ(line.served("b"), 500);
}

TEST(FairQueue, LetsWhoComesAndOwesNothingGoFirst) {
  FairLine line({.quantum = 100});
  for (uint64_t key = 1; key <= 20; ++key) line.Push(key, "flood", 100);
  EXPECT_EQ(line.Take(5), (Keys{1, 2, 3, 4, 5}));
  line.Push(30, "light", 100);
  EXPECT_EQ(line.Take(2), (Keys{30, 6}));
}

TEST(FairQueue, GivesNoSecondTurnInARoundToWhoComesBack) {
  FairLine line({.quantum = 100});
  for (uint64_t key = 1; key <= 99; ++key) line.Push(key, "flood", 100);
  line.Take(1);
  // Never more than one waits, so it looks light each time; yet it gets no more than its share.
  for (uint64_t key = 100; key < 140; ++key) {
    line.Push(key, "again", 50);
    while (line.served("again") < static_cast<int64_t>(key - 99) * 50) line.Take(1);
  }
  EXPECT_GE(line.served("flood"), line.served("again") - 300);
}

TEST(FairQueue, LetsALaneWorkOffWhatItWasChargedTooLittle) {
  FairLine line({.quantum = 100});
  for (uint64_t key = 1; key <= 20; ++key) line.Push(key, key % 2 == 0 ? "a" : "b", 100);
  EXPECT_EQ(line.Take(2), (Keys{1, 2}));
  line.queue().Charge("a", 300);
  EXPECT_EQ(line.Take(4), (Keys{3, 5, 7, 9}));
  line.queue().Charge("b", -200);
  EXPECT_EQ(line.Take(3), (Keys{11, 13, 4}));
}

TEST(FairQueue, SavesUpNoMoreThanOneRound) {
  FairLine line({.quantum = 100});
  for (uint64_t key = 1; key <= 90; ++key) line.Push(key, "busy", 100);
  line.Push(100, "rare", 100);
  line.Take(50);
  line.queue().Charge("rare", -5000);
  for (uint64_t key = 101; key <= 110; ++key) line.Push(key, "rare", 100);
  const int64_t before = line.served("rare");
  line.Take(8);
  EXPECT_EQ(line.served("rare") - before, 400);
}

TEST(FairQueue, PutsBeforeAllWhoHadTheirTurn) {
  FairLine line;
  for (uint64_t key : {1, 2}) line.Push(key, "a", 100);
  EXPECT_EQ(line.Take(2), (Keys{1, 2}));
  line.Push(3, "b", 100);
  line.queue().PushFirst(2, "a", false);
  line.queue().PushFirst(1, "a", true);
  EXPECT_EQ(line.queue().Waiting(), (Keys{1, 2, 3}));
  EXPECT_EQ(line.Serve([](uint64_t key) { return key == 2 ? Answer::kLaneWaits : Answer::kGoes; }),
            (Keys{1}))
      << "nobody goes while there is no room for who is first";
  EXPECT_EQ(line.Take(9), (Keys{2, 3}));
}

TEST(FairQueue, PassesALaneOverWhoseRequestHasNoRoom) {
  FairLine line;
  line.Push(1, "large", 5000);
  line.Push(2, "large", 1);
  line.Push(3, "small", 1);
  EXPECT_EQ(line.Serve([](uint64_t key) { return key == 1 ? Answer::kLaneWaits : Answer::kGoes; }),
            (Keys{3}));
}

TEST(FairQueue, LetsWhatGoesOnPassThoseThatNeedCredit) {
  FairLine line;
  for (uint64_t key : {1, 2, 3}) line.Push(key, "a", 100, /*goes_on=*/key == 2);
  line.Push(4, "b", 100, /*goes_on=*/true);
  line.Push(5, "c", 100);
  const auto without = [&](Answer refusal) {
    return line.Serve([=](uint64_t key) { return key == 2 || key == 4 ? Answer::kGoes : refusal; });
  };
  EXPECT_EQ(without(Answer::kAllNeedCredit), (Keys{2, 4}));
  EXPECT_EQ(line.Take(9), (Keys{1, 3, 5}));
}

TEST(FairQueue, OffersFirstWhoIsHeldUpUntilItGoes) {
  FairLine line({.quantum = 10});
  line.Push(1, "large", 5000);
  for (uint64_t key = 2; key <= 20; ++key) line.Push(key, "small", 10);
  line.queue().HoldUp(1);
  line.queue().PushFirst(30, "small", true);
  int offers = 0;
  const auto waits = [&](uint64_t key) {
    if (key == 30) return Answer::kGoes;
    EXPECT_EQ(key == 1, ++offers == 1);
    return key == 1 ? Answer::kLaneWaits : offers < 4 ? Answer::kGoes : Answer::kNobodyGoes;
  };
  line.queue().Serve(waits);
  EXPECT_EQ(line.queue().held_up(), 1u);
  EXPECT_EQ(line.Take(2), (Keys{1, 4}));
  EXPECT_EQ(line.queue().held_up(), std::nullopt);
}

TEST(FairQueue, KnowsWhoHasMoreThanItsShareOfWhatRuns) {
  FairLine line({.weights = {{"a", 3}}});
  FairQueue& queue = line.queue();
  line.Push(1, "a", 1);
  for (int i = 0; i < 3; ++i) queue.Started("a");
  EXPECT_FALSE(queue.HasMoreThanItsShare("a")) << "nobody else is there";
  line.Push(2, "b", 1);
  EXPECT_TRUE(queue.HasMoreThanItsShare("a"));
  queue.Started("b");
  EXPECT_FALSE(queue.HasMoreThanItsShare("a"));
  EXPECT_FALSE(queue.HasMoreThanItsShare("b"));
  queue.Started("b");
  EXPECT_TRUE(queue.HasMoreThanItsShare("b"));
  EXPECT_FALSE(queue.HasMoreThanItsShare("c"));
}

TEST(FairQueue, ForgetsALaneAfterAWhileAndNoneThatHasRequests) {
  FairLine line({.quantum = 100, .lately = 10, .idle_lanes = 2});
  for (uint64_t key = 1; key <= 40; ++key) line.Push(key, "busy", 100);
  for (uint64_t key = 41; key <= 44; ++key) line.Push(key, "once" + std::to_string(key), 1);
  line.Take(5);
  EXPECT_EQ(line.queue().lanes(), 3u) << "of those that are idle two are remembered";
  line.Take(30);
  line.Push(50, "once", 1);
  line.Take(1);
  EXPECT_EQ(line.queue().lanes(), 2u) << "nobody came lately but the last one";
}

// Lanes that wait all the time, with requests of any size and any number of them at once.
TEST(FairQueue, KeepsServicesWithinItsBoundOfTheWeights) {
  for (uint32_t seed = 0; seed < 40; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    const int64_t quantum = 1 + random() % 500;
    const int64_t most = 1 + random() % 2000;
    FairQueue::Options options{.quantum = quantum};
    std::vector<std::string> lanes;
    const size_t count = 2 + random() % 6;
    for (size_t i = 0; i < count; ++i) {
      lanes.push_back("lane" + std::to_string(i));
      options.weights.push_back({lanes[i], static_cast<int32_t>(1 + random() % 5)});
    }
    FairLine line(options);
    uint64_t key = 0;
    const auto cost = [&](size_t lane) {
      return lane == 0 ? most : 1 + static_cast<int64_t>(random() % static_cast<uint64_t>(most));
    };
    for (size_t lane = 0; lane < count; ++lane) {
      for (int i = 0; i < 6; ++i) line.Push(++key, lanes[lane], cost(lane));
    }
    for (int step = 0; step < 400; ++step) {
      for (const uint64_t gone : line.Take(1 + static_cast<int>(random() % 3))) {
        const auto lane = std::find(lanes.begin(), lanes.end(), line.lane(gone)) - lanes.begin();
        line.Push(++key, line.lane(gone), cost(static_cast<size_t>(lane)));
      }
      for (const auto& [a, of_a] : options.weights) {
        for (const auto& [b, of_b] : options.weights) {
          // Of S(a)/w(a) - S(b)/w(b) <= 2 Q + C/w(a) + C/w(b), both sides times both weights.
          EXPECT_LE(line.served(a) * of_b - line.served(b) * of_a,
                    2 * quantum * of_a * of_b + most * (of_a + of_b));
        }
      }
    }
  }
}

TEST(FairQueue, LetsALightLaneWaitNoLongerThanARound) {
  for (uint32_t seed = 0; seed < 40; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    const int64_t quantum = 50 + random() % 500, most = 1 + random() % 2000;
    FairLine line({.quantum = quantum});
    const int64_t floods = 1 + random() % 6;
    uint64_t key = 1'000'000;
    const auto flood = [&](const std::string& lane) {
      line.Push(++key, lane, 1 + static_cast<int64_t>(random() % static_cast<uint64_t>(most)));
    };
    for (int64_t i = 0; i < floods; ++i) {
      for (int n = 0; n < 200; ++n) flood("flood" + std::to_string(i));
    }
    int64_t all = 0;  // what the floods were served
    int64_t asked = -1, gone_before = 0;
    for (uint64_t light = 0; light < 50;) {
      if (asked < 0 && all - gone_before > 2 * floods * (quantum + most)) {
        line.Push(++light, "light", quantum);
        asked = all;
      }
      for (const uint64_t gone : line.Take(1)) {
        if (gone <= 50) {
          EXPECT_LE(all - asked, floods * (quantum + most));
          gone_before = all;
          asked = -1;
        } else {
          flood(line.lane(gone));
        }
      }
      all = 0;
      for (int64_t i = 0; i < floods; ++i) all += line.served("flood" + std::to_string(i));
    }
  }
}

TEST(FairQueue, LosesNobodyAndLetsNobodyPassInHisLane) {
  for (uint32_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    FairLine line({.quantum = 100, .lately = 5, .idle_lanes = 2});
    std::map<std::string, uint64_t> last;  // that went, of those that need credit
    std::vector<uint64_t> waiting;
    const auto leave = [&](uint64_t key) {
      waiting.erase(std::find(waiting.begin(), waiting.end(), key));
    };
    for (uint64_t key = 1; key <= 600; ++key) {
      const std::string lane(1, static_cast<char>('a' + random() % 5));
      const bool goes_on = random() % 6 == 0;
      line.Push(key, (goes_on ? "+" : "") + lane, static_cast<int64_t>(random() % 700), goes_on);
      waiting.push_back(key);
      if (random() % 9 == 0) {
        const uint64_t erased = waiting[random() % waiting.size()];
        line.queue().Erase(erased);
        leave(erased);
      }
      const auto gone = line.Serve([&](uint64_t offered) {
        const auto dice = random() % 5;
        if (dice < 2) return Answer::kGoes;
        if (dice == 2 || line.lane(offered)[0] == '+') return Answer::kLaneWaits;
        return dice == 3 ? Answer::kNeedsCredit : Answer::kAllNeedCredit;
      });
      for (const uint64_t one : gone) {
        leave(one);
        EXPECT_GT(one, last[line.lane(one)]);
        last[line.lane(one)] = one;
      }
      EXPECT_EQ(line.queue().size(), waiting.size());
    }
    EXPECT_EQ(line.Take(1000).size(), waiting.size());
    EXPECT_EQ(line.queue().size(), 0u);
  }
}

}  // namespace
}  // namespace conclave::router

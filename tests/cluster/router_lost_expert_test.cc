// What a client hears when its workers lack an expert: which one, before its own clock says that
// the time is over, and no sooner than the wait is in vain.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <thread>

#include "tests/cluster/test_router.h"

namespace conclave::testing {
namespace {

using ::testing::HasSubstr;
using namespace std::chrono_literals;

// Wide enough for a busy machine: the second half of the time that a request is given.
const services::Frontend::Options kLastHalf = {
    .request = {.last_words_share = 0.5, .last_words_max = 60s}};

constexpr char kLacks[] = "no live owner for expert 57";

class RouterLostExpert : public ::testing::Test {
 protected:
  ~RouterLostExpert() override {
    if (thread_.joinable()) thread_.join();
  }

  // In the background; without a timeout the request has no deadline.
  void Ask(TestRouter& router, std::optional<std::chrono::milliseconds> timeout = {}) {
    thread_ = std::thread([this, &router, timeout] {
      grpc::ClientContext context;
      if (timeout) context.set_deadline(std::chrono::system_clock::now() + *timeout);
      const auto reader = router.stub().Generate(&context, TextRequest("hello", 9));
      stream_ = TestRouter::ReadAll(*reader);
    });
  }
  const Stream& Join() {
    thread_.join();
    return stream_;
  }
  void ExpectUnavailable(const std::string& why) {
    Join();
    EXPECT_EQ(stream_.status.error_code(), grpc::UNAVAILABLE);
    EXPECT_THAT(stream_.status.error_message(), HasSubstr(why));
    EXPECT_EQ(stream_.last.finish_reason(), v1::FINISH_REASON_UNSPECIFIED);
  }
  void ExpectWhole() {
    Join();
    EXPECT_TRUE(stream_.status.ok()) << stream_.status.error_message();
    EXPECT_EQ(stream_.text, HashedText("hello", 1, 9));
  }
  static bool HasOne(const FakeWorker::Counts& counts) { return counts.live == 1; }
  static uint64_t Submits(const FakeWorker& a, const FakeWorker& b) {
    return a.counts().submits + b.counts().submits;
  }

 private:
  Stream stream_;
  std::thread thread_;
};

TEST_F(RouterLostExpert, IsNamedJustBeforeTheDeadline) {
  FakeWorker worker({.manual = true});
  TestRouter router({&worker}, kLastHalf);
  const auto asked = std::chrono::steady_clock::now();
  Ask(router, 4s);
  ASSERT_TRUE(worker.WaitFor(HasOne));
  worker.Lack(kLacks);
  ExpectUnavailable(kLacks);
  EXPECT_GE(std::chrono::steady_clock::now() - asked, 1900ms) << "it might have come yet";
  EXPECT_EQ(worker.counts().submits, 1u);
  EXPECT_TRUE(worker.WaitFor([](const auto& counts) { return counts.live == 0; }));
}

// Short beside the least of last words.
TEST_F(RouterLostExpert, IsNamedWhenHalfOfAShortTimeIsOver) {
  FakeWorker worker({.manual = true});
  TestRouter router({&worker}, {.request = {.last_words_min = 60s, .last_words_max = 60s}});
  const auto asked = std::chrono::steady_clock::now();
  Ask(router, 4s);
  ASSERT_TRUE(worker.WaitFor(HasOne));
  worker.Lack(kLacks);
  ExpectUnavailable(kLacks);
  const auto waited = std::chrono::steady_clock::now() - asked;
  EXPECT_GE(waited, 1900ms) << "it might have come yet";
  EXPECT_LT(waited, 3700ms) << "the least of last words counts, not the share";
}

TEST_F(RouterLostExpert, IsNamedToThoseWhoWaitInTheRouterToo) {
  FakeWorker worker({.granted = 0});
  TestRouter router({&worker}, kLastHalf);
  worker.Lack(kLacks);
  Ask(router, 3s);
  ExpectUnavailable(kLacks);
  EXPECT_EQ(worker.counts().submits, 0u);
}

TEST_F(RouterLostExpert, ThatCameIsNotBlamedForADeadline) {
  FakeWorker worker({.manual = true});
  TestRouter router({&worker});
  Ask(router, 1s);
  ASSERT_TRUE(worker.WaitFor(HasOne));
  worker.Lack(kLacks);
  worker.Lack("");
  EXPECT_EQ(Join().status.error_code(), grpc::DEADLINE_EXCEEDED);
}

TEST_F(RouterLostExpert, EndsARequestThatNobodyElseCouldServe) {
  FakeWorker first({.id = "a", .manual = true}), second({.id = "b", .manual = true});
  TestRouter router({&first, &second});
  // Whichever is the home, the other one says that it waits too.
  first.Lack(kLacks);
  second.Lack(kLacks);
  Ask(router);
  ASSERT_TRUE(WaitFor([&] { return Submits(first, second) == 1; }, "a home to have it"));
  (HasOne(first.counts()) ? first : second).EndForWantOf("57");
  ExpectUnavailable(kLacks);
  EXPECT_EQ(Submits(first, second), 1u);
}

TEST_F(RouterLostExpert, MayBeReachedFromAnotherHome) {
  FakeWorker first({.id = "a", .manual = true}), second({.id = "b", .manual = true});
  TestRouter router({&first, &second});
  Ask(router);
  ASSERT_TRUE(WaitFor([&] { return Submits(first, second) == 1; }, "a home to have it"));
  (HasOne(first.counts()) ? first : second).EndForWantOf("57");
  ASSERT_TRUE(WaitFor([&] { return Submits(first, second) == 2; }, "another to have it"));
  EXPECT_EQ(first.counts().submits, 1u) << "not the same again";
  first.SetManual(false);
  second.SetManual(false);
  ExpectWhole();
}

TEST_F(RouterLostExpert, IsLookedForAtNoMoreThanSoManyHomes) {
  FakeWorker first({.id = "a", .manual = true}), second({.id = "b", .manual = true});
  TestRouter router({&first, &second}, {.request = {.bereft_homes = 3}});
  Ask(router);
  for (uint64_t home = 1; home <= 3; ++home) {
    ASSERT_TRUE(WaitFor(
        [&] {
          return Submits(first, second) == home &&
                 (HasOne(first.counts()) || HasOne(second.counts()));
        },
        "the next home to have it"));
    (HasOne(first.counts()) ? first : second).EndForWantOf("57");
  }
  ExpectUnavailable(kLacks);
  EXPECT_EQ(Submits(first, second), 3u);
}

TEST_F(RouterLostExpert, IsWaitedForAsLongAsTheDeadlineAllows) {
  FakeWorker worker({.manual = true});
  TestRouter router({&worker}, {.request = {.attempts = 2, .bereft_homes = 1}});
  Ask(router, 60s);
  for (uint64_t wait = 1; wait <= 4; ++wait) {
    ASSERT_TRUE(worker.WaitFor(
        [&](const auto& counts) { return counts.submits == wait && counts.live == 1; }));
    worker.EndForWantOf("57");
  }
  worker.SetManual(false);  // it has come
  ExpectWhole();
}

}  // namespace
}  // namespace conclave::testing

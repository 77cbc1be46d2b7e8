// How a link to a worker begins and ends.

#include "services/worker_link.h"

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>

#include "services/credentials.h"
#include "tests/cluster/fake_worker.h"
#include "tests/testing/wait_for.h"

namespace conclave::testing {
namespace {

class IgnoringSink : public services::SequenceSink {
 public:
  void OnEvent(const v1::SequenceEvent&) override {}
  void OnLost(const absl::Status&) override {}
};

// A link that says when its worker has greeted it.
class OpenLink {
 public:
  explicit OpenLink(const FakeWorker& worker)
      : link_(std::make_unique<services::WorkerLink>(
            services::WorkerLink::Options{.address = worker.address()}, services::Credentials(),
            [this] {
              std::lock_guard lock(mutex_);
              ++changes_;
              changed_.notify_all();
            })) {
    link_->Tick(services::WorkerLink::Micros(0));
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return changes_ > 0; });
  }
  services::WorkerLink& operator*() { return *link_; }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int changes_ = 0;
  std::unique_ptr<services::WorkerLink> link_;  // ends first: it calls back
};

// Its channel goes with the last of it, and a channel must not end on a gRPC thread: so whoever
// destroys a link waits until its stream has reacted for the last time. Worker and link end at
// once here, from both sides, with sequences on them.
TEST(WorkerLink, EndsOnTheThreadThatDestroysItWhoeverHangsUpFirst) {
  for (int round = 0; round < 100; ++round) {
    FakeWorker worker({.manual = true});
    {
      OpenLink link(worker);
      for (int i = 0; i < 4; ++i) {
        v1::Submit submit;
        submit.add_prompt(1);
        submit.set_max_tokens(8);
        EXPECT_TRUE((*link).Open(std::move(submit), std::make_shared<IgnoringSink>()));
      }
      if (round % 2 == 0) worker.Crash();
    }
    EXPECT_TRUE(worker.WaitFor([](const auto& counts) { return counts.links == 0; }));
  }
}

TEST(WorkerLink, UsesUpNoCreditForWhatItNeverSent) {
  FakeWorker worker({.manual = true, .granted = 1000});
  OpenLink link(worker);
  for (int i = 0; i < 100; ++i) {
    v1::Submit submit;
    submit.add_prompt(1);
    submit.set_max_tokens(8);
    const auto sequence = (*link).Open(std::move(submit), std::make_shared<IgnoringSink>());
    ASSERT_TRUE(sequence);
    (*link).Close(*sequence);
  }
  EXPECT_TRUE(WaitFor([&] { return (*link).credit() == 1000 - worker.counts().submits; },
                      "the credits of what was sent to be used up, and no others"));
}

TEST(WorkerLink, SubmitsNothingNewWithoutACredit) {
  FakeWorker worker({.manual = true, .granted = 1});
  OpenLink link(worker);
  const auto open = [&](bool goes_on) {
    v1::Submit submit;
    submit.add_prompt(1);
    submit.set_max_tokens(8);
    submit.set_goes_on(goes_on);
    return (*link).Open(std::move(submit), std::make_shared<IgnoringSink>()).has_value();
  };
  EXPECT_TRUE(open(false));
  EXPECT_FALSE(open(false));
  EXPECT_TRUE(open(true));
  worker.Grant(2);  // one of them is taken already
  EXPECT_TRUE(WaitFor([&] { return (*link).credit() != 0u; }, "a credit"));
  EXPECT_EQ((*link).credit(), 1u);
}

TEST(WorkerLink, SendsWhatABatchAsksForWhenItsOutermostEnds) {
  FakeWorker worker({.manual = true});
  OpenLink link(worker);
  const uint64_t before = (*link).stats().messages_out;
  {
    const services::WorkerLink::Batch outer(*link);
    {
      const services::WorkerLink::Batch inner(*link);
      for (int i = 0; i < 3; ++i) {
        EXPECT_TRUE((*link).Open(v1::Submit(), std::make_shared<IgnoringSink>()));
      }
    }
    EXPECT_EQ((*link).stats().messages_out, before);
  }
  EXPECT_EQ((*link).stats().messages_out, before + 1);
  EXPECT_TRUE(worker.WaitFor([](const auto& counts) { return counts.submits == 3; }));
  EXPECT_EQ(worker.counts().messages, 1u);
}

TEST(WorkerLink, HoldsNothingAfterABatchOverItsStreamsEnd) {
  FakeWorker worker({.manual = true});
  OpenLink link(worker);
  {
    const services::WorkerLink::Batch batch(*link);
    EXPECT_TRUE((*link).Open(v1::Submit(), std::make_shared<IgnoringSink>()));
    worker.Crash();
    EXPECT_TRUE(WaitFor([&] { return !(*link).hello(); }, "the stream to end"));
  }
  EXPECT_EQ((*link).stats().sequences, 0u);
}

TEST(WorkerLink, TakesNothingAfterItsShutdown) {
  FakeWorker worker;
  OpenLink link(worker);
  (*link).Shutdown();
  EXPECT_FALSE((*link).Open(v1::Submit(), std::make_shared<IgnoringSink>()));
  (*link).Tick(services::WorkerLink::Micros(1) * 1'000'000'000);
  EXPECT_EQ((*link).stats().streams, 1u);
}

}  // namespace
}  // namespace conclave::testing

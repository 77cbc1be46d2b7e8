#include "services/adapter_checker.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <mutex>

#include "services/convert_adapters.h"
#include "tests/testing/wait_for.h"

namespace conclave::services {
namespace {

using conclave::testing::WaitFor;

v1::ClusterView Asks(uint64_t check, const std::string& source) {
  v1::ClusterView view;
  view.mutable_check()->set_check(check);
  view.mutable_check()->set_source(source);
  return view;
}

// A check that goes on when the test says so.
class Gate {
 public:
  absl::StatusOr<worker::AdapterCheck> Pass(const std::string& source) {
    std::unique_lock lock(mutex_);
    ++waiting_;
    open_.wait(lock, [this] { return passes_ > 0; });
    --passes_;
    if (source == "/bad") return absl::InvalidArgumentError("/bad: a file\xff is no file");
    return worker::AdapterCheck{.digest = "1a", .replaced = {1, 2}, .bytes = 10};
  }
  void Open() {
    const std::lock_guard lock(mutex_);
    ++passes_;
    open_.notify_all();
  }
  int waiting() {
    const std::lock_guard lock(mutex_);
    return waiting_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable open_;
  int passes_ = 0, waiting_ = 0;  // checks begun
};

class AdapterCheckerTest : public ::testing::Test {
 protected:
  AdapterCheckerTest() {
    checker_.Start([this] { ++done_; });
  }
  uint64_t Reported() {
    const auto report = checker_.Report();
    return report ? report->check() : 0;
  }

  Gate gate_;
  std::atomic<int> done_{0};
  AdapterChecker checker_{[this](const std::string& source) { return gate_.Pass(source); }};
};

TEST_F(AdapterCheckerTest, ReportsWhatItFoundUntilItIsAskedForSomethingElse) {
  checker_.Follow(Asks(3, "/law"));
  EXPECT_FALSE(checker_.Report().has_value());
  gate_.Open();
  ASSERT_TRUE(WaitFor([&] { return done_ == 1; }, "a report"));
  const v1::AdapterChecked report = *checker_.Report();
  EXPECT_EQ(report.check(), 3u);
  EXPECT_EQ(report.digest(), "1a");
  EXPECT_EQ(report.bytes(), 10u);
  EXPECT_EQ(FromProto(report).replaced, (std::vector<scheduler::ExpertId>{1, 2}));
  checker_.Follow(Asks(3, "/law"));
  EXPECT_EQ(Reported(), 3u) << "it was done";
  checker_.Follow(v1::ClusterView());
  EXPECT_EQ(Reported(), 0u);
}

TEST_F(AdapterCheckerTest, ReportsWhyThereIsNone) {
  gate_.Open();
  checker_.Follow(Asks(4, "/bad"));
  ASSERT_TRUE(WaitFor([&] { return done_ == 1; }, "a report"));
  EXPECT_EQ(checker_.Report()->code(), 3);
  EXPECT_EQ(checker_.Report()->message(), "/bad: a file\\xff is no file");
}

TEST_F(AdapterCheckerTest, WhatIsNotAskedForAnyMoreIsNotReported) {
  checker_.Follow(Asks(3, "/law"));
  ASSERT_TRUE(WaitFor([&] { return gate_.waiting() == 1; }, "the first"));
  checker_.Follow(Asks(4, "/law"));
  gate_.Open();
  ASSERT_TRUE(WaitFor([&] { return gate_.waiting() == 2; }, "the second"));
  EXPECT_EQ(Reported(), 0u);
  gate_.Open();
  ASSERT_TRUE(WaitFor([&] { return done_ == 1; }, "a report"));
  EXPECT_EQ(Reported(), 4u);
}

TEST_F(AdapterCheckerTest, ACheckOfTheSameNumberByAnotherSchedulerIsAnother) {
  gate_.Open();
  checker_.Follow(Asks(3, "/bad"));
  ASSERT_TRUE(WaitFor([&] { return done_ == 1; }, "a report"));
  gate_.Open();
  checker_.Follow(Asks(3, "/law"));
  ASSERT_TRUE(WaitFor([&] { return done_ == 2; }, "another"));
  EXPECT_EQ(checker_.Report()->code(), 0);
}

}  // namespace
}  // namespace conclave::services

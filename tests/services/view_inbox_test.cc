// The order in which a worker follows views.

#include "services/view_inbox.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "tests/testing/wait_for.h"

namespace conclave::services {
namespace {

using conclave::testing::WaitFor;
using ::testing::ElementsAre;
using namespace std::chrono_literals;

v1::ClusterView View(uint64_t version) {
  v1::ClusterView view;
  view.set_version(version);
  return view;
}

// What was followed, by version; the first may be held up.
class Follower {
 public:
  ViewInbox::Follow callback() {
    return [this](const v1::ClusterView& view) {
      std::unique_lock lock(mutex_);
      followed_.push_back(view.version());
      changed_.wait(lock, [this] { return !held_up_; });
      return !fails_;
    };
  }
  void HoldUp(bool held_up) {
    const std::lock_guard lock(mutex_);
    held_up_ = held_up;
    changed_.notify_all();
  }
  void Fail(bool fails) {
    const std::lock_guard lock(mutex_);
    fails_ = fails;
  }
  std::vector<uint64_t> followed() {
    const std::lock_guard lock(mutex_);
    return followed_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<uint64_t> followed_;
  bool held_up_ = false;
  bool fails_ = false;
};

TEST(ViewInbox, FollowsTheLatestOfThoseThatCameMeanwhile) {
  Follower follower;
  ViewInbox inbox({}, follower.callback());
  follower.HoldUp(true);
  inbox.Put(View(1));
  ASSERT_TRUE(WaitFor([&] { return !follower.followed().empty(); }, "the first view"));
  for (uint64_t version = 2; version <= 5; ++version) inbox.Put(View(version));
  follower.HoldUp(false);
  ASSERT_TRUE(WaitFor([&] { return follower.followed().size() == 2; }, "the last view"));
  EXPECT_THAT(follower.followed(), ElementsAre(1, 5));
}

TEST(ViewInbox, FollowsAgainWhatCouldNotBeFollowedUntilItCan) {
  Follower follower;
  follower.Fail(true);
  ViewInbox inbox({.retry_min = 1ms, .retry_max = 2ms}, follower.callback());
  inbox.Put(View(1));
  ASSERT_TRUE(WaitFor([&] { return follower.followed().size() >= 3; }, "the third time"));
  follower.Fail(false);
  inbox.Put(View(2));
  ASSERT_TRUE(WaitFor([&] { return follower.followed().back() == 2; }, "the second view"));
}

}  // namespace
}  // namespace conclave::services

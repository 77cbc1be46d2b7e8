#include "worker/experts/pace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace conclave::worker {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

class PaceTest : public ::testing::Test {
 protected:
  Pace Begin(const Pace::Options& options) {
    return Pace(
        options, [this] { return steps_; }, [this] { return now_; },
        [this](Pace::Clock::duration time) {
          now_ += time;
          rests_.push_back(std::chrono::duration_cast<milliseconds>(time));
        });
  }
  void Work(Pace& pace, milliseconds time) {
    now_ += time;
    pace.Rest();
  }

  uint64_t steps_ = 7;
  Pace::Clock::time_point now_{};
  std::vector<milliseconds> rests_;
};

TEST_F(PaceTest, RestsForItsShareWhileStepsAreMade) {
  Pace pace = Begin({.share = 0.25, .longest = milliseconds(100)});
  ++steps_;
  Work(pace, milliseconds(2));
  Work(pace, milliseconds(4));
  EXPECT_THAT(rests_, ElementsAre(milliseconds(6), milliseconds(12)))
      << "a step that takes longer than a piece of work is being made";
}

TEST_F(PaceTest, GoesOnWithoutARestWhileNoneIsMade) {
  Pace pace = Begin({.share = 0.25, .lately = milliseconds(20)});
  Work(pace, milliseconds(2));
  EXPECT_THAT(rests_, IsEmpty()) << "there were steps, but before it began";
  ++steps_;
  Work(pace, milliseconds(2));
  EXPECT_EQ(rests_.size(), 1u);
  Work(pace, milliseconds(20));
  EXPECT_EQ(rests_.size(), 1u) << "the last one is long ago";
  Pace alone({}, nullptr);
  alone.Rest();
}

TEST_F(PaceTest, RestsNoLongerThanItsLimit) {
  Pace pace = Begin({.share = 0.01, .longest = milliseconds(50)});
  ++steps_;
  Work(pace, milliseconds(10));
  EXPECT_THAT(rests_, ElementsAre(milliseconds(50)));
}

TEST_F(PaceTest, AWholeShareIsNoRest) {
  Pace pace = Begin({.share = 1});
  ++steps_;
  Work(pace, milliseconds(10));
  EXPECT_THAT(rests_, ElementsAre(milliseconds(0)));
}

}  // namespace
}  // namespace conclave::worker

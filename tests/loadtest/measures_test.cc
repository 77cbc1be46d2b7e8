#include "loadtest/measures.h"

#include <gtest/gtest.h>

namespace conclave::loadtest {
namespace {

using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;

TEST(Timeline, AWindowHasWhatLiesInIt) {
  Timeline timeline(milliseconds(100));
  ++timeline.At(nanoseconds(-5)).sent;
  ++timeline.At(milliseconds(99)).sent;
  ++timeline.At(milliseconds(100)).sent;
  ++timeline.At(milliseconds(350)).sent;
  ASSERT_EQ(timeline.windows().size(), 4U);
  EXPECT_EQ(timeline.windows()[0].sent, 2U);
  EXPECT_EQ(timeline.windows()[1].sent, 1U);
  EXPECT_EQ(timeline.windows()[2].sent, 0U);
  EXPECT_EQ(timeline.windows()[3].sent, 1U);
}

TEST(Timeline, WindowsWidenRatherThanGrowInNumber) {
  Timeline timeline(seconds(1));
  for (size_t i = 0; i < Timeline::kWindows; ++i) {
    Measures& window = timeline.At(seconds(i));
    ++window.sent;
    window.itl.Record(milliseconds(i + 1));
  }
  EXPECT_EQ(timeline.width(), seconds(1));
  EXPECT_EQ(timeline.windows().size(), Timeline::kWindows);
  ++timeline.At(seconds(Timeline::kWindows)).sent;
  EXPECT_EQ(timeline.width(), seconds(2));
  ASSERT_EQ(timeline.windows().size(), Timeline::kWindows / 2 + 1);
  EXPECT_EQ(timeline.windows()[0].sent, 2U);
  EXPECT_EQ(timeline.windows()[0].itl.max(), milliseconds(2));
  EXPECT_EQ(timeline.windows().back().sent, 1U);
  // A run may last longer than any wait that a histogram tells.
  constexpr std::chrono::hours kLate(24 * 7);
  ASSERT_GT(kLate, Histogram::kLongest);
  ++timeline.At(kLate).sent;
  EXPECT_LE(timeline.windows().size(), Timeline::kWindows);
  EXPECT_EQ(timeline.windows().size(), static_cast<size_t>(kLate / timeline.width()) + 1);
  EXPECT_EQ(timeline.windows().back().sent, 1U);
  uint64_t sent = 0;
  for (const Measures& window : timeline.windows()) sent += window.sent;
  EXPECT_EQ(sent, Timeline::kWindows + 2);
}

TEST(Measures, AddedOnesAreTheSum) {
  Measures sum, other;
  other = {.sent = 1,
           .unsent = 2,
           .completed = 3,
           .cancelled = 4,
           .failed = 5,
           .judged = 6,
           .good = 7,
           .input_tokens = 8,
           .output_tokens = 9};
  other.ttft.Record(seconds(1));
  sum.Add(other);
  sum.Add(other);
  EXPECT_EQ(sum.sent, 2U);
  EXPECT_EQ(sum.unsent, 4U);
  EXPECT_EQ(sum.completed, 6U);
  EXPECT_EQ(sum.cancelled, 8U);
  EXPECT_EQ(sum.failed, 10U);
  EXPECT_EQ(sum.judged, 12U);
  EXPECT_EQ(sum.good, 14U);
  EXPECT_EQ(sum.served_tokens(), 34U);
  EXPECT_EQ(sum.ttft.count(), 2U);
  EXPECT_EQ(sum.itl.count(), 0U);
}

TEST(JainIndex, IsOneForEqualsAndOneNthForASoleWinner) {
  EXPECT_EQ(JainIndex({5, 5, 5}), 1);
  EXPECT_EQ(JainIndex({9, 0, 0, 0}), 0.25);
  EXPECT_NEAR(JainIndex({1, 2, 3}), 36.0 / 42, 1e-12);
  EXPECT_EQ(JainIndex({}), 1);
  EXPECT_EQ(JainIndex({0, 0}), 1);
}

}  // namespace
}  // namespace conclave::loadtest

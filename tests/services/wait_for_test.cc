#include "tests/testing/wait_for.h"

#include <gmock/gmock.h>

namespace conclave::testing {
namespace {

TEST(WaitFor, LooksUntilItIsTrue) {
  int looks = 0;
  EXPECT_TRUE(WaitFor([&] { return ++looks == 3; }, "the third look"));
  EXPECT_EQ(looks, 3);
}

TEST(WaitFor, SaysAfterItsBoundWhatDidNotCome) {
  const auto waited = WaitFor([] { return false; }, "the end", std::chrono::milliseconds(1));
  EXPECT_FALSE(waited);
  EXPECT_STREQ(waited.message(), "waited 1 ms in vain for the end");
}

}  // namespace
}  // namespace conclave::testing

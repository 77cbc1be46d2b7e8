#pragma once
// Waits for what another thread or process brings about. It looks again and again and lets others
// run in between, up to a bound: a promise that is not kept is a failed test that names it, not a
// test that hangs. For tests; any thread.

#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <thread>

namespace conclave::testing {

// Far more than anything takes on a busy machine.
inline constexpr std::chrono::seconds kWaitBound{60};

// Whether `done()` came true in time: EXPECT_TRUE(WaitFor([&] { return gone; }, "the client to
// go")).
template <typename Done>
[[nodiscard]] ::testing::AssertionResult WaitFor(Done done, const std::string& what,
                                                 std::chrono::milliseconds bound = kWaitBound) {
  const auto end = std::chrono::steady_clock::now() + bound;
  while (!done()) {
    if (std::chrono::steady_clock::now() >= end) {
      return ::testing::AssertionFailure()
             << "waited " << bound.count() << " ms in vain for " << what;
    }
    std::this_thread::yield();
  }
  return ::testing::AssertionSuccess();
}

}  // namespace conclave::testing

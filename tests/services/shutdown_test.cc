#include "services/shutdown.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

namespace conclave::services {
namespace {

TEST(Shutdown, WaitsForASignalAndStaysAskedFor) {
  Shutdown shutdown;
  EXPECT_FALSE(shutdown.WaitFor(std::chrono::milliseconds(0)));
  kill(getpid(), SIGTERM);
  shutdown.Wait();
  EXPECT_TRUE(shutdown.WaitFor(std::chrono::milliseconds(0)));
}

TEST(Shutdown, IsAskedForWithoutASignalToo) {
  Shutdown shutdown;
  shutdown.Request();
  shutdown.Wait();
}

TEST(ShutdownDeathTest, EndsTheProcessAtTheSecondSignal) {
  EXPECT_EXIT(
      {
        Shutdown shutdown;
        raise(SIGTERM);
        raise(SIGTERM);
      },
      ::testing::ExitedWithCode(128 + SIGTERM), "");
}

TEST(ShutdownDeathTest, EndsTheProcessAtTheFirstSignalWhileItStarts) {
  EXPECT_EXIT(
      {
        Shutdown shutdown(Shutdown::Phase::kStarting);
        raise(SIGINT);
      },
      ::testing::ExitedWithCode(128 + SIGINT), "");
}

TEST(Shutdown, WaitsForASignalOnceTheProcessHasStarted) {
  Shutdown shutdown(Shutdown::Phase::kStarting);
  shutdown.Started();
  EXPECT_FALSE(shutdown.WaitFor(std::chrono::milliseconds(0)));
  raise(SIGTERM);
  shutdown.Wait();
}

}  // namespace
}  // namespace conclave::services

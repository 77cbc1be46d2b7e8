#include "loadtest/action.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <iterator>
#include <string>

#include "tests/testing/wait_for.h"

namespace conclave::loadtest {
namespace {

using namespace std::chrono_literals;
using conclave::testing::WaitFor;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::StartsWith;

ActionEnd EndOf(std::vector<std::string> command, double timeout = 60) {
  return RunAction({.name = "x", .command = std::move(command), .timeout = timeout},
                   [] { return false; });
}

TEST(Action, SaysHowItEndedAndWhatItWrote) {
  const ActionEnd good = EndOf({"sh", "-c", "echo out; echo err >&2"});
  EXPECT_TRUE(good.ok);
  EXPECT_EQ(good.outcome, "exit code 0");
  EXPECT_THAT(good.output, HasSubstr("out\n"));
  EXPECT_THAT(good.output, HasSubstr("err\n"));
  const ActionEnd bad = EndOf({"sh", "-c", "exit 3"});
  EXPECT_FALSE(bad.ok);
  EXPECT_EQ(bad.outcome, "exit code 3");
  EXPECT_EQ(EndOf({"sh", "-c", "kill -9 $$"}).outcome, "signal 9");
  EXPECT_THAT(EndOf({"no-such-program-here"}).outcome,
              StartsWith("\"no-such-program-here\" is no"));
}

TEST(Action, ItsOutputIsCutAndPrintable) {
  const ActionEnd end = EndOf({"sh", "-c", "printf 'a\\001b\\n'; yes | head -c 100000"});
  EXPECT_TRUE(end.ok);
  EXPECT_EQ(end.output.size(), ActionEnd::kOutputBytesKept);
  EXPECT_THAT(end.output, StartsWith("a\\x01"));
}

// What a process was started with; nothing of one that is gone or only waits to be reaped.
std::string CommandOf(const std::string& pid) {
  std::ifstream file("/proc/" + pid + "/cmdline", std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

// The grandchild, which holds the pipes open, goes too.
TEST(Action, OneThatTakesTooLongIsKilledWithItsChildren) {
  const auto begin = std::chrono::steady_clock::now();
  const ActionEnd end = EndOf({"sh", "-c", "sleep 100 & echo $!; wait"}, 1);
  EXPECT_FALSE(end.ok);
  EXPECT_EQ(end.outcome, "stopped after 1 s");
  ASSERT_THAT(end.output, MatchesRegex("[0-9]+\n"));
  const std::string pid = end.output.substr(0, end.output.size() - 1);
  EXPECT_TRUE(WaitFor([&] { return CommandOf(pid).empty(); }, "the grandchild to go", 50s));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 50s);
}

TEST(Action, OneThatWritesWithoutEndIsStoppedInTime) {
  EXPECT_EQ(EndOf({"yes"}, 0.2).outcome, "stopped after 0.2 s");
}

TEST(Action, AStopEndsIt) {
  const ActionEnd end = RunAction({.name = "x", .command = {"sleep", "100"}}, [] { return true; });
  EXPECT_EQ(end.outcome, "stopped with the load");
}

}  // namespace
}  // namespace conclave::loadtest

#pragma once
// Commands that a scenario runs beside its load: adding an adapter, killing a worker. A child
// that outlives its time is killed with its process group.

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace conclave::loadtest {

struct Action {
  static constexpr double kMaxTimeout = 3600;
  static constexpr double kDefaultTimeout = 60;

  std::string name;
  double at = 0;                     // seconds since the start
  std::vector<std::string> command;  // program and arguments; found by PATH, no shell
  double timeout = kDefaultTimeout;  // seconds
};

// How an action ended.
struct ActionEnd {
  static constexpr size_t kOutputBytesKept = 2048;

  bool ok = false;      // exit code 0
  std::string outcome;  // "exit code 0", "signal 9", "stopped after 60 s", "UNAVAILABLE: ..."
  std::string output;   // the first bytes of what it wrote to stdout and stderr
};

// Runs the command and waits for it, at most until its time is over or `stopping` says so (asked
// ten times a second). The calling thread's end would kill it, so it is to stay.
ActionEnd RunAction(const Action& action, const std::function<bool()>& stopping);

// NOT_FOUND naming the program unless there is one to execute.
absl::Status FindProgram(const Action& action);

}  // namespace conclave::loadtest

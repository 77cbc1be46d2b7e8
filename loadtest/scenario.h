#pragma once
// A load that changes while it runs: phases one after the other, and commands that are run at their
// time. Read from a JSON file:
//   {"cv": 1,
//    "phases": [{"name": "calm", "seconds": 10, "rate": 5, "mix": "uniform:a,base"},
//               {"name": "flood", "seconds": 10, "rate": [5, 50], "mix": {"a": 9, "base": 1},
//                "prompt_lengths": "uniform:10:200", "output_lengths": 32}],
//    "actions": [{"name": "take a away", "at": 12.5, "timeout": 60,
//                 "command": ["conclave", "adapters", "remove", "a", "--server", "{server}"]}]}
// {NAME} in a command stands for a value given beside the file. An unknown key is an error.

#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "loadtest/action.h"
#include "loadtest/workload.h"

namespace conclave::loadtest {

struct Scenario {
  double variation = 1;  // of the gaps between arrivals
  std::vector<Phase> phases;
  std::vector<Action> actions;  // each begins before the last phase ends
};

struct ScenarioLimits {
  size_t file_bytes = 1 << 20;
  size_t phases = 256;
  size_t actions = 256;
  size_t command_words = 256;
  size_t name_bytes = 100;
  double seconds = 7 * 86400;  // of all phases together
  double rate = 1e6;           // per second
};

// INVALID_ARGUMENT or NOT_FOUND, naming the file and the field, or the line where it is no JSON.
absl::StatusOr<Scenario> ReadScenario(const std::string& path,
                                      const std::map<std::string, std::string>& values,
                                      const ScenarioLimits& limits = {});

}  // namespace conclave::loadtest

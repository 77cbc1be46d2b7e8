#pragma once
// The command line: flags, and what they mean together. Main thread.

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "loadtest/load.h"
#include "loadtest/report.h"
#include "loadtest/workload.h"
#include "services/credentials.h"
#include "services/flags.h"

namespace conclave::loadtest {

struct Arguments {
  // The most that flags may say.
  struct Limits {
    static constexpr double kRequests = 10'000'000;
    static constexpr double kPerSecond = 1e6;        // arrivals
    static constexpr double kDuration = 7 * 86400;   // seconds
    static constexpr double kTimeout = 86400;        // seconds
    static constexpr double kMilliseconds = 1e9;     // of an objective
    static constexpr double kTraceSpeed = 1e3;       // and its inverse is the least
    static constexpr double kConcurrency = 100'000;  // streams of a closed loop
    static constexpr double kInFlight = 1'000'000;   // of an open one
    static constexpr double kSlowReaders = 100'000;
    static constexpr double kSlowRate = 1e6;  // tokens per second
    static constexpr double kChannels = 256;
    static constexpr double kVocabulary = 1 << 24;
    static constexpr double kMaxTokens = 1'000'000;
    static constexpr double kTemperature = 100;
  };

  Options options;
  services::Credentials::Options credentials;
  double duration = 0;  // seconds
  double rate_end = 0;
  double temperature = 0;
  double timeout = 60;  // seconds
  std::string prompts;
  std::vector<std::string> prompt;
  std::string prompt_lengths;
  std::string output_lengths;
  std::string trace;
  std::string adapters;
  uint32_t vocabulary = 0;
  uint32_t max_prompt_tokens = Lengths::kMaxTokens;
  uint32_t max_output_tokens = Lengths::kMaxTokens;
  std::string scenario;
  std::vector<std::string> values;  // NAME=VALUE
  std::string html;                 // where to write it
  std::string samples;              // likewise
  bool json = false;
  bool strict = false;
};

// What is to be done.
struct Plan {
  Options options;
  Workload::Options workload;  // `vocabulary` is 0 where the server has to be asked
};

// What a report says of the plan.
Setting Describe(const Options& options, const Workload& workload);

void Bind(services::Flags& flags, Arguments& arguments);

// INVALID_ARGUMENT or NOT_FOUND, naming the flag or the file, line and field.
absl::StatusOr<Plan> Settle(const services::Flags& flags, const Arguments& arguments);

}  // namespace conclave::loadtest

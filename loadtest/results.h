#pragma once
// What a load test has seen, as plain data, and how it is told: a table for people, JSON for
// programs. Times are measured from the moment a request was meant to be sent, so a generator or a
// server that stalls cannot hide the requests it delayed (no coordinated omission).

#include <chrono>
#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "loadtest/histogram.h"

namespace conclave::loadtest {

struct Mismatch {
  size_t line = 0;  // of the prompt file
  std::string what;
};

struct Results {
  static constexpr size_t kMismatchesKept = 10;

  uint64_t sent = 0;
  // Arrivals that were not sent because in_flight_limit streams were open: the load was not
  // offered.
  uint64_t unsent = 0;
  uint64_t completed = 0;  // OK, with a finish reason
  uint64_t cancelled = 0;  // by us, as asked
  // OK without a finish reason: a cut stream that looks whole. Never right.
  uint64_t incomplete = 0;
  uint64_t checked = 0;  // streams compared with an expectation, whole or as far as they came
  uint64_t mismatched = 0;
  std::vector<Mismatch> mismatches;         // the first kMismatchesKept
  std::map<std::string, uint64_t> by_code;  // "OK", "RESOURCE_EXHAUSTED"; not those we cancelled
  std::map<std::string, std::string> first_message;  // of every code but OK

  uint64_t input_tokens = 0;   // of completed requests, as the server counts them
  uint64_t output_tokens = 0;  // received, whatever became of the stream

  Histogram ttft;     // to the first token
  Histogram itl;      // between messages that carry tokens
  Histogram tpot;     // of completed requests: (last - first token) / (tokens - 1)
  Histogram e2e;      // of completed requests
  Histogram refusal;  // to RESOURCE_EXHAUSTED or UNAVAILABLE without a token
  Histogram lag;      // sent later than meant: the generator's own fault

  uint64_t slow_readers = 0;

  std::chrono::duration<double> sending{0};  // from the start until the last request went out
  std::chrono::duration<double> total{0};    // until the last answer
};

// What was asked for, as far as a report repeats it.
struct Setting {
  std::string server;
  uint64_t seed = 0;
  double rate = 0;           // per second; 0: closed loop
  uint32_t concurrency = 0;  // closed loop
};

nlohmann::json ToJson(const Setting& setting, const Results& results);
std::string ToTable(const Setting& setting, const Results& results);

}  // namespace conclave::loadtest

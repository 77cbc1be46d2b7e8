#pragma once
// What a load test has seen, as plain data. Times are measured from the moment a request was meant
// to be sent, so a generator or a server that stalls cannot hide the requests it delayed (no
// coordinated omission).

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "loadtest/histogram.h"
#include "loadtest/measures.h"

namespace conclave::loadtest {

struct Mismatch {
  size_t line = 0;  // of the prompt file
  std::string what;
};

// A stretch of a scenario. It has the requests that were due in it, and the times between tokens
// that ended in it.
struct PhaseResult {
  std::string name;
  double begin = 0;  // seconds since the start
  double seconds = 0;
  Measures measures;
};

// An action and what was seen while it ran: every wait that it overlapped; `sent` are requests that
// were due meanwhile. Times are seconds since the start.
struct ActionResult {
  std::string name;
  std::string command;
  double at = 0;  // when it was meant to begin
  std::optional<double> begin;
  std::optional<double> end;
  bool ok = false;      // it ended with exit code 0
  std::string outcome;  // "exit code 0", "signal 9", "stopped after 60 s"
  std::string output;   // the beginning of what it wrote
  Measures measures;
};

// What an answer must keep to be good, in milliseconds; 0: anything. Inter-token latency is the
// longest wait of the request, TPOT its mean.
struct Objectives {
  double ttft_ms = 0;
  double itl_ms = 0;
  double tpot_ms = 0;
  double e2e_ms = 0;

  bool any() const { return ttft_ms > 0 || itl_ms > 0 || tpot_ms > 0 || e2e_ms > 0; }
};

struct Results : Measures {
  static constexpr size_t kMismatchesKept = 10;

  // OK without a finish reason: a cut stream that looks whole. Never right.
  uint64_t incomplete = 0;
  uint64_t checked = 0;  // streams compared with an expectation, whole or as far as they came
  uint64_t mismatched = 0;
  std::vector<Mismatch> mismatches;         // the first kMismatchesKept
  std::map<std::string, uint64_t> by_code;  // "OK", "RESOURCE_EXHAUSTED"; not those we cancelled
  std::map<std::string, std::string> first_message;  // of every code but OK

  Histogram tpot;  // of completed requests but slow readers': (last - first token) / (tokens - 1)
  Histogram refusal;  // to RESOURCE_EXHAUSTED or UNAVAILABLE without a token
  // The last wait of any other failed request: since its last token, or since it was due; of slow
  // readers only the latter.
  Histogram broken;
  Histogram lag;  // sent later than meant: the generator's own fault

  uint64_t slow_readers = 0;  // streams that were never read
  uint64_t slowly_read = 0;   // of those sent
  uint64_t cut = 0;           // requests whose lengths were above a limit

  static constexpr size_t kAdaptersKept = 1024;  // more names are one, kOtherAdapters
  static constexpr const char* kOtherAdapters = "(others)";
  std::map<std::string, Measures> adapters;  // by name; empty: the request named none
  std::vector<PhaseResult> phases;
  std::vector<ActionResult> actions;
  Timeline timeline;  // arrivals, TTFT and end-to-end when due; the rest when seen

  std::chrono::duration<double> sending{
      0};  // from the start until the last request was due and sent, or not
  std::chrono::duration<double> total{0};  // until the last answer
  std::chrono::duration<double> cpu{0};    // that this process used meanwhile
};

}  // namespace conclave::loadtest

#pragma once
// What was seen of some requests: of all, of an adapter's, of those of a phase. Times are measured
// from the moment a request was meant to be sent. Plain data; one thread at a time.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "loadtest/histogram.h"

namespace conclave::loadtest {

struct Measures {
  uint64_t sent = 0;
  // Arrivals that were not sent because in_flight_limit streams were open: the load was not
  // offered.
  uint64_t unsent = 0;
  uint64_t completed = 0;  // OK, with a finish reason
  uint64_t cancelled = 0;  // by us, as asked
  uint64_t failed = 0;     // anything else
  // For goodput: what had a chance to meet the objectives, so neither what we cancelled nor what
  // our own slow readers asked for; and what did.
  uint64_t judged = 0;
  uint64_t good = 0;

  uint64_t input_tokens = 0;   // of completed requests, as the server counts them
  uint64_t output_tokens = 0;  // received, whatever became of the stream

  Histogram ttft;  // to the first token
  Histogram itl;   // between messages that carry tokens; not of slow readers
  Histogram e2e;   // of completed requests; not of slow readers

  void Add(const Measures& other);
  uint64_t served_tokens() const { return input_tokens + output_tokens; }
};

// Measures of consecutive stretches of equal width. However long a run, there are at most kWindows:
// beyond, two neighbours become one and the width doubles.
class Timeline {
 public:
  using Nanos = Histogram::Nanos;
  static constexpr size_t kWindows = 120;

  explicit Timeline(Nanos width = std::chrono::seconds(1)) : width_(width) {}  // > 0

  Measures& At(Nanos since_start);  // before the start counts as the start
  Nanos width() const { return width_; }
  const std::vector<Measures>& windows() const { return windows_; }

 private:
  void Halve();

  Nanos width_;
  std::vector<Measures> windows_;
};

// (sum x)^2 / (n sum x^2): 1 if all are equal, 1/n if one has everything. 1 of nothing.
double JainIndex(const std::vector<double>& values);

}  // namespace conclave::loadtest

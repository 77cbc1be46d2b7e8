#pragma once
// One request as it is sent: the message, and what becomes of its stream.

#include <chrono>
#include <cstdint>
#include <optional>

#include "conclave/v1/inference.pb.h"
#include "loadtest/load.h"
#include "loadtest/workload.h"

namespace conclave::loadtest {

using Clock = std::chrono::steady_clock;

struct Job {
  uint64_t index = 0;
  Ask ask;  // without the prompt's text and token ids, which `request` has
  v1::GenerateRequest request;
  Clock::time_point due;
  std::optional<uint32_t> cancel_at;  // after this many tokens
  std::optional<double> slow_rate;    // tokens per second that it is read at
};

// The index-th request; `due` is left out.
Job MakeJob(const Options& options, uint64_t index, Ask ask);

}  // namespace conclave::loadtest

#pragma once
// One seed: a worker's life in virtual time. Bursts of requests with cancels, pauses, deadlines and
// failures, with prompts that begin alike and with guesses at next tokens, go through the real
// planner and block pool under random options; a fake model costs time and computes its tokens from
// what it finds in the KV blocks it was given. Every promise of scheduler/batch_planner.h is
// checked after every step from the outside, by accounts of its own. No threads, no clock. Idea:
// FoundationDB's and TigerBeetle's simulators.

#include <cstdint>
#include <optional>
#include <string>

namespace conclave::sim {

struct Totals {
  uint64_t requests = 0;
  uint64_t steps = 0;
  uint64_t tokens = 0;  // computed, prompts and recomputation included
  uint64_t reused = 0;  // positions found in cached blocks, those of copied ones aside
  uint64_t copies = 0;
  uint64_t proposed = 0;   // of tokens, computed before it was known what they would be
  uint64_t accepted = 0;   // of these
  uint64_t abandoned = 0;  // steps that brought nothing
  uint64_t evictions = 0;
  uint64_t preemptions = 0;
  uint64_t refused = 0;
  uint64_t completed = 0;
  uint64_t cancelled = 0;
  uint64_t late = 0;  // dropped at their deadline
  uint64_t failed = 0;
  double virtual_seconds = 0;
};

// Adds what happened to `totals`. The broken promise, with seed and step, or nothing.
std::optional<std::string> SimulatePlanner(uint64_t seed, Totals* totals);

}  // namespace conclave::sim

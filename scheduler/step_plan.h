#pragma once
// One step of a worker's batch as plain data: who runs, which positions, who left. Made by
// BatchPlanner::Plan.

#include <vector>

#include "scheduler/types.h"

namespace conclave::scheduler {

struct PlannedSequence {
  SequenceId id = 0;
  int32_t first = 0;     // absolute position of the first token computed in this step
  int32_t count = 0;     // tokens computed in this step, >= 1
  bool samples = false;  // the last of them yields the next token (the prompt is complete after it)
  int32_t proposed = 0;  // of count, the last: tokens that it does not have, but may come to have
};

enum class DropReason : uint8_t { kCancelled, kDeadline };

struct DroppedSequence {
  SequenceId id = 0;
  DropReason reason = DropReason::kCancelled;
};

// The cached block `from` holds what `to` is to hold up to its last position, which this step
// computes and writes: `to` is a copy to write to.
struct BlockCopy {
  BlockId from = 0;
  BlockId to = 0;
};

struct StepPlan {
  // Before anything is computed, in this order: a block may be copied from, and then to.
  std::vector<BlockCopy> copies;
  std::vector<PlannedSequence> sequences;  // decodes, then prefill chunks; each by order of arrival
  std::vector<DroppedSequence> dropped;    // by cancel or deadline; their blocks are already back
  std::vector<SequenceId> preempted;       // lost their blocks, wait again, will be recomputed
  int32_t tokens = 0;                      // sum of counts
  int32_t proposed = 0;                    // of them
};

}  // namespace conclave::scheduler

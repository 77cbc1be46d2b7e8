#pragma once
// A sequence as the planner keeps it. For batch_planner.cc alone.

#include <algorithm>
#include <cstdint>

#include "scheduler/batch_planner.h"
#include "scheduler/block_table.h"
#include "scheduler/check.h"

namespace conclave::scheduler {

using Arrival = uint64_t;  // number of the Add; the older sequence has the smaller one

inline int32_t BlocksFor(int64_t positions, int32_t block_size) {
  return static_cast<int32_t>((positions + block_size - 1) / block_size);
}

struct PlannerEntry {
  BatchPlanner::Sequence sequence;
  Arrival arrival = 0;
  int32_t generated = 0;         // survives preemption
  int32_t computed = 0;          // positions whose KV is in the blocks
  int32_t planned = 0;           // of the plan in flight
  int32_t planned_proposed = 0;  // of them, those of proposed tokens
  int32_t proposed = 0;          // tokens, for its next decode
  bool paused = false;
  bool cancelled = false;
  BlockTable blocks;

  int32_t length() const { return sequence.prompt_tokens + generated; }
  int64_t length_max() const { return int64_t{sequence.prompt_tokens} + sequence.max_tokens; }
  int32_t remaining() const { return length() - computed; }
  bool decodes() const { return generated > 0 && remaining() == 1; }
  bool scores() const { return sequence.max_tokens == 0; }

  // Plans proposals behind its last token, which is planned: at most `most`, only as many as could
  // become its own, for it samples one more behind them, and as have blocks. How many.
  int32_t PlanProposals(int32_t most, bool may_take_blocks, int32_t block_size, BlockPool& pool) {
    const int32_t wanted = std::min({proposed, most, sequence.max_tokens - generated - 1});
    const int32_t needed = BlocksFor(int64_t{length()} + wanted, block_size);
    while (may_take_blocks && blocks.size() < needed && blocks.Take(1, pool)) {
    }
    planned_proposed = std::min(wanted, blocks.size() * block_size - length());
    planned += planned_proposed;
    return planned_proposed;
  }

  // The plan in flight is over and has brought so many positions.
  void Settle(int32_t positions, int32_t block_size, BlockPool& pool) {
    computed += positions;
    if (planned_proposed > 0) blocks.Trim(BlocksFor(length(), block_size), pool);
    planned = planned_proposed = proposed = 0;
  }

  void CheckInvariants(int32_t block_size, const BlockPool& pool) const {
    CONCLAVE_CHECK(computed >= 0 && planned >= 0 && proposed >= 0);
    CONCLAVE_CHECK(planned_proposed == 0 || planned == 1 + planned_proposed);
    CONCLAVE_CHECK(computed + planned - planned_proposed <= length());
    CONCLAVE_CHECK(scores() || generated + planned_proposed < sequence.max_tokens);
    CONCLAVE_CHECK(computed + planned <= int64_t{blocks.size()} * block_size);
    CONCLAVE_CHECK(blocks.keys() <= length() / block_size);
    blocks.CheckInvariants(computed, pool);
  }
};

}  // namespace conclave::scheduler

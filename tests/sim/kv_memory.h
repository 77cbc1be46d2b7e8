#pragma once
// What stands in the KV blocks of a simulated worker: a number for every position, and for every
// block whether others may have found it. It knows nothing of the planner's accounts.

#include <cstdint>
#include <span>
#include <vector>

#include "scheduler/step_plan.h"

namespace conclave::sim {

class KvMemory {
 public:
  using Table = std::span<const scheduler::BlockId>;  // a sequence's blocks

  KvMemory(int32_t blocks, int32_t block_size);

  uint64_t Read(Table table, int32_t position) const;
  // False if the block is sealed: others may read it.
  bool Write(Table table, int32_t position, uint64_t number);
  void Copy(const scheduler::BlockCopy& copy);

  // Block `index` of the table is full and may be found from now on. `root` names what its sequence
  // begins with.
  void Seal(Table table, size_t index, uint64_t root);
  // Sealed blocks of this root, and copies of them, must not be found any more, nor what is
  // computed behind them.
  void Spoil(uint64_t root);
  bool spoiled(scheduler::BlockId block) const { return At(block).spoiled; }

 private:
  struct Block {
    std::vector<uint64_t> numbers;  // [block_size]
    uint64_t root = 0;
    bool sealed = false;
    bool copied = false;
    bool spoiled = false;
  };

  const Block& At(scheduler::BlockId block) const { return blocks_[static_cast<size_t>(block)]; }
  Block& At(scheduler::BlockId block) { return blocks_[static_cast<size_t>(block)]; }

  const int32_t block_size_;
  std::vector<Block> blocks_;
};

}  // namespace conclave::sim

#pragma once
// Accounts for a fixed number of KV blocks: which are taken, which are free. Knows nothing of the
// memory behind them. Owned by one thread (the planner's).

#include <cstdint>
#include <span>
#include <vector>

#include "scheduler/types.h"

namespace conclave::scheduler {

class BlockPool {
 public:
  explicit BlockPool(int32_t blocks);  // >= 1; ids are 0 .. blocks - 1

  // Appends `count` free blocks to `to`; false, and nothing is taken, if there are not so many.
  bool Take(int32_t count, std::vector<BlockId>* to);
  // Every block must be taken: giving one back twice is a broken promise.
  void GiveBack(std::span<const BlockId> blocks);

  int32_t size() const { return static_cast<int32_t>(taken_.size()); }
  int32_t free() const { return static_cast<int32_t>(free_.size()); }
  int32_t used() const { return size() - free(); }
  bool taken(BlockId block) const { return taken_[static_cast<size_t>(block)] != 0; }

 private:
  std::vector<BlockId>
      free_;  // a stack: the block given back last is still warm and goes out first
  std::vector<uint8_t> taken_;
};

}  // namespace conclave::scheduler

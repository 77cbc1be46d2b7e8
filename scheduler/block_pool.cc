#include "scheduler/block_pool.h"

#include "scheduler/check.h"

namespace conclave::scheduler {

BlockPool::BlockPool(int32_t blocks) {
  CONCLAVE_CHECK(blocks >= 1);
  taken_.assign(static_cast<size_t>(blocks), 0);
  free_.reserve(taken_.size());
  for (BlockId block = blocks - 1; block >= 0; --block) free_.push_back(block);
}

bool BlockPool::Take(int32_t count, std::vector<BlockId>* to) {
  CONCLAVE_CHECK(count >= 0);
  if (count > free()) return false;
  for (int32_t i = 0; i < count; ++i) {
    const BlockId block = free_.back();
    free_.pop_back();
    taken_[static_cast<size_t>(block)] = 1;
    to->push_back(block);
  }
  return true;
}

void BlockPool::GiveBack(std::span<const BlockId> blocks) {
  for (const BlockId block : blocks) {
    CONCLAVE_CHECK(block >= 0 && block < size());
    CONCLAVE_CHECK(taken(block));
    taken_[static_cast<size_t>(block)] = 0;
    free_.push_back(block);
  }
}

}  // namespace conclave::scheduler

#pragma once
// The KV blocks of one sequence, in order of positions, and what they share with others: its
// leading blocks are published under its keys, or taken over from whoever published them first. A
// published block is never written: where a sequence would write into one, it writes into a copy.
// Owned by the planner, beside the pool it is called with.

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "scheduler/block_pool.h"
#include "scheduler/step_plan.h"
#include "scheduler/types.h"

namespace conclave::scheduler {

class BlockTable {
 public:
  // `keys` of the first full blocks. `reuse`: whether cached blocks are taken; if not, every block
  // is computed, and published all the same.
  BlockTable(int32_t block_size, std::vector<BlockKey> keys, bool reuse)
      : block_size_(block_size), reuse_(reuse), keys_(std::move(keys)) {}

  std::span<const BlockId> blocks() const { return blocks_; }
  int32_t size() const { return static_cast<int32_t>(blocks_.size()); }
  bool empty() const { return blocks_.empty(); }
  int32_t keys() const { return static_cast<int32_t>(keys_.size()); }
  void Reserve(int32_t blocks) { blocks_.reserve(static_cast<size_t>(blocks)); }
  void AddKey(const BlockKey& key) { keys_.push_back(key); }

  // Adds `count` blocks to write to; false, and nothing changes, if the pool has not so many.
  bool Take(int32_t count, BlockPool& pool) { return pool.Take(count, &blocks_); }
  void GiveBack(BlockPool& pool);
  // Gives back all but the first `blocks`, if there are so many; none of those is published.
  void Trim(int32_t blocks, BlockPool& pool);

  // Which blocks TakeCached would take.
  std::vector<BlockId> Cached(int32_t computed, int32_t length, const BlockPool& pool) const;
  // Of `length` positions `computed` are; goes over to the published blocks that follow, as long as
  // one position is left to compute, for somebody wants its logits. The blocks held for these
  // positions, nothing is in them yet, go back. How many positions are computed now.
  int32_t TakeCached(int32_t computed, int32_t length, BlockPool& pool);
  // If all but the last of the positions left are in one published block: what to copy, so that the
  // last can be computed in the sequence's own.
  std::optional<BlockCopy> CopyOfLast(int32_t computed, int32_t length, const BlockPool& pool);

  // Keys of the blocks that positions [first, last] are in, those that will be published.
  std::span<const BlockKey> Keys(int32_t first, int32_t last) const;
  // The key of the block that position `computed` opens; null if it opens none, or one without a
  // key, or one that would not be taken over.
  const BlockKey* NextKey(int32_t computed) const;

  // Publishes the blocks that `computed` positions fill; where one is published under the same key
  // already, goes over to that one, which holds the same numbers.
  void Publish(int32_t computed, BlockPool& pool);
  int32_t published() const { return published_; }  // leading blocks
  // Of its published blocks some were forgotten: publishes and takes nothing behind them.
  void NoteForgotten(const BlockPool& pool);

  // Aborts on any broken promise. For tests.
  void CheckInvariants(int32_t computed, const BlockPool& pool) const;

 private:
  bool Opens(int32_t position) const { return position % block_size_ == 0; }
  void GoOverTo(BlockId published, size_t index, BlockPool& pool);

  int32_t block_size_;
  bool reuse_;
  std::vector<BlockKey> keys_;
  std::vector<BlockId> blocks_;
  int32_t published_ = 0;
  BlockId copied_ = kNoBlock;  // its own block that is a copy, until the next Publish
  bool forgotten_ = false;
};

}  // namespace conclave::scheduler

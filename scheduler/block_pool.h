#pragma once
// Accounts for a fixed number of KV blocks: who holds which, and which are found again by what they
// hold. A block is free, held by one sequence or by several, or cached: held by nobody, but
// published under a key and kept until room is needed. Knows nothing of the memory behind them.
// Owned by one thread (the planner's).
//
// Keys chain (key of a block = hash of its parent's key and its own tokens), and who holds a block
// holds its parents. So published blocks form trees that are closed upwards, and age keeps them so:
// giving back goes from the leaf to the root, hence a parent is always younger than its children.
// Idea: vLLM's automatic prefix caching (hash-chained blocks, least recently used first).

#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "scheduler/types.h"

namespace conclave::scheduler {

inline constexpr BlockId kNoBlock = -1;

class BlockPool {
 public:
  explicit BlockPool(int32_t blocks);  // >= 1; ids are 0 .. blocks - 1

  // Appends `count` blocks that nobody else holds or finds to `to`: free ones first, then the
  // cached, those given back longest ago first. False, and nothing is taken, if there are not so
  // many.
  bool Take(int32_t count, std::vector<BlockId>* to);
  // One more holder of a published block.
  void Share(BlockId block);
  // One holder less of each; each must be held: giving back once too often is a broken promise.
  // `blocks` are in order of positions. Who is left without a holder is cached, or free if it is
  // not published.
  void GiveBack(std::span<const BlockId> blocks);

  // The block published under `key`, cached or held; kNoBlock if there is none.
  BlockId Find(const BlockKey& key) const;
  // Lets a held block be found from now on; it is written no more. Neither the block nor the key
  // may be published. The parent, which is, holds the positions before; kNoBlock: there are none.
  void Publish(BlockId block, const BlockKey& key, BlockId parent);
  // Neither the block nor what was computed after it is found any more. Nothing, if it is not
  // published.
  void Forget(BlockId block);

  int32_t size() const { return static_cast<int32_t>(blocks_.size()) - 1; }
  int32_t available() const { return static_cast<int32_t>(free_.size()) + cached_; }
  int32_t used() const { return size() - available(); }  // held by someone
  int32_t cached() const { return cached_; }
  int32_t holders(BlockId block) const { return At(block).holders; }
  bool published(BlockId block) const { return At(block).published; }
  uint64_t evictions() const { return evictions_; }  // since the start

  // Walks all state and aborts on any broken promise. For tests.
  void CheckInvariants() const;

 private:
  struct KeyHash {
    // Keys are digests: any of their bits are as good as a hash of them.
    size_t operator()(const BlockKey& key) const { return static_cast<size_t>(key.words[0]); }
  };
  struct Block {
    int32_t holders = 0;
    bool published = false;
    BlockKey key;
    BlockId parent = kNoBlock;
    // Neighbours in the ring of cached blocks, by age.
    BlockId older = kNoBlock;
    BlockId newer = kNoBlock;
  };

  const Block& At(BlockId block) const { return blocks_[static_cast<size_t>(block)]; }
  Block& At(BlockId block) { return blocks_[static_cast<size_t>(block)]; }
  BlockId ring() const { return size(); }  // its head: newer than the newest, older than the oldest
  void AddToRing(BlockId block);
  void RemoveFromRing(BlockId block);
  void Unpublish(BlockId block);
  BlockId TakeOne();
  std::vector<BlockId> From(BlockId root) const;  // and what descends from it, in no order

  std::vector<Block> blocks_;  // [size + 1]; the last is the head of the ring
  std::vector<BlockId>
      free_;  // a stack: the block given back last is still warm and goes out first
  std::unordered_map<BlockKey, BlockId, KeyHash> published_;
  int32_t cached_ = 0;
  uint64_t evictions_ = 0;
};

}  // namespace conclave::scheduler

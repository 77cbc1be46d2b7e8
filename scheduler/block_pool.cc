#include "scheduler/block_pool.h"

#include "scheduler/check.h"

namespace conclave::scheduler {

BlockPool::BlockPool(int32_t blocks) {
  CONCLAVE_CHECK(blocks >= 1);
  blocks_.resize(static_cast<size_t>(blocks) + 1);
  At(ring()).older = At(ring()).newer = ring();
  free_.reserve(static_cast<size_t>(blocks));
  for (BlockId block = blocks - 1; block >= 0; --block) free_.push_back(block);
}

bool BlockPool::Take(int32_t count, std::vector<BlockId>* to) {
  CONCLAVE_CHECK(count >= 0);
  if (count > available()) return false;
  for (int32_t i = 0; i < count; ++i) {
    const BlockId block = TakeOne();
    At(block).holders = 1;
    to->push_back(block);
  }
  return true;
}

BlockId BlockPool::TakeOne() {
  if (!free_.empty()) {
    const BlockId block = free_.back();
    free_.pop_back();
    return block;
  }
  const BlockId oldest = At(ring()).newer;
  RemoveFromRing(oldest);
  Unpublish(oldest);
  ++evictions_;
  return oldest;
}

void BlockPool::Share(BlockId block) {
  CONCLAVE_CHECK(published(block));
  if (holders(block) == 0) RemoveFromRing(block);
  ++At(block).holders;
}

void BlockPool::GiveBack(std::span<const BlockId> blocks) {
  for (auto it = blocks.rbegin(); it != blocks.rend(); ++it) {
    const BlockId block = *it;
    CONCLAVE_CHECK(block >= 0 && block < size());
    CONCLAVE_CHECK(holders(block) > 0);
    if (--At(block).holders > 0) continue;
    if (published(block)) {
      AddToRing(block);
    } else {
      free_.push_back(block);
    }
  }
}

BlockId BlockPool::Find(const BlockKey& key) const {
  const auto found = published_.find(key);
  return found == published_.end() ? kNoBlock : found->second;
}

void BlockPool::Publish(BlockId block, const BlockKey& key, BlockId parent) {
  CONCLAVE_CHECK(holders(block) > 0 && !published(block));
  CONCLAVE_CHECK(parent == kNoBlock || published(parent));
  CONCLAVE_CHECK(published_.emplace(key, block).second);
  Block& b = At(block);
  b.published = true;
  b.key = key;
  b.parent = parent;
}

void BlockPool::Forget(BlockId block) {
  if (!published(block)) return;
  for (const BlockId lost : From(block)) {
    Unpublish(lost);
    if (holders(lost) > 0) continue;
    RemoveFromRing(lost);
    free_.push_back(lost);
  }
}

// Upwards from every published block until one whose answer is known: each is visited twice.
std::vector<BlockId> BlockPool::From(BlockId root) const {
  enum Answer : uint8_t { kUnknown, kNo, kYes };
  std::vector<uint8_t> answers(blocks_.size(), kUnknown);
  answers[static_cast<size_t>(root)] = kYes;
  std::vector<BlockId> found = {root};
  std::vector<BlockId> path;
  for (const auto& [key, start] : published_) {
    BlockId block = start;
    path.clear();
    while (block != kNoBlock && answers[static_cast<size_t>(block)] == kUnknown) {
      path.push_back(block);
      block = At(block).parent;
    }
    const uint8_t answer = block == kNoBlock ? uint8_t{kNo} : answers[static_cast<size_t>(block)];
    for (const BlockId passed : path) answers[static_cast<size_t>(passed)] = answer;
    if (answer == kYes) found.insert(found.end(), path.begin(), path.end());
  }
  return found;
}

void BlockPool::Unpublish(BlockId block) {
  Block& b = At(block);
  published_.erase(b.key);
  b.published = false;
  b.parent = kNoBlock;
}

void BlockPool::AddToRing(BlockId block) {
  const BlockId newest = At(ring()).older;
  At(block).older = newest;
  At(block).newer = ring();
  At(newest).newer = At(ring()).older = block;
  ++cached_;
}

void BlockPool::RemoveFromRing(BlockId block) {
  const Block& b = At(block);
  At(b.older).newer = b.newer;
  At(b.newer).older = b.older;
  --cached_;
}

void BlockPool::CheckInvariants() const {
  int32_t unheld = 0;
  size_t findable = 0;
  for (BlockId block = 0; block < size(); ++block) {
    const Block& b = At(block);
    CONCLAVE_CHECK(b.holders >= 0);
    unheld += b.holders == 0;
    if (!b.published) continue;
    ++findable;
    CONCLAVE_CHECK(Find(b.key) == block);
    if (b.parent == kNoBlock) continue;
    CONCLAVE_CHECK(published(b.parent));
    CONCLAVE_CHECK(holders(b.parent) >= b.holders);
  }
  CONCLAVE_CHECK(findable == published_.size());
  CONCLAVE_CHECK(unheld == available());

  // In the ring from the oldest on, a parent comes after its children.
  std::vector<uint8_t> older(blocks_.size(), 0);
  int32_t length = 0;
  for (BlockId block = At(ring()).newer; block != ring(); block = At(block).newer) {
    const Block& b = At(block);
    CONCLAVE_CHECK(b.published && b.holders == 0);
    CONCLAVE_CHECK(b.parent == kNoBlock || older[static_cast<size_t>(b.parent)] == 0);
    older[static_cast<size_t>(block)] = 1;
    CONCLAVE_CHECK(++length <= cached_);
  }
  CONCLAVE_CHECK(length == cached_);
}

}  // namespace conclave::scheduler

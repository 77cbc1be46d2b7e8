#include "scheduler/block_table.h"

#include <algorithm>

#include "scheduler/check.h"

namespace conclave::scheduler {

void BlockTable::GiveBack(BlockPool& pool) {
  pool.GiveBack(blocks_);
  blocks_.clear();
  published_ = 0;
  copied_ = kNoBlock;
  forgotten_ = false;
}

void BlockTable::Trim(int32_t blocks, BlockPool& pool) {
  if (blocks >= size()) return;
  CONCLAVE_CHECK(blocks >= published_);
  pool.GiveBack(this->blocks().subspan(static_cast<size_t>(blocks)));
  blocks_.resize(static_cast<size_t>(blocks));
}

std::vector<BlockId> BlockTable::Cached(int32_t computed, int32_t length,
                                        const BlockPool& pool) const {
  std::vector<BlockId> cached;
  if (!reuse_ || forgotten_ || !Opens(computed)) return cached;
  const int32_t end = std::min((length - 1) / block_size_, keys());
  for (int32_t i = computed / block_size_; i < end; ++i) {
    const BlockId block = pool.Find(keys_[static_cast<size_t>(i)]);
    if (block == kNoBlock) break;
    cached.push_back(block);
  }
  return cached;
}

int32_t BlockTable::TakeCached(int32_t computed, int32_t length, BlockPool& pool) {
  for (const BlockId block : Cached(computed, length, pool)) {
    CONCLAVE_CHECK(published_ == computed / block_size_);
    GoOverTo(block, static_cast<size_t>(published_++), pool);
    computed += block_size_;
  }
  return computed;
}

std::optional<BlockCopy> BlockTable::CopyOfLast(int32_t computed, int32_t length,
                                                const BlockPool& pool) {
  const BlockKey* key = NextKey(computed);
  if (key == nullptr || length - computed != block_size_ || block_size_ == 1) return std::nullopt;
  const BlockId from = pool.Find(*key);
  if (from == kNoBlock) return std::nullopt;
  copied_ = blocks_[static_cast<size_t>(computed / block_size_)];
  return BlockCopy{from, copied_};
}

std::span<const BlockKey> BlockTable::Keys(int32_t first, int32_t last) const {
  if (forgotten_) return {};
  const auto begin = static_cast<size_t>(std::min(first / block_size_, keys()));
  const auto end = static_cast<size_t>(std::min(last / block_size_ + 1, keys()));
  return std::span(keys_).subspan(begin, end - begin);
}

const BlockKey* BlockTable::NextKey(int32_t computed) const {
  const int32_t next = computed / block_size_;
  if (!reuse_ || forgotten_ || !Opens(computed) || next >= keys()) return nullptr;
  return &keys_[static_cast<size_t>(next)];
}

void BlockTable::Publish(int32_t computed, BlockPool& pool) {
  if (forgotten_) return;
  const int32_t full = std::min(computed / block_size_, keys());
  while (published_ < full) {
    const auto i = static_cast<size_t>(published_++);
    const BlockId known = pool.Find(keys_[i]);
    if (known != kNoBlock) {
      GoOverTo(known, i, pool);
    } else if (blocks_[i] == copied_) {  // what it was copied from was forgotten in this very step
      --published_;
      forgotten_ = true;
      break;
    } else {
      pool.Publish(blocks_[i], keys_[i], i == 0 ? kNoBlock : blocks_[i - 1]);
    }
  }
  copied_ = kNoBlock;
}

void BlockTable::NoteForgotten(const BlockPool& pool) {
  const auto end = blocks_.begin() + published_;
  const auto lost =
      std::find_if_not(blocks_.begin(), end, [&](BlockId block) { return pool.published(block); });
  if (lost == end) return;
  published_ = static_cast<int32_t>(lost - blocks_.begin());
  forgotten_ = true;
}

void BlockTable::GoOverTo(BlockId published, size_t index, BlockPool& pool) {
  pool.Share(published);
  if (index == blocks_.size()) {
    blocks_.push_back(published);
    return;
  }
  pool.GiveBack({&blocks_[index], 1});
  blocks_[index] = published;
}

void BlockTable::CheckInvariants(int32_t computed, const BlockPool& pool) const {
  CONCLAVE_CHECK(published_ <= std::min(size(), keys()));
  CONCLAVE_CHECK(published_ * block_size_ <= computed);
  for (int32_t i = 0; i < size(); ++i) {
    const BlockId block = blocks_[static_cast<size_t>(i)];
    const bool shared = i < published_;
    CONCLAVE_CHECK(pool.published(block) == shared);
    if (shared) CONCLAVE_CHECK(pool.Find(keys_[static_cast<size_t>(i)]) == block);
    if (!shared && !forgotten_) CONCLAVE_CHECK(pool.holders(block) == 1);
  }
}

}  // namespace conclave::scheduler

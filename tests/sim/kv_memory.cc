#include "tests/sim/kv_memory.h"

namespace conclave::sim {

using scheduler::BlockCopy;

KvMemory::KvMemory(int32_t blocks, int32_t block_size) : block_size_(block_size) {
  blocks_.resize(static_cast<size_t>(blocks));
  for (Block& block : blocks_) block.numbers.resize(static_cast<size_t>(block_size));
}

uint64_t KvMemory::Read(Table table, int32_t position) const {
  const Block& block = At(table[static_cast<size_t>(position / block_size_)]);
  return block.numbers[static_cast<size_t>(position % block_size_)];
}

bool KvMemory::Write(Table table, int32_t position, uint64_t number) {
  Block& block = At(table[static_cast<size_t>(position / block_size_)]);
  const int32_t offset = position % block_size_;
  if (offset == 0) block.sealed = block.copied = block.spoiled = false;  // the first of a new life
  block.numbers[static_cast<size_t>(offset)] = number;
  return !block.sealed;
}

void KvMemory::Copy(const BlockCopy& copy) {
  At(copy.to) = At(copy.from);
  At(copy.to).sealed = false;
  At(copy.to).copied = true;
}

void KvMemory::Seal(Table table, size_t index, uint64_t root) {
  Block& block = At(table[index]);
  if (block.sealed) return;
  block.sealed = true;
  block.root = root;
  block.spoiled |= index > 0 && At(table[index - 1]).spoiled;
}

void KvMemory::Spoil(uint64_t root) {
  for (Block& block : blocks_) {
    block.spoiled |= (block.sealed || block.copied) && block.root == root;
  }
}

}  // namespace conclave::sim

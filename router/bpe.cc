#include "router/bpe.h"

#include <algorithm>
#include <bit>
#include <functional>

namespace conclave::router {
namespace {

constexpr uint32_t kEnd = ~uint32_t{0};

uint64_t PairOf(TokenId left, TokenId right) {
  return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
}

// Finaliser of MurmurHash3: every bit of the pair reaches every bit of the result.
uint64_t Mix(uint64_t x) {
  x = (x ^ x >> 33) * 0xff51afd7ed558ccdu;
  x = (x ^ x >> 33) * 0xc4ceb9fe1a85ec53u;
  return x ^ x >> 33;
}

}  // namespace

Bpe::Bpe(std::span<const Merge> merges)
    : slots_(std::bit_ceil(std::max<size_t>(2 * merges.size(), 2))) {
  merged_.reserve(merges.size());
  for (const Merge& merge : merges) {
    const uint64_t pair = PairOf(merge.left, merge.right);
    size_t i = Mix(pair) & (slots_.size() - 1);
    while (slots_[i].pair != kNoPair) i = (i + 1) & (slots_.size() - 1);
    slots_[i] = {pair, static_cast<uint32_t>(merged_.size())};
    merged_.push_back(merge.merged);
  }
}

uint32_t Bpe::Rank(TokenId left, TokenId right) const {
  const uint64_t pair = PairOf(left, right);
  size_t i = Mix(pair) & (slots_.size() - 1);
  while (slots_[i].pair != pair) {
    if (slots_[i].pair == kNoPair) return kNoMerge;
    i = (i + 1) & (slots_.size() - 1);
  }
  return slots_[i].rank;
}

void Bpe::Encode(std::span<const TokenId> word, Scratch& scratch, std::vector<TokenId>* ids) const {
  if (word.empty()) return;
  auto& symbols = scratch.symbols;
  auto& heap = scratch.heap;
  const auto push = [&](uint32_t position) {
    Scratch::Symbol& symbol = symbols[position];
    symbol.rank = symbol.next == kEnd ? kNoMerge : Rank(symbol.id, symbols[symbol.next].id);
    if (symbol.rank == kNoMerge) return;
    ++scratch.heap_pushes;
    heap.push_back(uint64_t{symbol.rank} << 32 | position);
  };

  const auto length = static_cast<uint32_t>(word.size());
  symbols.resize(length);
  heap.clear();
  for (uint32_t i = 0; i < length; ++i) {
    symbols[i] = {word[i], kNoMerge, i == 0 ? kEnd : i - 1, i + 1 == length ? kEnd : i + 1};
  }
  for (uint32_t i = 0; i + 1 < length; ++i) push(i);
  std::make_heap(heap.begin(), heap.end(), std::greater<>());

  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const auto rank = static_cast<uint32_t>(heap.back() >> 32);
    const auto position = static_cast<uint32_t>(heap.back());
    heap.pop_back();
    Scratch::Symbol& symbol = symbols[position];
    if (symbol.rank != rank) continue;  // the pair is gone: one of its halves was merged elsewhere
    Scratch::Symbol& gone = symbols[symbol.next];
    symbol.id = merged_[rank];
    symbol.next = gone.next;
    gone.rank = kNoMerge;
    if (symbol.next != kEnd) symbols[symbol.next].previous = position;
    for (uint32_t changed : {symbol.previous, position}) {
      if (changed == kEnd) continue;
      const size_t before = heap.size();
      push(changed);
      if (heap.size() != before) std::push_heap(heap.begin(), heap.end(), std::greater<>());
    }
  }
  for (uint32_t i = 0; i != kEnd; i = symbols[i].next) ids->push_back(symbols[i].id);
}

}  // namespace conclave::router

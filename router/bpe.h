#pragma once
// Byte-pair encoding of one word: joins the neighbours whose merge ranks lowest, leftmost first,
// until no merge applies, as Hugging Face's tokenizers does. n log n in the word's length, whatever
// the word: a heap of candidate merges over a linked list of symbols. Immutable; any thread, one
// Scratch each. Sennrich et al., arXiv:1508.07909.

#include <cstdint>
#include <span>
#include <vector>

#include "scheduler/types.h"

namespace conclave::router {

using scheduler::TokenId;

class Bpe {
 public:
  struct Merge {
    TokenId left;
    TokenId right;
    TokenId merged;
  };

  // Buffers that calls may share, and a count of the work done with them.
  struct Scratch {
    struct Symbol {
      TokenId id;
      uint32_t rank;  // of the merge with its successor, or kNoMerge
      uint32_t previous;
      uint32_t next;
    };
    std::vector<Symbol> symbols;
    std::vector<uint64_t> heap;  // rank << 32 | position, least first
    uint64_t heap_pushes = 0;
  };

  // In order of rank, no pair twice, fewer than 2^31.
  explicit Bpe(std::span<const Merge> merges);

  // Appends the tokens of a word given as the tokens of its characters or bytes (symbols.h), fewer
  // than 2^32 - 1.
  void Encode(std::span<const TokenId> word, Scratch& scratch, std::vector<TokenId>* ids) const;

 private:
  struct Slot {
    uint64_t pair = kNoPair;
    uint32_t rank = 0;
  };
  static constexpr uint64_t kNoPair = ~uint64_t{0};
  static constexpr uint32_t kNoMerge = ~uint32_t{0};

  uint32_t Rank(TokenId left, TokenId right) const;

  std::vector<Slot> slots_;      // open addressing, at most half full, a power of two long
  std::vector<TokenId> merged_;  // by rank
};

}  // namespace conclave::router

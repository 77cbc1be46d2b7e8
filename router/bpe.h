#pragma once
// Byte-pair encoding of one word: joins the neighbours whose merge ranks lowest, leftmost first,
// until no merge applies, as Hugging Face's tokenizers does. n log n in the word's length, whatever
// the word: a heap of candidate merges over a linked list of symbols. Immutable; any thread, one
// Scratch each. Sennrich et al., arXiv:1508.07909.

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
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

  // byte_tokens: the token of each byte. merges: in order of rank, no pair twice, fewer than 2^31.
  Bpe(const std::array<TokenId, 256>& byte_tokens, std::span<const Merge> merges);

  // Appends the tokens of word, which has less than 2^32 - 1 bytes.
  void Encode(std::string_view word, Scratch& scratch, std::vector<TokenId>* ids) const;

 private:
  struct Slot {
    uint64_t pair = kNoPair;
    uint32_t rank = 0;
  };
  static constexpr uint64_t kNoPair = ~uint64_t{0};
  static constexpr uint32_t kNoMerge = ~uint32_t{0};

  uint32_t Rank(TokenId left, TokenId right) const;

  std::array<TokenId, 256> byte_tokens_;
  std::vector<Slot> slots_;      // open addressing, at most half full, a power of two long
  std::vector<TokenId> merged_;  // by rank
};

}  // namespace conclave::router

#pragma once
// Prompts made of token ids drawn from a seed, where lengths are known and texts are not.
// Stateless: the same arguments give the same tokens.

#include <cstdint>
#include <span>
#include <vector>

namespace conclave::loadtest {

struct Synthetic {
  uint64_t seed = 0;
  uint32_t vocabulary = 0;  // ids are below it; > 0

  // The prompt of the index-th request. Its first tokens are those of `blocks`, kTraceBlockTokens
  // of each: an id's tokens are the same in every request. The rest is the request's own.
  std::vector<uint32_t> Prompt(uint64_t index, uint32_t tokens,
                               std::span<const uint64_t> blocks = {}) const;
};

}  // namespace conclave::loadtest

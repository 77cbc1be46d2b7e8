#pragma once
// Guesses at what a sequence says next from what it has said, or was given: text that repeats
// itself goes on as it went on the last time. Pure; any thread.
// Idea: Saxena, "Prompt Lookup Decoding" (2023); n-gram speculation in vLLM.

#include <cstdint>
#include <span>
#include <vector>

#include "scheduler/types.h"

namespace conclave::worker {

struct LookupOptions {
  int32_t ngram = 3;         // the last so many tokens must have been there before; >= 1
  int32_t window = 1 << 14;  // of the tokens, the last in which they are looked for: it costs time
};

// `count` tokens that followed the latest earlier occurrence of the last `ngram` tokens; none if
// there is no such. Where the tokens end, what is guessed goes on: it repeats itself.
std::vector<scheduler::TokenId> LookUp(std::span<const scheduler::TokenId> tokens, int32_t count,
                                       const LookupOptions& options);

}  // namespace conclave::worker

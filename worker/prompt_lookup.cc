#include "worker/prompt_lookup.h"

#include <algorithm>

#include "scheduler/check.h"

namespace conclave::worker {

using scheduler::TokenId;

std::vector<TokenId> LookUp(std::span<const TokenId> tokens, int32_t count,
                            const LookupOptions& options) {
  CONCLAVE_CHECK(options.ngram >= 1);
  std::vector<TokenId> guess;
  const auto ngram = static_cast<size_t>(options.ngram);
  const std::span<const TokenId> seen =
      tokens.last(std::min(tokens.size(), static_cast<size_t>(std::max(options.window, 0))));
  if (count <= 0 || seen.size() <= ngram) return guess;
  const std::span<const TokenId> last = seen.last(ngram);
  for (size_t begin = seen.size() - ngram; begin-- > 0;) {
    // The first token decides nearly always.
    if (seen[begin] != last[0] ||
        !std::equal(last.begin(), last.end(), seen.begin() + static_cast<ptrdiff_t>(begin)))
      continue;
    for (size_t from = begin + ngram; guess.size() < static_cast<size_t>(count); ++from) {
      guess.push_back(from < seen.size() ? seen[from] : guess[from - seen.size()]);
    }
    break;
  }
  return guess;
}

}  // namespace conclave::worker

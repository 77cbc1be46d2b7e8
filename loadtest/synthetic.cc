#include "loadtest/synthetic.h"

#include <algorithm>
#include <cstddef>

#include "loadtest/random.h"
#include "loadtest/trace.h"

namespace conclave::loadtest {

std::vector<uint32_t> Synthetic::Prompt(uint64_t index, uint32_t tokens,
                                        std::span<const uint64_t> blocks) const {
  std::vector<uint32_t> ids;
  ids.reserve(tokens);
  const auto draw = [&](Random random, size_t up_to) {
    while (ids.size() < up_to) ids.push_back(Below(random, vocabulary));
  };
  for (const uint64_t block : blocks) {
    const size_t end = std::min<size_t>(tokens, ids.size() + kTraceBlockTokens);
    draw(Random(seed, Random::Purpose::kBlockTokens, block), end);
  }
  draw(Random(seed, Random::Purpose::kOwnTokens, index), tokens);
  return ids;
}

}  // namespace conclave::loadtest

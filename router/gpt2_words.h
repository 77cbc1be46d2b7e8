#pragma once
// The words of GPT-2's own pattern, by hand: no backtracking, no limit to meet. Pure; any thread.
// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+

#include <cstddef>
#include <string_view>

namespace conclave::router {

// The length of the word that text begins with; text is UTF-8 and not empty.
size_t Gpt2WordAt(std::string_view text);

}  // namespace conclave::router

#pragma once
// Scores token sequences by a router, and long ones in windows.
//
// Windows: window i holds the tokens [i * stride, i * stride + size) and is scored by itself, so
// its first token has no context and no score. Where windows overlap (stride < size) each scores
// only what the earlier ones have not. With stride == size every window's first token stays
// unscored; with any smaller stride only the very first token of all does, and every other one has
// at least size - stride tokens of context.

#include <google/protobuf/repeated_field.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "services/cli/client.h"

namespace conclave::services::cli {

struct Window {
  size_t begin = 0;
  size_t end = 0;
  size_t score_from = 0;  // in the sequence; begin < score_from <= end
};

// Covers `tokens`. 1 <= stride <= size.
std::vector<Window> Windows(size_t tokens, size_t size, size_t stride);

// One score; the first is about token 1.
struct Scores {
  std::vector<uint32_t> token_ids;
  std::vector<float> logprobs;  // of token_ids[1..]
  google::protobuf::RepeatedField<int> policies;
  std::string adapter;                        // that answered; empty: the base model
  std::optional<v1::AutoChoice> auto_choice;  // how it was chosen, if it was left to the router
};

// Scores one prompt, whole. `on_routing`, if set, is told the routing of consecutive tokens.
// The router's error, or DATA_LOSS if its answer does not hold together.
absl::StatusOr<Scores> Score(Client& client, const v1::ScoreRequest& request,
                             const std::function<absl::Status(const v1::Routing&)>& on_routing);

// The tokens of a prompt, and the bytes that each stands for (empty for a prompt of token ids). A
// text of more than kPieceBytes is tokenised in pieces cut after a line break where there is one,
// so tokens can differ from those of the whole text at the cuts, and there only.
inline constexpr size_t kPieceBytes = 512 << 10;
struct Tokens {
  std::vector<uint32_t> ids;
  std::vector<size_t> bytes;
};
absl::StatusOr<Tokens> Tokenize(Client& client, const v1::Prompt& prompt);

// Where a piece of at most `limit` bytes from the beginning of `text` ends: after its last line
// break, or else before a byte that begins a character.
size_t PieceOf(std::string_view text, size_t limit);

}  // namespace conclave::services::cli

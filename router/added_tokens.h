#pragma once
// Finds the texts of added tokens ("<|endoftext|>") in a prompt before anything else reads it:
// leftmost first, then longest, as Hugging Face's tokenizers does. Immutable; any thread.

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "scheduler/types.h"

namespace conclave::router {

using scheduler::TokenId;

struct AddedToken {
  TokenId id;
  std::string content;      // not empty
  bool special = false;     // control: begins a text, ends a turn
  bool left_strip = false;  // takes the white space before it with it
  bool right_strip = false;
  bool normalized = false;  // looked for after those that are not, in what they left
};

class AddedTokens {
 public:
  explicit AddedTokens(std::span<const AddedToken> tokens);

  // Calls piece(text, nullopt) for what no token claims and piece(text, id) for a token, in order,
  // never with an empty text. Special tokens are left as text unless parse_special.
  using Piece = std::function<bool(std::string_view, std::optional<TokenId>)>;
  // False as soon as piece returns false.
  bool Split(std::string_view text, bool parse_special, const Piece& piece) const;

 private:
  // A trie of bytes over the tokens of one pass.
  class Trie {
   public:
    void Add(std::string_view content, uint32_t token);
    // The longest content that text begins with: its token.
    std::optional<uint32_t> LongestPrefix(std::string_view text) const;
    bool empty() const { return nodes_.size() == 1; }

   private:
    struct Node {
      std::vector<std::pair<uint8_t, uint32_t>> children;  // byte and node, by byte
      std::optional<uint32_t> token;
    };
    std::vector<Node> nodes_ = std::vector<Node>(1);
    std::vector<bool> begins_ = std::vector<bool>(256);  // a content begins with this byte
  };

  bool SplitBy(const Trie& trie, std::string_view text, bool parse_special,
               const Piece& piece) const;

  std::vector<AddedToken> tokens_;
  Trie raw_;         // tokens that are not normalized: first pass
  Trie normalized_;  // second pass
};

}  // namespace conclave::router

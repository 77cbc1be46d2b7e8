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

// Bytes [begin, end) of a text.
struct ByteRange {
  size_t begin = 0;
  size_t end = 0;

  bool operator==(const ByteRange&) const = default;
};

// Which tokens' texts become tokens. Those that are not special always do, special ones by choice;
// but of what somebody from outside wrote into a text that is otherwise ours, no control token is
// made: no special one, and none of `control`.
struct Recognition {
  bool special = false;
  std::span<const ByteRange> outside = {};  // sorted, disjoint; only with special
  std::span<const TokenId> control = {};    // sorted
};

class AddedTokens {
 public:
  explicit AddedTokens(std::span<const AddedToken> tokens);

  // Calls piece(text, nullopt) for what no token claims and piece(text, id) for a token, in order,
  // never with an empty text. Parts are views into text.
  using Piece = std::function<bool(std::string_view, std::optional<TokenId>)>;
  // False as soon as piece returns false.
  bool Split(std::string_view text, const Recognition& recognition, const Piece& piece) const;

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

  struct Match {
    size_t begin;
    size_t end;
    const AddedToken* token;
  };
  enum class Verdict : uint8_t {
    kTake,
    kLeave,   // it is text, and nothing begins within it
    kForget,  // it is text, and what begins within it is looked at
  };
  using Judge = std::function<Verdict(const Match&)>;

  bool IsControl(const AddedToken& token, const Recognition& recognition) const;
  // The longest token that text has at `at`.
  std::optional<Match> Find(std::span<const Trie* const> tries, std::string_view text,
                            size_t at) const;
  bool HasOutsideControl(std::string_view text, const Recognition& recognition) const;
  // Both passes over text, with those tokens that judge takes.
  bool SplitTwice(std::string_view text, const Judge& judge, const Piece& piece) const;
  bool SplitBy(std::span<const Trie* const> tries, std::string_view text, const Judge& judge,
               const Piece& piece) const;

  std::vector<AddedToken> tokens_;
  Trie raw_;         // tokens that are not normalized: first pass
  Trie normalized_;  // second pass
};

}  // namespace conclave::router

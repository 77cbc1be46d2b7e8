#pragma once
// Finds the texts of added tokens ("<|endoftext|>") in a prompt before it is cut into words:
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
  bool single_word = false;  // only where no letter, mark or number stands beside it
  bool normalized = false;   // looked for after those that are not, in what they left, normalized
  // What to look for there, unless it is content; empty: the token is never found.
  std::optional<std::string> normalized_content = {};
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

  // Called as piece(text, nullopt) for what no token claims and as piece(text, id) for a token, in
  // order, never with an empty text. Parts are views into what is searched. False ends the search.
  using Piece = std::function<bool(std::string_view, std::optional<TokenId>)>;

  // The search of one text. text, the tokens and what recognition refers to must outlive it.
  class Search {
   public:
    Search(const AddedTokens& tokens, std::string_view text, const Recognition& recognition);

    // First pass: the text, by the tokens that are not normalized. False as soon as piece is.
    bool Raw(const Piece& piece) const;
    // Second pass: some of what the first one left, normalized, by the others.
    bool Normalized(std::string_view part, const Piece& piece) const;

   private:
    const AddedTokens& tokens_;
    const std::string_view text_;
    const Recognition& recognition_;
    bool guarded_;  // somebody from outside may have spelled a control token
  };

 private:
  // A trie of bytes over the tokens of one pass.
  class Trie {
   public:
    struct Found {
      uint32_t token;
      size_t bytes;
    };
    // Of two tokens with one content the first stays.
    void Add(std::string_view content, uint32_t token);
    // The longest content that text begins with.
    std::optional<Found> LongestPrefix(std::string_view text) const;
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

  using Tries = std::span<const Trie* const>;

  bool IsControl(const AddedToken& token, const Recognition& recognition) const;
  // The longest token that text has at `at`.
  std::optional<Match> Find(Tries tries, std::string_view text, size_t at) const;
  bool MayHaveOutsideControl(std::string_view text, const Recognition& recognition) const;
  bool SplitBy(Tries tries, std::string_view text, const Judge& judge, const Piece& piece) const;

  std::vector<AddedToken> tokens_;
  Trie raw_;                 // tokens that are not normalized
  Trie normalized_;          // the others by their normalized content
  Trie as_written_;          // the others by their content
  bool is_changed_ = false;  // some token has a normalized_content
};

}  // namespace conclave::router

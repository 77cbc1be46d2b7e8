#pragma once
// Cuts text into the words that byte-pair encoding treats one by one: the pre_tokenizer of a
// tokenizer.json. Immutable once made; any thread, one Scratch each.

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "router/text_pattern.h"

namespace conclave::router {

// Where a piece of text begins, which decides what is put before it.
enum class PieceStart {
  kText,    // at the beginning of the whole text
  kPiece,   // anywhere else: behind an added token, another piece
  kBroken,  // behind bytes that are not UTF-8: it goes on, and nothing is put before it
};

class PreTokenizer {
 public:
  // What becomes of the matches of a Split; what lies between them is always a piece of its own.
  enum class Behavior {
    kIsolated,            // a piece of its own
    kRemoved,             // dropped
    kMergedWithPrevious,  // joined to what is before it, unless that is a match
    kMergedWithNext,
    kContiguous,  // joined to the matches beside it
  };
  struct Stage {
    enum class Kind {
      kSplit,        // by pattern: behavior, inverted
      kGpt2,         // by ByteLevel's own pattern; isolated
      kDigits,       // behind kIsolated each number is a piece, behind kContiguous each run
      kWhiteSpace,   // by each white space: behavior
      kPrefixSpace,  // ByteLevel's add_prefix_space: a piece gets a leading space unless it has one
      kMetaspace,    // spaces become replacement, by which a piece is cut if split
    };
    enum class Prepend { kAlways, kFirst, kNever };
    Kind kind;
    Behavior behavior = Behavior::kIsolated;
    bool inverted = false;  // what lies between the matches is what matches, and the reverse
    std::vector<TextPattern> pattern;    // exactly one if kSplit
    std::string replacement;             // of kMetaspace: one character
    Prepend prepend = Prepend::kAlways;  // of kMetaspace: which pieces get a leading replacement
    bool split = true;                   // of kMetaspace: each replacement begins a piece
  };
  // The view lives as long as the call.
  using Word = std::function<void(std::string_view)>;

  PreTokenizer() = default;
  explicit PreTokenizer(std::vector<Stage> stages) : stages_(std::move(stages)) {}

  // Calls word for each word of text, which is UTF-8, in order. False and *error: a pattern met its
  // match or memory limit on this text; word has been called for what came before.
  bool Split(std::string_view text, PieceStart start, TextPattern::Scratch& scratch,
             const Word& word, std::string* error) const;

 private:
  struct Run;

  std::vector<Stage> stages_;
};

}  // namespace conclave::router

#pragma once
// Cuts text into the words that byte-pair encoding treats one by one: the pre_tokenizer of a
// tokenizer.json. Immutable after Create(); any thread.
//
// A word never mixes UTF-8 and other bytes: text is first cut into runs of valid characters, each
// of which the stages split as if it were the whole text, and runs of other bytes, each of which is
// a word.

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace conclave::router {

class PreTokenizer {
 public:
  struct Stage {
    enum class Kind {
      kGpt2,       // ByteLevel's own pattern, by hand: no backtracking, no limit to meet
      kPattern,    // Split by a regular expression, "Isolated": each match and each gap is a piece
      kLiteral,    // the same for a fixed string
      kDigits,     // Digits: runs of numbers are pieces of their own
      kEachDigit,  // Digits, individual_digits: each number is
      kPrefixSpace,  // add_prefix_space: a piece gets a leading space unless it has one
    };
    Kind kind;
    std::string pattern;  // of kPattern and kLiteral
  };
  using Word = std::function<void(std::string_view)>;  // the view lives as long as the call

  // nullopt and *error: a pattern is not a regular expression.
  static std::optional<PreTokenizer> Create(std::vector<Stage> stages, std::string* error);

  // Calls word for each word of text, in order. False and *error: a pattern met its match or memory
  // limit on this text; word has been called for what came before.
  bool Split(std::string_view text, const Word& word, std::string* error) const;

 private:
  struct Pattern;   // a compiled regular expression (PCRE2, UTF, UCP, JIT where available)
  struct Matching;  // what matching needs besides, for one Split()
  struct Step {
    Stage stage;
    std::shared_ptr<const Pattern> pattern;  // of kPattern and kLiteral
  };

  PreTokenizer() = default;
  bool Run(size_t step, std::string_view piece, Matching& matching, const Word& word,
           std::string* error) const;

  std::vector<Step> steps_;
};

// The words of valid UTF-8 by the pattern of GPT-2:
// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
void SplitLikeGpt2(std::string_view text, const std::function<void(std::string_view)>& word);

}  // namespace conclave::router

#pragma once
// Tokens back to bytes: the decoder of a tokenizer.json. What a token stands for is worked out once
// per token, when the tokenizer is loaded; what is left for a text is its beginning and its end.
// Immutable once made; any thread, one Stream each.
//
// Byte tokens are bytes: a character may be spread over several. Where they do not make characters,
// tokenizers' ByteFallback replaces all of a run of them, here only what is wrong in it becomes
// U+FFFD (ReplaceInvalidUtf8), or else no byte could be shown before the run's end is known.

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "router/text_pattern.h"
#include "scheduler/types.h"

namespace conclave::router {

class Decoder {
 public:
  // What is done to each token, in order.
  struct Step {
    enum class Kind {
      kReplace,       // each match of pattern by content
      kStrip,         // up to left of the character content at the left, right at the right
      kMetaspace,     // content, the replacement, is a space; in a text's first token nothing
      kByteFallback,  // "<0xE4>" is a byte
      kByteLevel,     // GPT-2's alphabet is bytes; a token that leaves it stays itself
    };
    Kind kind;
    std::vector<TextPattern> pattern;  // exactly one if kReplace
    std::string content;
    size_t left = 0;
    size_t right = 0;
    bool drop_first = false;  // of kMetaspace: whether the first token is treated otherwise
  };
  // Then the text loses up to left of the ASCII character at its beginning, right at its end.
  struct Trim {
    char character = ' ';
    size_t left = 0;
    size_t right = 0;
  };

  // One text: tokens in, bytes out. One thread at a time; the decoder must outlive it.
  class Stream {
   public:
    explicit Stream(const Decoder& decoder) : decoder_(decoder), left_(decoder.trim_.left) {}

    // Appends what this token adds to the text. What the text's end loses is held back.
    void Push(scheduler::TokenId id, std::string* bytes);

   private:
    const Decoder& decoder_;
    bool first_ = true;
    size_t left_;      // characters that the beginning may still lose
    size_t held_ = 0;  // characters given back as soon as the text goes on
  };

  // tokens: the vocabulary by id. nullopt and *error: a pattern met its limit on a token, or all
  // that tokens stand for is more than bytes_max.
  static std::optional<Decoder> Create(const std::vector<Step>& steps, const Trim& trim,
                                       const std::vector<std::string>& tokens, size_t bytes_max,
                                       std::string* error);

  // What token id stands for behind others; empty for an id that is no token.
  std::string_view TokenBytes(scheduler::TokenId id) const;
  size_t size() const { return bytes_.size(); }

 private:
  Decoder() = default;

  Trim trim_;
  std::vector<std::string> bytes_;        // by id
  std::vector<std::string> first_bytes_;  // by id; empty: the first token is like any other
};

}  // namespace conclave::router

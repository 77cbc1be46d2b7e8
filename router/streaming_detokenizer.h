#pragma once
// Turns tokens into text as they come. What it gives out is always whole, valid UTF-8: a character
// whose bytes are spread over several tokens waits for the last of them, and bytes that can never
// become a character are replaced by U+FFFD at once. All it gave out, joined, equals
// ReplaceInvalidUtf8() of the tokenizer's Decode() of all ids. One per sequence; one thread at a
// time; the tokenizer must outlive it.

#include <string>

#include "router/tokenizer.h"

namespace conclave::router {

class StreamingDetokenizer {
 public:
  explicit StreamingDetokenizer(const Tokenizer& tokenizer, bool skip_special = true)
      : tokenizer_(tokenizer), stream_(tokenizer.decoder()), skip_special_(skip_special) {}

  // The text that id completes; often empty within a character of several tokens.
  std::string Push(TokenId id);

  // At the end of the sequence: a waiting, incomplete character as U+FFFD.
  std::string Flush();

 private:
  const Tokenizer& tokenizer_;
  Decoder::Stream stream_;
  const bool skip_special_;
  std::string pending_;  // the beginning of a character, at most 3 bytes
};

}  // namespace conclave::router

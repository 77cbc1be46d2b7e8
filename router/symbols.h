#pragma once
// The tokens that byte-pair encoding starts from: those of a word's bytes, or those of its
// characters with something in the place of characters that have none. Immutable; any thread.

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "scheduler/types.h"

namespace conclave::router {

class Symbols {
 public:
  using ByteTokens = std::array<scheduler::TokenId, 256>;
  static constexpr scheduler::TokenId kNone = -1;

  struct Characters {
    std::unordered_map<char32_t, scheduler::TokenId> tokens;
    // A character that has no token becomes those of its bytes ("<0xE4>") if each has one; ...
    std::optional<ByteTokens> byte_fallback;  // kNone: no such token
    // ... else the unknown token, if there is one; else it is left out, as tokenizers does.
    std::optional<scheduler::TokenId> unknown;
    bool fuse_unknown = false;  // one unknown token for all that follow each other
  };

  // Byte-level: every byte has a token.
  explicit Symbols(const ByteTokens& bytes) : bytes_(bytes) {}
  explicit Symbols(Characters characters) : characters_(std::move(characters)) {}

  // Appends the symbols of word. A byte that is not UTF-8 is a character that has no token.
  void Append(std::string_view word, std::vector<scheduler::TokenId>* symbols) const;

 private:
  void AppendCharacters(std::string_view word, std::vector<scheduler::TokenId>* symbols) const;
  // False: some byte of character has no token, nothing was appended.
  bool AppendBytes(std::string_view character, std::vector<scheduler::TokenId>* symbols) const;

  ByteTokens bytes_{};
  std::optional<Characters> characters_;  // none: byte-level
};

}  // namespace conclave::router

#include "router/symbols.h"

#include <algorithm>
#include <utility>

#include "router/utf8.h"

namespace conclave::router {

using scheduler::TokenId;

void Symbols::Append(std::string_view word, std::vector<TokenId>* symbols) const {
  if (characters_) return AppendCharacters(word, symbols);
  for (char byte : word) symbols->push_back(bytes_[static_cast<uint8_t>(byte)]);
}

// An unknown token waits until a known character comes, because more may fuse with it. Bytes do not
// end the wait: it is a peculiarity of tokenizers that ids must follow.
void Symbols::AppendCharacters(std::string_view word, std::vector<TokenId>* symbols) const {
  bool unknown_waits = false;
  const auto end_wait = [&] {
    if (std::exchange(unknown_waits, false)) symbols->push_back(*characters_->unknown);
  };
  while (!word.empty()) {
    const Utf8Char c = FirstChar(word);
    const bool valid = c.kind == Utf8Char::Kind::kValid;
    const size_t bytes = valid ? c.bytes : 1;
    const auto found = characters_->tokens.find(c.code_point);
    if (valid && found != characters_->tokens.end()) {
      end_wait();
      symbols->push_back(found->second);
    } else if (!AppendBytes(word.substr(0, bytes), symbols) && characters_->unknown) {
      if (!characters_->fuse_unknown) end_wait();
      unknown_waits = true;
    }
    word.remove_prefix(bytes);
  }
  end_wait();
}

bool Symbols::AppendBytes(std::string_view character, std::vector<TokenId>* symbols) const {
  if (!characters_->byte_fallback) return false;
  const auto token_of = [this](char byte) {
    return (*characters_->byte_fallback)[static_cast<uint8_t>(byte)];
  };
  if (std::any_of(character.begin(), character.end(),
                  [&](char byte) { return token_of(byte) == kNone; })) {
    return false;
  }
  for (char byte : character) symbols->push_back(token_of(byte));
  return true;
}

}  // namespace conclave::router

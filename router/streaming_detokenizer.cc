#include "router/streaming_detokenizer.h"

#include "router/utf8.h"

namespace conclave::router {

std::string StreamingDetokenizer::Push(TokenId id) {
  if (skip_special_ && tokenizer_.is_special(id)) return {};
  stream_.Push(id, &pending_);
  std::string text;
  std::string_view rest = pending_;
  while (!rest.empty()) {
    const Utf8Char c = FirstChar(rest);
    if (c.kind == Utf8Char::Kind::kIncomplete) break;
    text += c.kind == Utf8Char::Kind::kValid ? rest.substr(0, c.bytes) : kReplacementCharacter;
    rest.remove_prefix(c.bytes);
  }
  pending_.erase(0, pending_.size() - rest.size());
  return text;
}

std::string StreamingDetokenizer::Flush() {
  const std::string text = ReplaceInvalidUtf8(pending_);
  pending_.clear();
  return text;
}

}  // namespace conclave::router

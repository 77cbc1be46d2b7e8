#include "router/decoder.h"

#include <algorithm>
#include <utility>

#include "router/byte_alphabet.h"
#include "router/utf8.h"

namespace conclave::router {
namespace {

using scheduler::TokenId;
using Step = Decoder::Step;

// False and *error: a pattern's limit. Stops where the token exceeds bytes_max.
bool Replace(const Step& step, size_t bytes_max, TextPattern::Scratch& scratch, std::string* token,
             std::string* error) {
  std::string replaced;
  const bool good = step.pattern.front().Cut(
      *token, scratch,
      [&](size_t begin, size_t end, bool matched) {
        replaced += matched ? std::string_view(step.content)
                            : std::string_view(*token).substr(begin, end - begin);
        return replaced.size() <= bytes_max;
      },
      error);
  *token = std::move(replaced);
  return good || token->size() > bytes_max;
}

std::string Stripped(std::string_view token, const Step& step) {
  for (size_t i = 0; i < step.left && token.starts_with(step.content); ++i) {
    token.remove_prefix(step.content.size());
  }
  for (size_t i = 0; i < step.right && token.ends_with(step.content); ++i) {
    token.remove_suffix(step.content.size());
  }
  return std::string(token);
}

std::string WithReplacement(std::string_view token, std::string_view replacement,
                            std::string_view by) {
  std::string result;
  for (size_t at = 0; at < token.size();) {
    const size_t found = std::min(token.find(replacement, at), token.size());
    result += token.substr(at, found - at);
    if (found < token.size()) result += by;
    at = found + replacement.size();
  }
  return result;
}

// What token stands for. first: as the first token of a text. False: it is more than bytes_max, or
// *error is set because a pattern met its limit on it.
bool Apply(const std::vector<Step>& steps, bool first, size_t bytes_max,
           TextPattern::Scratch& scratch, std::string* token, std::string* error) {
  for (const Step& step : steps) {
    switch (step.kind) {
      case Step::Kind::kReplace:
        if (!Replace(step, bytes_max, scratch, token, error)) return false;
        break;
      case Step::Kind::kStrip:
        *token = Stripped(*token, step);
        break;
      case Step::Kind::kMetaspace:
        *token = WithReplacement(*token, step.content, first && step.drop_first ? "" : " ");
        break;
      case Step::Kind::kByteFallback:
        if (const auto byte = FromByteFallback(*token)) *token = std::string(1, *byte);
        break;
      case Step::Kind::kByteLevel:
        if (auto bytes = FromByteAlphabet(*token)) *token = *std::move(bytes);
        break;
    }
    if (token->size() > bytes_max) return false;
  }
  return true;
}

}  // namespace

std::optional<Decoder> Decoder::Create(const std::vector<Step>& steps, const Trim& trim,
                                       const std::vector<std::string>& tokens, size_t bytes_max,
                                       std::string* error) {
  Decoder decoder;
  decoder.trim_ = trim;
  TextPattern::Scratch scratch;
  const bool drops_first =
      std::any_of(steps.begin(), steps.end(), [](const Step& step) { return step.drop_first; });
  size_t room = bytes_max;
  const auto stands_for = [&](std::string token, bool first) -> std::optional<std::string> {
    if (Apply(steps, first, room, scratch, &token, error)) {
      room -= token.size();
      return token;
    }
    const std::string problem =
        error->empty() ? "the tokens stand for more than " + std::to_string(bytes_max) + " bytes"
                       : *error;
    *error = "tokenizer.json: " + problem;
    return std::nullopt;
  };
  for (const std::string& token : tokens) {
    auto bytes = stands_for(token, /*first=*/false);
    if (!bytes) return std::nullopt;
    decoder.bytes_.push_back(*std::move(bytes));
    if (!drops_first) continue;
    auto first = stands_for(token, /*first=*/true);
    if (!first) return std::nullopt;
    decoder.first_bytes_.push_back(*std::move(first));
  }
  return decoder;
}

std::string_view Decoder::TokenBytes(TokenId id) const {
  if (id < 0 || static_cast<size_t>(id) >= bytes_.size()) return {};
  return bytes_[static_cast<size_t>(id)];
}

void Decoder::Stream::Push(TokenId id, std::string* bytes) {
  if (id < 0 || static_cast<size_t>(id) >= decoder_.size()) return;
  std::string_view token = decoder_.TokenBytes(id);
  if (std::exchange(first_, false) && !decoder_.first_bytes_.empty()) {
    token = decoder_.first_bytes_[static_cast<size_t>(id)];
  }
  const Trim& trim = decoder_.trim_;
  while (left_ > 0 && !token.empty()) {
    const bool trimmed = token[0] == trim.character;
    left_ = trimmed ? left_ - 1 : 0;
    if (trimmed) token.remove_prefix(1);
  }
  if (trim.right == 0) {
    *bytes += token;
    return;
  }
  // All but the last characters that the end may lose.
  const size_t kept = token.find_last_not_of(trim.character) + 1;
  if (kept > 0) {
    bytes->append(std::exchange(held_, 0), trim.character);
    *bytes += token.substr(0, kept);
  }
  held_ += token.size() - kept;
  if (held_ > trim.right) {
    bytes->append(held_ - trim.right, trim.character);
    held_ = trim.right;
  }
}

}  // namespace conclave::router

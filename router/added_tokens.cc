#include "router/added_tokens.h"

#include <algorithm>

#include "router/unicode_class.h"
#include "router/utf8.h"

namespace conclave::router {
namespace {

bool IsSpace(std::string_view character) {
  const Utf8Char c = FirstChar(character);
  return c.kind == Utf8Char::Kind::kValid && ClassOf(c.code_point) == UnicodeClass::kSpace;
}

// Length of the white space that text begins with.
size_t LeadingSpace(std::string_view text) {
  size_t length = 0;
  while (length < text.size() && IsSpace(text.substr(length))) {
    length += FirstChar(text.substr(length)).bytes;
  }
  return length;
}

// Where the white space at the end of text begins, no earlier than floor.
size_t TrailingSpace(std::string_view text, size_t floor) {
  size_t start = text.size();
  while (start > floor) {
    size_t character = start - 1;
    while (character > floor && (text[character] & 0xC0) == 0x80) --character;
    if (!IsSpace(text.substr(character, start - character))) break;
    start = character;
  }
  return start;
}

}  // namespace

void AddedTokens::Trie::Add(std::string_view content, uint32_t token) {
  begins_[static_cast<uint8_t>(content[0])] = true;
  uint32_t node = 0;
  for (char c : content) {
    const auto byte = static_cast<uint8_t>(c);
    auto& children = nodes_[node].children;
    auto child = std::lower_bound(children.begin(), children.end(), byte,
                                  [](const auto& entry, uint8_t b) { return entry.first < b; });
    if (child == children.end() || child->first != byte) {
      const auto added = static_cast<uint32_t>(nodes_.size());
      children.insert(child, {byte, added});
      nodes_.emplace_back();  // children dangles from here on
      node = added;
    } else {
      node = child->second;
    }
  }
  nodes_[node].token = token;
}

std::optional<uint32_t> AddedTokens::Trie::LongestPrefix(std::string_view text) const {
  if (!begins_[static_cast<uint8_t>(text[0])]) return std::nullopt;
  std::optional<uint32_t> longest;
  uint32_t node = 0;
  for (char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    const auto& children = nodes_[node].children;
    const auto child = std::lower_bound(children.begin(), children.end(), byte,
                                        [](const auto& e, uint8_t b) { return e.first < b; });
    if (child == children.end() || child->first != byte) break;
    node = child->second;
    if (nodes_[node].token) longest = nodes_[node].token;
  }
  return longest;
}

AddedTokens::AddedTokens(std::span<const AddedToken> tokens)
    : tokens_(tokens.begin(), tokens.end()) {
  for (uint32_t i = 0; i < tokens_.size(); ++i) {
    (tokens_[i].normalized ? normalized_ : raw_).Add(tokens_[i].content, i);
  }
}

bool AddedTokens::Split(std::string_view text, bool parse_special, const Piece& piece) const {
  return SplitBy(raw_, text, parse_special, [&](std::string_view part, std::optional<TokenId> id) {
    return id ? piece(part, id) : SplitBy(normalized_, part, parse_special, piece);
  });
}

bool AddedTokens::SplitBy(const Trie& trie, std::string_view text, bool parse_special,
                          const Piece& piece) const {
  size_t done = 0;  // text before it has been handed out
  size_t at = trie.empty() ? text.size() : 0;
  while (at < text.size()) {
    const std::optional<uint32_t> found = trie.LongestPrefix(text.substr(at));
    if (!found) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[*found];
    const size_t token_end = at + token.content.size();
    if (!token.special || parse_special) {
      size_t start = at, end = token_end;
      if (token.left_strip) start = TrailingSpace(text.substr(0, at), std::min(done, at));
      if (token.right_strip) end += LeadingSpace(text.substr(token_end));
      start = std::max(start, done);
      if (start > done && !piece(text.substr(done, start - done), std::nullopt)) return false;
      if (!piece(text.substr(at, token.content.size()), token.id)) return false;
      done = end;  // as tokenizers: a token within stripped space gives the rest of it back
    }
    at = token_end;
  }
  return done >= text.size() || piece(text.substr(done), std::nullopt);
}

}  // namespace conclave::router

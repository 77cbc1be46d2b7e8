#include "router/added_tokens.h"

#include <algorithm>
#include <array>

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

// Whether [begin, end) has a byte in one of the ranges.
bool Touches(std::span<const ByteRange> ranges, size_t begin, size_t end) {
  const auto next = std::partition_point(
      ranges.begin(), ranges.end(), [&](const ByteRange& range) { return range.end <= begin; });
  return next != ranges.end() && next->begin < end;
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

bool AddedTokens::IsControl(const AddedToken& token, const Recognition& recognition) const {
  return token.special ||
         std::binary_search(recognition.control.begin(), recognition.control.end(), token.id);
}

std::optional<AddedTokens::Match> AddedTokens::Find(std::span<const Trie* const> tries,
                                                    std::string_view text, size_t at) const {
  std::optional<Match> longest;
  for (const Trie* const trie : tries) {
    const std::optional<uint32_t> found = trie->LongestPrefix(text.substr(at));
    if (!found) continue;
    const AddedToken& token = tokens_[*found];
    const size_t end = at + token.content.size();
    if (!longest || end > longest->end) longest = Match{at, end, &token};
  }
  return longest;
}

bool AddedTokens::HasOutsideControl(std::string_view text, const Recognition& recognition) const {
  const std::array<const Trie*, 2> tries = {&raw_, &normalized_};
  for (size_t at = 0; at < text.size(); ++at) {
    const std::optional<Match> match = Find(tries, text, at);
    if (match && IsControl(*match->token, recognition) &&
        Touches(recognition.outside, match->begin, match->end)) {
      return true;
    }
  }
  return false;
}

bool AddedTokens::Split(std::string_view text, const Recognition& recognition,
                        const Piece& piece) const {
  const bool guarded =
      recognition.special && !recognition.outside.empty() && HasOutsideControl(text, recognition);
  if (!guarded) {
    const auto judge = [&](const Match& match) {
      return recognition.special || !match.token->special ? Verdict::kTake : Verdict::kLeave;
    };
    return SplitTwice(text, judge, piece);
  }
  // First our own control tokens are cut out, then there is none in what is left.
  const auto ours = [&](const Match& match) {
    if (!IsControl(*match.token, recognition)) return Verdict::kLeave;
    return Touches(recognition.outside, match.begin, match.end) ? Verdict::kForget : Verdict::kTake;
  };
  const auto others = [&](const Match& match) {
    return IsControl(*match.token, recognition) ? Verdict::kLeave : Verdict::kTake;
  };
  const std::array<const Trie*, 2> tries = {&raw_, &normalized_};
  return SplitBy(tries, text, ours, [&](std::string_view part, std::optional<TokenId> id) {
    return id ? piece(part, id) : SplitTwice(part, others, piece);
  });
}

bool AddedTokens::SplitTwice(std::string_view text, const Judge& judge, const Piece& piece) const {
  const std::array<const Trie*, 1> first = {&raw_}, second = {&normalized_};
  return SplitBy(first, text, judge, [&](std::string_view part, std::optional<TokenId> id) {
    return id ? piece(part, id) : SplitBy(second, part, judge, piece);
  });
}

bool AddedTokens::SplitBy(std::span<const Trie* const> tries, std::string_view text,
                          const Judge& judge, const Piece& piece) const {
  size_t done = 0;  // text before it has been handed out
  const bool empty =
      std::all_of(tries.begin(), tries.end(), [](auto* trie) { return trie->empty(); });
  size_t at = empty ? text.size() : 0;
  while (at < text.size()) {
    const std::optional<Match> match = Find(tries, text, at);
    const Verdict verdict = match ? judge(*match) : Verdict::kForget;
    if (verdict == Verdict::kForget) {
      ++at;
      continue;
    }
    at = match->end;
    if (verdict == Verdict::kLeave) continue;
    const AddedToken& token = *match->token;
    size_t start = match->begin, end = match->end;
    if (token.left_strip) start = TrailingSpace(text.substr(0, start), std::min(done, start));
    if (token.right_strip) end += LeadingSpace(text.substr(end));
    start = std::max(start, done);
    if (start > done && !piece(text.substr(done, start - done), std::nullopt)) return false;
    if (!piece(text.substr(match->begin, token.content.size()), token.id)) return false;
    done = end;  // as tokenizers: a token within stripped space gives the rest of it back
  }
  return done >= text.size() || piece(text.substr(done), std::nullopt);
}

}  // namespace conclave::router

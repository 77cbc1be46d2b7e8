#include "router/added_tokens.h"

#include <algorithm>
#include <array>

#include "router/unicode_class.h"
#include "router/utf8.h"
#include "router/white_space.h"

namespace conclave::router {
namespace {

bool IsWordCharacter(std::string_view character) {
  const Utf8Char c = FirstChar(character);
  return c.kind == Utf8Char::Kind::kValid && IsWord(c.code_point);
}

bool BeginsWithWord(std::string_view text) { return !text.empty() && IsWordCharacter(text); }

bool EndsWithWord(std::string_view text) {
  size_t start = text.size();
  while (start > 0 && (text[--start] & 0xC0) == 0x80) {
  }
  return !text.empty() && IsWordCharacter(text.substr(start));
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
  if (!nodes_[node].token) nodes_[node].token = token;
}

std::optional<AddedTokens::Trie::Found> AddedTokens::Trie::LongestPrefix(
    std::string_view text) const {
  if (!begins_[static_cast<uint8_t>(text[0])]) return std::nullopt;
  std::optional<Found> longest;
  uint32_t node = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<uint8_t>(text[i]);
    const auto& children = nodes_[node].children;
    const auto child = std::lower_bound(children.begin(), children.end(), byte,
                                        [](const auto& e, uint8_t b) { return e.first < b; });
    if (child == children.end() || child->first != byte) break;
    node = child->second;
    if (nodes_[node].token) longest = Found{*nodes_[node].token, i + 1};
  }
  return longest;
}

AddedTokens::AddedTokens(std::span<const AddedToken> tokens)
    : tokens_(tokens.begin(), tokens.end()) {
  // Of two tokens that normalize to the same, tokenizers finds the special one, then the earlier.
  for (bool special : {true, false}) {
    for (uint32_t i = 0; i < tokens_.size(); ++i) {
      const AddedToken& token = tokens_[i];
      if (token.special != special) continue;
      if (!token.normalized) {
        raw_.Add(token.content, i);
        continue;
      }
      const std::string normalized = token.normalized_content.value_or(token.content);
      if (!normalized.empty()) normalized_.Add(normalized, i);
      as_written_.Add(token.content, i);
      is_changed_ = is_changed_ || token.normalized_content.has_value();
    }
  }
}

bool AddedTokens::IsControl(const AddedToken& token, const Recognition& recognition) const {
  return token.special ||
         std::binary_search(recognition.control.begin(), recognition.control.end(), token.id);
}

std::optional<AddedTokens::Match> AddedTokens::Find(Tries tries, std::string_view text,
                                                    size_t at) const {
  std::optional<Match> longest;
  for (const Trie* const trie : tries) {
    const auto found = trie->LongestPrefix(text.substr(at));
    if (!found) continue;
    const size_t end = at + found->bytes;
    if (!longest || end > longest->end) longest = Match{at, end, &tokens_[found->token]};
  }
  return longest;
}

bool AddedTokens::MayHaveOutsideControl(std::string_view text,
                                        const Recognition& recognition) const {
  if (!recognition.special || recognition.outside.empty()) return false;
  // Many texts may become a token that is looked for in normalized text.
  if (is_changed_) return true;
  const std::array<const Trie*, 2> tries = {&raw_, &as_written_};
  for (size_t at = 0; at < text.size(); ++at) {
    const std::optional<Match> match = Find(tries, text, at);
    if (match && IsControl(*match->token, recognition) &&
        Touches(recognition.outside, match->begin, match->end)) {
      return true;
    }
  }
  return false;
}

AddedTokens::Search::Search(const AddedTokens& tokens, std::string_view text,
                            const Recognition& recognition)
    : tokens_(tokens),
      text_(text),
      recognition_(recognition),
      guarded_(tokens.MayHaveOutsideControl(text, recognition)) {}

bool AddedTokens::Search::Raw(const Piece& piece) const {
  const std::array<const Trie*, 1> raw = {&tokens_.raw_};
  if (!guarded_) {
    const auto judge = [&](const Match& match) {
      return recognition_.special || !match.token->special ? Verdict::kTake : Verdict::kLeave;
    };
    return tokens_.SplitBy(raw, text_, judge, piece);
  }
  // First our own control tokens are cut out, then there is none in what is left.
  const auto ours = [&](const Match& match) {
    if (!tokens_.IsControl(*match.token, recognition_)) return Verdict::kLeave;
    return Touches(recognition_.outside, match.begin, match.end) ? Verdict::kForget
                                                                 : Verdict::kTake;
  };
  const auto others = [&](const Match& match) {
    return tokens_.IsControl(*match.token, recognition_) ? Verdict::kLeave : Verdict::kTake;
  };
  const std::array<const Trie*, 2> all = {&tokens_.raw_, &tokens_.as_written_};
  return tokens_.SplitBy(all, text_, ours, [&](std::string_view part, std::optional<TokenId> id) {
    return id ? piece(part, id) : tokens_.SplitBy(raw, part, others, piece);
  });
}

bool AddedTokens::Search::Normalized(std::string_view part, const Piece& piece) const {
  const std::array<const Trie*, 1> normalized = {&tokens_.normalized_};
  const auto judge = [&](const Match& match) {
    const bool text = guarded_ ? tokens_.IsControl(*match.token, recognition_)
                               : match.token->special && !recognition_.special;
    return text ? Verdict::kLeave : Verdict::kTake;
  };
  return tokens_.SplitBy(normalized, part, judge, piece);
}

bool AddedTokens::SplitBy(Tries tries, std::string_view text, const Judge& judge,
                          const Piece& piece) const {
  size_t done = 0;       // text before it has been handed out
  size_t space_end = 0;  // of the white space that a token before took with it
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
    const AddedToken& token = *match->token;
    const bool within_word = token.single_word && (EndsWithWord(text.substr(0, match->begin)) ||
                                                   BeginsWithWord(text.substr(match->end)));
    if (verdict == Verdict::kLeave || within_word) continue;
    size_t start = match->begin, end = match->end;
    if (token.left_strip && start > done) start -= TrailingSpace(text.substr(done, start - done));
    if (token.right_strip) {
      // A token inside of space that was taken takes the rest of it: it is not measured again.
      if (end >= space_end) space_end = end + LeadingSpace(text.substr(end));
      end = space_end;
    }
    if (start > done && !piece(text.substr(done, start - done), std::nullopt)) return false;
    if (!piece(text.substr(match->begin, match->end - match->begin), token.id)) return false;
    done = end;  // as tokenizers: a token within stripped space gives the rest of it back
  }
  return done >= text.size() || piece(text.substr(done), std::nullopt);
}

}  // namespace conclave::router

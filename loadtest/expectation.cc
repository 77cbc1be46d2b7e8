#include "loadtest/expectation.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"

namespace conclave::loadtest {
namespace {

constexpr size_t kExcerptBytes = 40;

std::string Excerpt(std::string_view text) {
  const std::string cut(text.substr(0, kExcerptBytes));
  return "\"" + absl::Utf8SafeCHexEscape(cut) + (cut.size() < text.size() ? "...\"" : "\"");
}

std::string TokenAt(const std::vector<uint32_t>& ids, size_t index) {
  return index < ids.size() ? absl::StrFormat("%d", ids[index]) : "the end";
}

}  // namespace

void Expectation::Take(std::string_view text, std::span<const uint32_t> token_ids) {
  if (difference_) return;
  if (prompt_.expect_token_ids) TakeTokens(token_ids);
  if (prompt_.expect_text && !difference_) TakeText(text);
}

void Expectation::TakeText(std::string_view text) {
  const std::string_view rest = std::string_view(*prompt_.expect_text).substr(text_bytes_);
  const auto [wanted, got] = std::mismatch(rest.begin(), rest.end(), text.begin(), text.end());
  const auto same = static_cast<size_t>(got - text.begin());
  text_bytes_ += same;
  if (same == text.size()) return;
  difference_ = absl::StrFormat("text differs at byte %d: got %s, want %s", text_bytes_,
                                Excerpt(text.substr(same)), Excerpt(rest.substr(same)));
}

void Expectation::TakeTokens(std::span<const uint32_t> token_ids) {
  for (const uint32_t id : token_ids) {
    const std::vector<uint32_t>& wanted = *prompt_.expect_token_ids;
    if (tokens_ == wanted.size() || wanted[tokens_] != id) {
      difference_ = absl::StrFormat("token %d differs: got %d, want %s", tokens_, id,
                                    TokenAt(wanted, tokens_));
      return;
    }
    ++tokens_;
  }
}

std::optional<std::string> Expectation::Difference(bool whole) const {
  if (difference_ || !whole) return difference_;
  if (prompt_.expect_token_ids && tokens_ < prompt_.expect_token_ids->size()) {
    return absl::StrFormat("token %d differs: got the end, want %s", tokens_,
                           TokenAt(*prompt_.expect_token_ids, tokens_));
  }
  if (prompt_.expect_text && text_bytes_ < prompt_.expect_text->size()) {
    return absl::StrFormat("text ends at byte %d, want %s", text_bytes_,
                           Excerpt(std::string_view(*prompt_.expect_text).substr(text_bytes_)));
  }
  return std::nullopt;
}

}  // namespace conclave::loadtest

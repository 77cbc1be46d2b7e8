#include "router/chat/strings.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_set>

#include "router/chat/characters.h"

namespace conclave::router::chat {
namespace {

using Mapping = std::string (*)(char32_t);

// Whether the sigma at `at` ends a word (Unicode's Final_Sigma).
bool IsFinalSigma(std::string_view bytes, size_t at) {
  size_t begin = at;
  Character before = {0, 0};
  while (begin > 0) {
    before = CharacterBefore(bytes, begin);
    if (!IsCaseIgnorable(before.code_point)) break;
    begin -= before.bytes;
  }
  if (begin == 0 || !IsCased(before.code_point)) return false;
  for (size_t next = at + CharacterAt(bytes, at).bytes; next < bytes.size();) {
    const Character after = CharacterAt(bytes, next);
    if (!IsCaseIgnorable(after.code_point)) return !IsCased(after.code_point);
    next += after.bytes;
  }
  return true;
}

// Each character by what `pick` says of it, which sees them in order.
template <typename Pick>
Text Map(Work& work, const Text& text, Pick pick) {
  Text mapped;
  if (!work.Make(text.size())) return mapped;
  const std::string& bytes = text.bytes();
  for (size_t at = 0; at < bytes.size();) {
    const Character c = CharacterAt(bytes, at);
    const Mapping mapping = pick(c.code_point);
    const bool final_sigma = c.code_point == 0x3A3 && mapping == ToLower && IsFinalSigma(bytes, at);
    mapped.AppendMade(final_sigma ? "\u03C2" : mapping(c.code_point), text, at);
    at += c.bytes;
  }
  return mapped;
}

bool IsLineEnd(char32_t c) {
  return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 ||
         c == 0x2029;
}

std::vector<Value> SplitAtSpace(Work& work, const Text& text, int64_t limit) {
  std::vector<Value> parts;
  const std::string& bytes = text.bytes();
  size_t at = 0;
  const auto skip = [&](bool space) {
    while (at < bytes.size()) {
      const Character c = CharacterAt(bytes, at);
      if (IsSpace(c.code_point) != space) break;
      at += c.bytes;
    }
  };
  for (skip(true); at < bytes.size() && !work.failed(); skip(true)) {
    const size_t begin = at;
    if (limit >= 0 && static_cast<int64_t>(parts.size()) == limit) {
      parts.push_back(MakeString(work, text.Part(begin, bytes.size())));
      break;
    }
    skip(false);
    parts.push_back(MakeString(work, text.Part(begin, at)));
  }
  return parts;
}

// Counts one search.
bool Search(Work& work, const Text& text, const Text& what) {
  return work.Visit(text.size() * (1 + std::min<size_t>(what.size(), 256) / 64));
}

bool NeedSeparator(Work& work, const Text& separator) {
  if (separator.empty()) work.Fail("empty separator");
  return !work.failed();
}

}  // namespace

Text Upper(Work& work, const Text& text) {
  return Map(work, text, [](char32_t) { return ToUpper; });
}

Text Lower(Work& work, const Text& text) {
  return Map(work, text, [](char32_t) { return ToLower; });
}

Text Capitalize(Work& work, const Text& text) {
  bool first = true;
  return Map(work, text, [&](char32_t) { return std::exchange(first, false) ? ToTitle : ToLower; });
}

Text TitleCase(Work& work, const Text& text) {
  bool in_word = false;
  return Map(work, text, [&](char32_t c) {
    const bool cased = IsUpper(c) || IsLower(c);
    return std::exchange(in_word, cased) ? ToLower : ToTitle;
  });
}

Text SwapCase(Work& work, const Text& text) {
  return Map(work, text, [](char32_t c) { return IsUpper(c) ? ToLower : ToUpper; });
}

Text Strip(Work& work, const Text& text, const Text* chars, Side side) {
  if (!work.Make(text.size())) return {};
  std::unordered_set<char32_t> stripped;
  // A look-up for every character costs more than a look at it.
  if (chars != nullptr && work.Make(chars->size() * 16) && work.Visit(text.size() * 8)) {
    for (size_t at = 0; at < chars->size();) {
      const Character c = CharacterAt(chars->bytes(), at);
      stripped.insert(c.code_point);
      at += c.bytes;
    }
  }
  const auto goes = [&](char32_t c) {
    return chars == nullptr ? IsSpace(c) : stripped.contains(c);
  };
  size_t begin = 0, end = text.size();
  while (side != Side::kRight && begin < end) {
    const Character c = CharacterAt(text.bytes(), begin);
    if (!goes(c.code_point)) break;
    begin += c.bytes;
  }
  while (side != Side::kLeft && end > begin) {
    const Character c = CharacterBefore(text.bytes(), end);
    if (!goes(c.code_point)) break;
    end -= c.bytes;
  }
  return text.Part(begin, end);
}

std::vector<Value> Split(Work& work, const Text& text, const Text* separator, int64_t limit) {
  std::vector<Value> parts;
  if (separator == nullptr) {
    return work.Visit(text.size()) ? SplitAtSpace(work, text, limit) : parts;
  }
  if (!NeedSeparator(work, *separator) || !Search(work, text, *separator)) return parts;
  size_t begin = 0;
  while (!work.failed() && (limit < 0 || static_cast<int64_t>(parts.size()) < limit)) {
    const size_t found = FindBytes(text.bytes(), separator->bytes(), begin);
    if (found == std::string::npos) break;
    parts.push_back(MakeString(work, text.Part(begin, found)));
    begin = found + separator->size();
  }
  parts.push_back(MakeString(work, text.Part(begin, text.size())));
  return parts;
}

std::vector<Value> SplitRight(Work& work, const Text& text, const Text* separator, int64_t limit) {
  if (limit < 0) return Split(work, text, separator, limit);
  std::vector<Value> parts;
  if (separator == nullptr) {
    work.Fail("rsplit needs a separator where it has a limit");
    return parts;
  }
  if (!NeedSeparator(work, *separator)) return parts;
  Text rest = text;
  while (!work.failed() && static_cast<int64_t>(parts.size()) < limit) {
    const std::optional<size_t> found = FindLast(work, rest, *separator);
    if (!found) break;
    parts.push_back(MakeString(work, rest.Part(*found + separator->size(), rest.size())));
    if (!work.Make(*found)) break;
    rest = rest.Part(0, *found);
  }
  parts.push_back(MakeString(work, std::move(rest)));
  std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<Value> SplitLines(Work& work, const Text& text, bool keep_ends) {
  std::vector<Value> lines;
  const std::string& bytes = text.bytes();
  size_t begin = 0;
  for (size_t at = 0; at < bytes.size() && !work.failed();) {
    const Character c = CharacterAt(bytes, at);
    size_t next = at + c.bytes;
    if (IsLineEnd(c.code_point)) {
      if (c.code_point == '\r' && next < bytes.size() && bytes[next] == '\n') ++next;
      lines.push_back(MakeString(work, text.Part(begin, keep_ends ? next : at)));
      begin = next;
    }
    at = next;
  }
  if (begin < bytes.size()) lines.push_back(MakeString(work, text.Part(begin, bytes.size())));
  return lines;
}

Text Replace(Work& work, const Text& text, const Text& old, const Text& by, int64_t limit) {
  Text replaced;
  if (!work.Make(text.size()) || !Search(work, text, old)) return replaced;
  size_t done = 0;
  for (int64_t count = 0; (limit < 0 || count < limit) && !work.failed(); ++count) {
    size_t found = done;
    if (!old.empty()) {
      found = FindBytes(text.bytes(), old.bytes(), done);
      if (found == std::string::npos) break;
      replaced.AppendPart(text, done, found);
    } else if (count > 0) {
      // An empty one is before every character and at the end.
      if (done == text.size()) break;
      found = done + CharacterAt(text.bytes(), done).bytes;
      replaced.AppendPart(text, done, found);
    }
    if (!work.Make(by.held_bytes())) break;
    replaced.Append(by);
    done = found + old.size();
  }
  replaced.AppendPart(text, done, text.size());
  return replaced;
}

int64_t CountOf(Work& work, const Text& text, const Text& what) {
  if (!Search(work, text, what)) return 0;
  if (what.empty()) return static_cast<int64_t>(CharacterCount(text.bytes())) + 1;
  int64_t count = 0;
  for (size_t at = 0; work.Step(); ++count) {
    at = FindBytes(text.bytes(), what.bytes(), at);
    if (at == std::string::npos) break;
    at += what.size();
  }
  return count;
}

std::optional<size_t> Find(Work& work, const Text& text, const Text& what) {
  if (what.empty()) return 0;
  if (!Search(work, text, what)) return std::nullopt;
  const size_t found = FindBytes(text.bytes(), what.bytes());
  return found == std::string::npos ? std::nullopt : std::optional<size_t>(found);
}

std::optional<size_t> FindLast(Work& work, const Text& text, const Text& what) {
  if (what.empty()) return text.size();
  if (!Search(work, text, what)) return std::nullopt;
  // From the end both read backwards, so that the search stays linear.
  const std::string reversed(text.bytes().rbegin(), text.bytes().rend());
  const std::string wanted(what.bytes().rbegin(), what.bytes().rend());
  const size_t found = FindBytes(reversed, wanted);
  if (found == std::string::npos) return std::nullopt;
  return text.size() - found - what.size();
}

bool Contains(Work& work, const Text& text, const Text& what) {
  return Find(work, text, what).has_value();
}

Text Repeat(Work& work, const Text& text, int64_t times) {
  Text repeated;
  if (times <= 0 || text.empty()) return repeated;
  size_t bytes = 0;
  const bool endless =
      __builtin_mul_overflow(text.held_bytes(), static_cast<size_t>(times), &bytes);
  if (!work.Make(endless ? SIZE_MAX / 2 : bytes)) return repeated;
  for (int64_t i = 0; i < times; ++i) repeated.Append(text);
  return repeated;
}

Text Escape(Work& work, const Text& text) {
  Text escaped;
  if (!work.Make(text.size())) return escaped;
  size_t plain = 0;
  const std::string& bytes = text.bytes();
  for (size_t at = 0; at < bytes.size(); ++at) {
    std::string_view entity;
    switch (bytes[at]) {
      case '&':
        entity = "&amp;";
        break;
      case '<':
        entity = "&lt;";
        break;
      case '>':
        entity = "&gt;";
        break;
      case '"':
        entity = "&#34;";
        break;
      case '\'':
        entity = "&#39;";
        break;
      default:
        continue;
    }
    escaped.AppendPart(text, plain, at);
    escaped.AppendMade(entity, text, at);
    plain = at + 1;
  }
  escaped.AppendPart(text, plain, bytes.size());
  return escaped;
}

}  // namespace conclave::router::chat

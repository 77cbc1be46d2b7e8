#include "router/gpt2_words.h"

#include "router/unicode_class.h"
#include "router/utf8.h"

namespace conclave::router {
namespace {

// The length of the word that begins with one of GPT-2's English contractions, or 0.
size_t ContractionAt(std::string_view text) {
  if (text.size() < 2 || text[0] != '\'') return 0;
  switch (text[1]) {
    case 's':
    case 't':
    case 'm':
    case 'd':
      return 2;
    case 'r':
    case 'v':
      return text.size() > 2 && text[2] == 'e' ? 3 : 0;
    case 'l':
      return text.size() > 2 && text[2] == 'l' ? 3 : 0;
    default:
      return 0;
  }
}

// Where the run of unicode_class that begins at from ends.
size_t RunEnd(std::string_view text, size_t from, UnicodeClass unicode_class) {
  while (from < text.size()) {
    const Utf8Char c = FirstChar(text.substr(from));
    if (ClassOf(c.code_point) != unicode_class) break;
    from += c.bytes;
  }
  return from;
}

// \s+(?!\S)|\s+ at text, which begins with a space: a run before a word leaves its last space to
// it.
size_t SpacesAt(std::string_view text) {
  size_t end = 0, last = 0;
  while (end < text.size()) {
    const Utf8Char c = FirstChar(text.substr(end));
    if (ClassOf(c.code_point) != UnicodeClass::kSpace) return last == 0 ? end : last;
    last = end;
    end += c.bytes;
  }
  return end;
}

}  // namespace

size_t Gpt2WordAt(std::string_view text) {
  if (const size_t length = ContractionAt(text)) return length;
  const size_t start = text[0] == ' ' && text.size() > 1 ? 1 : 0;
  const UnicodeClass first = ClassOf(FirstChar(text.substr(start)).code_point);
  if (first == UnicodeClass::kSpace) return SpacesAt(text);
  return RunEnd(text, start, first);
}

}  // namespace conclave::router

#pragma once
// Python's string operations on texts. Each counts what it looks at and makes, and keeps in mind
// what came from outside. One thread.

#include <cstdint>
#include <optional>
#include <vector>

#include "router/chat/text.h"
#include "router/chat/value.h"
#include "router/chat/work.h"

namespace conclave::router::chat {

Text Upper(Work& work, const Text& text);
Text Lower(Work& work, const Text& text);
// The first character as a title, the others small.
Text Capitalize(Work& work, const Text& text);
// As str.title does: every letter that follows none is a title.
Text TitleCase(Work& work, const Text& text);
Text SwapCase(Work& work, const Text& text);

enum class Side : uint8_t { kLeft = 1, kRight = 2, kBoth = 3 };
// Without the characters of `chars` at the ends; without chars, white space.
Text Strip(Work& work, const Text& text, const Text* chars, Side side);

// At most `limit` cuts if that is not negative. Without a separator at runs of white space.
std::vector<Value> Split(Work& work, const Text& text, const Text* separator, int64_t limit);
std::vector<Value> SplitRight(Work& work, const Text& text, const Text* separator, int64_t limit);
std::vector<Value> SplitLines(Work& work, const Text& text, bool keep_ends);

// At most `limit` times if that is not negative.
Text Replace(Work& work, const Text& text, const Text& old, const Text& by, int64_t limit);
int64_t CountOf(Work& work, const Text& text, const Text& what);
// The byte where `what` first, or last, is.
std::optional<size_t> Find(Work& work, const Text& text, const Text& what);
std::optional<size_t> FindLast(Work& work, const Text& text, const Text& what);
bool Contains(Work& work, const Text& text, const Text& what);

Text Repeat(Work& work, const Text& text, int64_t times);
// & < > " ' as HTML has them.
Text Escape(Work& work, const Text& text);

}  // namespace conclave::router::chat

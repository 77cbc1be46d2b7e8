// The methods of strings that templates call: content.strip(), content.split('</think>').

#include <algorithm>
#include <array>
#include <utility>

#include "router/chat/arguments.h"
#include "router/chat/characters.h"
#include "router/chat/format.h"
#include "router/chat/methods.h"
#include "router/chat/print.h"
#include "router/chat/strings.h"

namespace conclave::router::chat {
namespace {

template <Text (*kMap)(Work&, const Text&)>
Value Mapped(Work& work, const Value& self, const Arguments& arguments) {
  Parameters(work, "a string's method", arguments, {});
  return MakeString(work, kMap(work, *self.text()), self.markup());
}

template <Side kSide>
Value StripMethod(Work& work, const Value& self, const Arguments& arguments) {
  const Parameters parameters(work, "strip", arguments, {"chars"});
  return MakeString(work, Strip(work, *self.text(), parameters.String(0), kSide), self.markup());
}

using Splitter = std::vector<Value> (*)(Work&, const Text&, const Text*, int64_t);

template <Splitter kSplit>
Value SplitMethod(Work& work, const Value& self, const Arguments& arguments) {
  const Parameters parameters(work, "split", arguments, {"sep", "maxsplit"});
  const Text* const separator = parameters.String(0);
  const int64_t limit = parameters.Integer(1, -1);
  if (work.failed()) return {};
  return MakeSequence(work, kSplit(work, *self.text(), separator, limit));
}

Value SplitLinesMethod(Work& work, const Value& self, const Arguments& arguments) {
  const Parameters parameters(work, "splitlines", arguments, {"keepends"});
  return MakeSequence(work, SplitLines(work, *self.text(), parameters.Truth(0, false)));
}

// What the start and end of a method's arguments, numbers `first` and the next, leave of the text.
struct Window {
  Text text;
  int64_t skipped = 0;   // characters before it
  bool outside = false;  // it begins behind the end
};

Window TakeWindow(Work& work, const Text& text, const Parameters& parameters, size_t first) {
  if (parameters[first] == nullptr && parameters[first + 1] == nullptr) return {text};
  if (!work.Make(text.held_bytes())) return {};
  const auto size = static_cast<int64_t>(CharacterCount(text.bytes()));
  const auto bound = [&](size_t index, int64_t otherwise) {
    const Value* const given = parameters[index];
    const int64_t at =
        given == nullptr || given->Is<None>() ? otherwise : parameters.Integer(index, otherwise);
    return at < 0 ? std::max<int64_t>(at + size, 0) : at;
  };
  const int64_t start = bound(first, 0), end = std::min(bound(first + 1, size), size);
  if (start > end) return {.skipped = start, .outside = true};
  const size_t begin = CharacterOffset(text.bytes(), static_cast<size_t>(start));
  return {text.Part(begin, CharacterOffset(text.bytes(), static_cast<size_t>(end))), start};
}

bool HasAffix(const Text& text, const Text& affix, bool front) {
  return front ? text.bytes().starts_with(affix.bytes()) : text.bytes().ends_with(affix.bytes());
}

template <bool kFront>
Value AffixTest(Work& work, const Value& self, const Arguments& arguments) {
  const Parameters parameters(work, kFront ? "startswith" : "endswith", arguments,
                              {"prefix", "start", "end"});
  const Value& affix = parameters.Need(0);
  const Window window = TakeWindow(work, *self.text(), parameters, 1);
  if (work.failed() || !work.Visit(window.text.size())) return {};
  const auto has = [&](const Text& one) {
    return !window.outside && HasAffix(window.text, one, kFront);
  };
  if (affix.text() != nullptr) return has(*affix.text());
  const Sequence* const several = affix.sequence();
  if (several != nullptr && several->kind == Sequence::Kind::kTuple) {
    return std::any_of(several->items.begin(), several->items.end(),
                       [&](const Value& one) { return one.text() != nullptr && has(*one.text()); });
  }
  work.Fail("startswith and endswith take a string or a tuple of strings, not " + TypeName(affix));
  return {};
}

template <bool kFront>
Value WithoutAffix(Work& work, const Value& self, const Arguments& arguments) {
  const Parameters parameters(work, kFront ? "removeprefix" : "removesuffix", arguments, {"affix"});
  const Text* const affix = parameters.String(0);
  const Text& text = *self.text();
  if (affix == nullptr) {
    parameters.Need(0);
    work.Fail("removeprefix and removesuffix take a string");
    return {};
  }
  if (!HasAffix(text, *affix, kFront)) return self;
  return MakeString(work, kFront ? text.Part(affix->size(), text.size())
                                 : text.Part(0, text.size() - affix->size()));
}

Value ReplaceMethod(Work& work, const Value& self, const Arguments& arguments) {
  const Parameters parameters(work, "replace", arguments, {"old", "new", "count"});
  parameters.Need(0);
  parameters.Need(1);
  const Text* const old = parameters.String(0);
  const Text* const by = parameters.String(1);
  if (old == nullptr || by == nullptr) work.Fail("replace takes strings");
  const int64_t limit = parameters.Integer(2, -1);
  if (work.failed()) return {};
  return MakeString(work, Replace(work, *self.text(), *old, *by, limit));
}

Value JoinMethod(Work& work, const Value& self, const Arguments& arguments) {
  const Parameters parameters(work, "join", arguments, {"iterable"});
  Text joined;
  bool first = true;
  for (const Value& item : Items(work, parameters.Need(0))) {
    if (item.text() == nullptr) work.Fail("join takes strings, not " + TypeName(item));
    if (work.failed() || !work.Make(item.text()->held_bytes() + self.text()->held_bytes()))
      return {};
    if (!std::exchange(first, false)) joined.Append(*self.text());
    joined.Append(*item.text());
  }
  return MakeString(work, std::move(joined));
}

int64_t CharactersBefore(const Text& text, size_t at) {
  return static_cast<int64_t>(CharacterCount(std::string_view(text.bytes()).substr(0, at)));
}

using Finder = std::optional<size_t> (*)(Work&, const Text&, const Text&);

template <Finder kFind, bool kMust>
Value FindMethodOf(Work& work, const Value& self, const Arguments& arguments) {
  const Parameters parameters(work, kMust ? "index" : "find", arguments, {"sub", "start", "end"});
  parameters.Need(0);
  const Text* const what = parameters.String(0);
  if (what == nullptr) work.Fail("find and index take a string");
  const Window window = TakeWindow(work, *self.text(), parameters, 1);
  if (work.failed()) return {};
  const std::optional<size_t> found =
      window.outside ? std::nullopt : kFind(work, window.text, *what);
  if (kMust && !found) work.Fail("substring not found");
  return found ? Value(window.skipped + CharactersBefore(window.text, *found)) : Value(int64_t{-1});
}

Value CountMethod(Work& work, const Value& self, const Arguments& arguments) {
  const Parameters parameters(work, "count", arguments, {"sub", "start", "end"});
  parameters.Need(0);
  const Text* const what = parameters.String(0);
  if (what == nullptr) work.Fail("count takes a string");
  const Window window = TakeWindow(work, *self.text(), parameters, 1);
  if (work.failed()) return {};
  return window.outside ? int64_t{0} : CountOf(work, window.text, *what);
}

template <Finder kFind>
Value PartitionMethod(Work& work, const Value& self, const Arguments& arguments) {
  const Parameters parameters(work, "partition", arguments, {"sep"});
  parameters.Need(0);
  const Text* const separator = parameters.String(0);
  if (separator == nullptr || separator->empty()) work.Fail("partition takes a separator");
  if (work.failed()) return {};
  const Text& text = *self.text();
  const std::optional<size_t> found = kFind(work, text, *separator);
  std::vector<Value> parts;
  if (found) {
    parts = {MakeString(work, text.Part(0, *found)), MakeString(work, *separator),
             MakeString(work, text.Part(*found + separator->size(), text.size()))};
  } else if (kFind == FindLast) {
    parts = {MakeString(work, ""), MakeString(work, ""), self};
  } else {
    parts = {self, MakeString(work, ""), MakeString(work, "")};
  }
  return MakeSequence(work, std::move(parts), Sequence::Kind::kTuple);
}

// How much of the room is before the text, in halves: 2 all of it, 0 none.
template <int kBefore>
Value Justify(Work& work, const Value& self, const Arguments& arguments) {
  const Parameters parameters(work, "justify", arguments, {"width", "fillchar"});
  parameters.Need(0);
  const int64_t width = parameters.Integer(0, 0);
  const Text* const fill = parameters.String(1);
  const Text& text = *self.text();
  const auto size = static_cast<int64_t>(CharacterCount(text.bytes()));
  if (fill != nullptr && CharacterCount(fill->bytes()) != 1) work.Fail("fillchar is one character");
  if (work.failed() || width <= size) return work.failed() ? Value() : self;
  const int64_t missing = width - size;
  // As CPython, which puts the odd one of center() before if the width is odd.
  const int64_t before = kBefore == 1 ? missing / 2 + (missing & width & 1) : missing * kBefore / 2;
  const Text pad = fill == nullptr ? Text(" ") : *fill;
  Text justified = Repeat(work, pad, before);
  justified.Append(text);
  justified.Append(Repeat(work, pad, missing - before));
  return MakeString(work, std::move(justified));
}

Value FillZeros(Work& work, const Value& self, const Arguments& arguments) {
  const Parameters parameters(work, "zfill", arguments, {"width"});
  parameters.Need(0);
  const Text& text = *self.text();
  const auto size = static_cast<int64_t>(CharacterCount(text.bytes()));
  const int64_t missing = parameters.Integer(0, 0) - size;
  if (work.failed() || missing <= 0) return self;
  const bool sign = !text.empty() && (text.bytes()[0] == '-' || text.bytes()[0] == '+');
  Text filled = text.Part(0, sign ? 1 : 0);
  filled.Append(Repeat(work, Text("0"), missing));
  filled.AppendPart(text, sign ? 1 : 0, text.size());
  return MakeString(work, std::move(filled));
}

using Predicate = bool (*)(char32_t);

bool IsAlphanumeric(char32_t c) { return IsAlpha(c) || IsDigit(c); }

template <Predicate kIs>
Value AllAre(Work& work, const Value& self, const Arguments& arguments) {
  Parameters(work, "a string's test", arguments, {});
  const Text& text = *self.text();
  if (!work.Visit(text.size())) return {};
  for (size_t at = 0; at < text.size();) {
    const Character c = CharacterAt(text.bytes(), at);
    if (!kIs(c.code_point)) return false;
    at += c.bytes;
  }
  return !text.empty();
}

Value IsAscii(Work& work, const Value& self, const Arguments& arguments) {
  Parameters(work, "isascii", arguments, {});
  const std::string& bytes = self.text()->bytes();
  if (!work.Visit(bytes.size())) return {};
  return std::all_of(bytes.begin(), bytes.end(),
                     [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

// Letters of one case and none of the other.
template <Predicate kWanted, Predicate kOther>
Value CaseIs(Work& work, const Value& self, const Arguments& arguments) {
  Parameters(work, "a string's test", arguments, {});
  const Text& text = *self.text();
  if (!work.Visit(text.size())) return {};
  bool wanted = false;
  for (size_t at = 0; at < text.size();) {
    const Character c = CharacterAt(text.bytes(), at);
    if (kOther(c.code_point)) return false;
    wanted = wanted || kWanted(c.code_point);
    at += c.bytes;
  }
  return wanted;
}

Value FormatMethod(Work& work, const Value& self, const Arguments& arguments) {
  return MakeString(work, FormatBraces(work, *self.text(), arguments));
}

struct Method {
  std::string_view name;
  Native native;
};

constexpr std::array kMethods = {
    Method{"capitalize", Mapped<Capitalize>},
    Method{"casefold", Mapped<Lower>},
    Method{"center", Justify<1>},
    Method{"count", CountMethod},
    Method{"endswith", AffixTest<false>},
    Method{"find", FindMethodOf<Find, false>},
    Method{"format", FormatMethod},
    Method{"index", FindMethodOf<Find, true>},
    Method{"isalnum", AllAre<IsAlphanumeric>},
    Method{"isalpha", AllAre<IsAlpha>},
    Method{"isascii", IsAscii},
    Method{"isdigit", AllAre<IsDigit>},
    Method{"islower", CaseIs<IsLower, IsUpper>},
    Method{"isspace", AllAre<IsSpace>},
    Method{"isupper", CaseIs<IsUpper, IsLower>},
    Method{"join", JoinMethod},
    Method{"ljust", Justify<0>},
    Method{"lower", Mapped<Lower>},
    Method{"lstrip", StripMethod<Side::kLeft>},
    Method{"partition", PartitionMethod<Find>},
    Method{"removeprefix", WithoutAffix<true>},
    Method{"removesuffix", WithoutAffix<false>},
    Method{"replace", ReplaceMethod},
    Method{"rfind", FindMethodOf<FindLast, false>},
    Method{"rindex", FindMethodOf<FindLast, true>},
    Method{"rjust", Justify<2>},
    Method{"rpartition", PartitionMethod<FindLast>},
    Method{"rsplit", SplitMethod<SplitRight>},
    Method{"rstrip", StripMethod<Side::kRight>},
    Method{"split", SplitMethod<Split>},
    Method{"splitlines", SplitLinesMethod},
    Method{"startswith", AffixTest<true>},
    Method{"strip", StripMethod<Side::kBoth>},
    Method{"swapcase", Mapped<SwapCase>},
    Method{"title", Mapped<TitleCase>},
    Method{"upper", Mapped<Upper>},
    Method{"zfill", FillZeros},
};

}  // namespace

Native FindStringMethod(std::string_view name) {
  const auto found = std::find_if(kMethods.begin(), kMethods.end(),
                                  [&](const Method& method) { return method.name == name; });
  return found == kMethods.end() ? nullptr : found->native;
}

}  // namespace conclave::router::chat

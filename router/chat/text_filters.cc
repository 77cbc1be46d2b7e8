// Filters over one value: text, numbers, JSON.

#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <utility>

#include "router/chat/access.h"
#include "router/chat/arguments.h"
#include "router/chat/characters.h"
#include "router/chat/filters.h"
#include "router/chat/format.h"
#include "router/chat/json.h"
#include "router/chat/methods.h"
#include "router/chat/print.h"
#include "router/chat/strings.h"

namespace conclave::router::chat {
namespace {

template <Text (*kMap)(Work&, const Text&)>
Value Mapped(Work& work, const Value& self, const Arguments& arguments) {
  Parameters(work, "a filter", arguments, {});
  return MakeString(work, kMap(work, Str(work, self)), self.markup());
}

bool IsBetweenWords(char32_t c) {
  return IsSpace(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<';
}

// Words are cut at white space, hyphens and opening brackets, unlike str.title().
Text TitleWords(Work& work, const Text& text) {
  Text titled;
  const std::string& bytes = text.bytes();
  for (size_t at = 0; at < bytes.size() && work.Step();) {
    const Character first = CharacterAt(bytes, at);
    const size_t rest = at + first.bytes;
    size_t end = rest;
    const bool between = IsBetweenWords(first.code_point);
    while (!between && end < bytes.size()) {
      const Character c = CharacterAt(bytes, end);
      if (IsBetweenWords(c.code_point)) break;
      end += c.bytes;
    }
    titled.AppendMade(ToUpper(first.code_point), text, at);
    titled.Append(Lower(work, text.Part(rest, end)));
    at = end;
  }
  return titled;
}

Value Trim(Work& work, const Value& self, const Arguments& arguments) {
  const Parameters parameters(work, "trim", arguments, {"chars"});
  const Text* const chars = parameters.String(0);
  return MakeString(work, Strip(work, Str(work, self), chars, Side::kBoth), self.markup());
}

Value ReplaceText(Work& work, const Value& self, const Arguments& arguments) {
  const Parameters parameters(work, "replace", arguments, {"old", "new", "count"});
  const Text old = Str(work, parameters.Need(0));
  const Text by = Str(work, parameters.Need(1));
  const bool all = parameters[2] == nullptr || parameters[2]->Is<None>();
  const int64_t limit = all ? -1 : parameters.Integer(2, -1);
  if (work.failed()) return {};
  return MakeString(work, Replace(work, Str(work, self), old, by, limit));
}

Value Format(Work& work, const Value& self, const Arguments& arguments) {
  if (!arguments.keyword.empty()) {
    if (!arguments.positional.empty()) work.Fail("format takes positions or names, not both");
    Dict named;
    for (const auto& [name, value] : arguments.keyword)
      named.Set(work, MakeName(work, name), value);
    const Value values = MakeDict(work, std::move(named));
    return MakeString(work, FormatPercent(work, Str(work, self), values));
  }
  const Value values = MakeSequence(work, arguments.positional, Sequence::Kind::kTuple);
  if (work.failed()) return {};
  return MakeString(work, FormatPercent(work, Str(work, self), values), self.markup());
}

Value Indent(Work& work, const Value& self, const Arguments& arguments) {
  const Parameters parameters(work, "indent", arguments, {"width", "first", "blank"});
  const bool by_text = parameters[0] != nullptr && parameters[0]->IsString();
  Text indention =
      by_text ? *parameters.String(0) : Repeat(work, Text(" "), parameters.Integer(0, 4));
  const bool blank = parameters.Truth(2, false);
  if (self.text() == nullptr) work.Fail("indent takes a string, not a " + TypeName(self));
  if (work.failed()) return {};
  Text source = *self.text();
  source.Append("\n");
  Text indented;
  bool first = true;
  for (const Value& line : SplitLines(work, source, false)) {
    if (work.failed() || !work.Make(indention.size())) return {};
    if (!first) indented.Append("\n");
    const bool wanted = first ? parameters.Truth(1, false) : blank || !line.text()->empty();
    if (wanted) indented.Append(indention);
    indented.Append(*line.text());
    first = false;
  }
  return MakeString(work, std::move(indented), self.markup());
}

Value Truncate(Work& work, const Value& self, const Arguments& arguments) {
  const Parameters parameters(work, "truncate", arguments,
                              {"length", "killwords", "end", "leeway"});
  const int64_t length = parameters.Integer(0, 255);
  const int64_t leeway = parameters.Integer(3, 5);
  const Text* const given = parameters.String(2);
  const Text end = given == nullptr ? Text("...") : *given;
  const auto tail = static_cast<int64_t>(CharacterCount(end.bytes()));
  if (self.text() == nullptr) work.Fail("truncate takes a string");
  if (length < tail || leeway < 0) work.Fail("truncate: 'length' is less than its end has");
  if (work.failed() || !work.Visit(self.text()->size())) return {};
  const Text& text = *self.text();
  if (static_cast<int64_t>(CharacterCount(text.bytes())) <= length + leeway) return self;
  Text kept = text.Part(0, CharacterOffset(text.bytes(), static_cast<size_t>(length - tail)));
  if (!parameters.Truth(1, false)) {
    if (const auto space = FindLast(work, kept, Text(" "))) kept = kept.Part(0, *space);
  }
  kept.Append(end);
  return MakeString(work, std::move(kept));
}

Value AsString(Work& work, const Value& self, const Arguments& arguments) {
  Parameters(work, "string", arguments, {});
  return self.IsString() ? self : MakeString(work, Str(work, self));
}

Value Safe(Work& work, const Value& self, const Arguments& arguments) {
  Parameters(work, "safe", arguments, {});
  return MakeString(work, Str(work, self), /*markup=*/true);
}

Value EscapeMarkup(Work& work, const Value& self, const Arguments& arguments) {
  Parameters(work, "escape", arguments, {});
  return self.markup() ? self : MakeString(work, Escape(work, Str(work, self)), /*markup=*/true);
}

Value ForceEscape(Work& work, const Value& self, const Arguments& arguments) {
  Parameters(work, "forceescape", arguments, {});
  return MakeString(work, Escape(work, Str(work, self)), /*markup=*/true);
}

Value Center(Work& work, const Value& self, const Arguments& arguments) {
  const Parameters parameters(work, "center", arguments, {"width"});
  const Value text = MakeString(work, Str(work, self));
  if (work.failed()) return {};
  return FindStringMethod("center")(work, text, {.positional = {parameters.Integer(0, 80)}});
}

Value CountWords(Work& work, const Value& self, const Arguments& arguments) {
  Parameters(work, "wordcount", arguments, {});
  const Text text = Str(work, self);
  int64_t words = 0;
  bool inside = false;
  for (size_t at = 0; at < text.size() && work.Step();) {
    const Character c = CharacterAt(text.bytes(), at);
    const bool word = c.code_point == '_' || IsAlpha(c.code_point) || IsDigit(c.code_point);
    words += word && !inside ? 1 : 0;
    inside = word;
    at += c.bytes;
  }
  return words;
}

// As urllib.parse.quote leaves it.
Value UrlEncode(Work& work, const Value& self, const Arguments& arguments) {
  Parameters(work, "urlencode", arguments, {});
  if (self.dict() != nullptr || self.sequence() != nullptr) {
    work.Fail("urlencode of a " + TypeName(self) + " is not supported");
  }
  const Text text = Str(work, self);
  Text quoted;
  for (size_t at = 0; at < text.size() && work.Step(); ++at) {
    const auto byte = static_cast<unsigned char>(text.bytes()[at]);
    const bool plain = (byte >= '0' && byte <= '9') || (byte >= 'A' && byte <= 'Z') ||
                       (byte >= 'a' && byte <= 'z') ||
                       (byte != 0 && std::string_view("_.-~/").find(static_cast<char>(byte)) !=
                                         std::string_view::npos);
    if (plain) {
      quoted.AppendPart(text, at, at + 1);
    } else {
      char hexadecimal[4];
      std::snprintf(hexadecimal, sizeof hexadecimal, "%%%02X", byte);
      quoted.AppendMade(hexadecimal, text, at);
    }
  }
  return MakeString(work, std::move(quoted));
}

std::string Plain(const Text& text) {
  std::string digits = text.bytes();
  const size_t begin = digits.find_first_not_of(" \t\n\r\f\v");
  if (begin == std::string::npos) return {};
  digits = digits.substr(begin, digits.find_last_not_of(" \t\n\r\f\v") - begin + 1);
  return digits;
}

std::optional<double> ReadFloat(const Text& text) {
  std::string digits = Plain(text);
  if (digits.starts_with('+')) digits.erase(0, 1);
  const bool bare = !digits.empty() && digits.find_first_of("xXpP()") == std::string::npos;
  double value = 0;
  const auto read = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (!bare || read.ptr != digits.data() + digits.size()) return std::nullopt;
  if (read.ec == std::errc::result_out_of_range) return std::strtod(digits.c_str(), nullptr);
  return read.ec == std::errc() ? std::optional<double>(value) : std::nullopt;
}

std::optional<int64_t> ReadInteger(Work& work, const Text& text, int base) {
  std::string digits = Plain(text);
  std::erase(digits, '_');
  if (digits.starts_with('+')) digits.erase(0, 1);
  const size_t sign = digits.starts_with('-') ? 1 : 0;
  const std::string_view prefix = base == 16 ? "0x" : base == 8 ? "0o" : base == 2 ? "0b" : "";
  if (!prefix.empty() && digits.compare(sign, 2, prefix) == 0) digits.erase(sign, 2);
  int64_t value = 0;
  const auto read = std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
  if (digits.empty() || read.ptr != digits.data() + digits.size()) return std::nullopt;
  if (read.ec == std::errc::result_out_of_range) work.Fail("int: the number is beyond 64 bits");
  return read.ec == std::errc() ? std::optional<int64_t>(value) : std::nullopt;
}

Value AsInteger(Work& work, const Value& self, const Arguments& arguments) {
  const Parameters parameters(work, "int", arguments, {"default", "base"});
  const Value otherwise = parameters[0] == nullptr ? Value(int64_t{0}) : *parameters[0];
  const int64_t base = parameters.Integer(1, 10);
  if (base < 2 || base > 36) work.Fail("int: 'base' is not within 2 and 36");
  if (self.IsUndefined()) FailUndefined(work, self);
  if (work.failed()) return {};
  if (const auto whole = self.integer()) return *whole;
  std::optional<double> number = self.number();
  if (const Text* const text = self.text()) {
    if (!work.Visit(text->size())) return {};
    if (const auto whole = ReadInteger(work, *text, static_cast<int>(base))) return *whole;
    number = ReadFloat(*text);
  }
  if (!number || !std::isfinite(*number)) return otherwise;
  if (std::abs(*number) < 9.2e18) return static_cast<int64_t>(*number);
  work.Fail("int: the number is beyond 64 bits");
  return {};
}

Value AsFloat(Work& work, const Value& self, const Arguments& arguments) {
  const Parameters parameters(work, "float", arguments, {"default"});
  if (self.IsUndefined()) FailUndefined(work, self);
  std::optional<double> number = self.number();
  if (const Text* const text = self.text(); text != nullptr && work.Visit(text->size())) {
    number = ReadFloat(*text);
  }
  if (number) return *number;
  return parameters[0] == nullptr ? Value(0.0) : *parameters[0];
}

Value Absolute(Work& work, const Value& self, const Arguments& arguments) {
  Parameters(work, "abs", arguments, {});
  if (const auto whole = self.integer(); whole && *whole != INT64_MIN) {
    return *whole < 0 ? -*whole : *whole;
  }
  if (const auto number = self.number()) return std::abs(*number);
  if (self.IsUndefined()) {
    FailUndefined(work, self);
  } else {
    work.Fail("abs takes a number, not a " + TypeName(self));
  }
  return {};
}

// To the nearest, halves to the even digit, by the exact value; as Python.
double RoundCommon(double value, int precision) {
  if (precision < 0) {
    const double unit = std::pow(10.0, -precision);
    return std::nearbyint(value / unit) * unit;
  }
  char digits[512];
  std::snprintf(digits, sizeof digits, "%.*f", precision, value);
  return std::strtod(digits, nullptr);
}

Value Round(Work& work, const Value& self, const Arguments& arguments) {
  const Parameters parameters(work, "round", arguments, {"precision", "method"});
  const int64_t precision = parameters.Integer(0, 0);
  const Text* const given = parameters.String(1);
  const std::string method = given == nullptr ? "common" : given->bytes();
  if (precision < -20 || precision > 100) work.Fail("round: 'precision' is not within -20 and 100");
  if (!self.IsNumber()) work.Fail("round takes a number, not a " + TypeName(self));
  if (method != "common" && method != "ceil" && method != "floor") {
    work.Fail("method must be common, ceil or floor");
  }
  if (work.failed()) return {};
  const double number = *self.number();
  if (method == "common") {
    if (self.integer() && precision >= 0) return *self.integer();
    const double rounded = RoundCommon(number, static_cast<int>(precision));
    return self.integer() ? Value(static_cast<int64_t>(rounded)) : Value(rounded);
  }
  const double unit = std::pow(10.0, static_cast<double>(precision));
  return (method == "ceil" ? std::ceil(number * unit) : std::floor(number * unit)) / unit;
}

Value Default(Work& work, const Value& self, const Arguments& arguments) {
  const Parameters parameters(work, "default", arguments, {"default_value", "boolean"});
  const bool replaced = self.IsUndefined() || (parameters.Truth(1, false) && !Truth(self));
  if (!replaced) return self;
  return parameters[0] == nullptr ? MakeString(work, "") : *parameters[0];
}

Value Attr(Work& work, const Value& self, const Arguments& arguments) {
  const Parameters parameters(work, "attr", arguments, {"name"});
  parameters.Need(0);
  const Text* const name = parameters.String(0);
  if (name == nullptr) work.Fail("attr takes a name");
  if (work.failed()) return {};
  // A key of a mapping is no attribute.
  if (self.dict() != nullptr && FindMethod(self, name->bytes()) == nullptr) {
    return Value::Missing("'dict object' has no attribute '" + name->bytes() + "'");
  }
  return GetAttribute(work, self, name->bytes());
}

Value Json(Work& work, const Value& self, const Arguments& arguments) {
  const Parameters parameters(work, "tojson", arguments,
                              {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style{.ascii = parameters.Truth(0, false), .sort_keys = parameters.Truth(3, false)};
  if (const Value* const indent = parameters[1]; indent != nullptr && !indent->Is<None>()) {
    style.item_separator = ",";
    if (const Text* const text = indent->text()) {
      style.indent = text->bytes();
    } else {
      const int64_t width = parameters.Integer(1, 0);
      if (width > 1000) work.Fail("tojson: 'indent' is above 1000");
      style.indent = std::string(width > 0 && width <= 1000 ? static_cast<size_t>(width) : 0, ' ');
    }
  }
  if (const Value* const both = parameters[2]; both != nullptr && !both->Is<None>()) {
    const std::vector<Value> items = Items(work, *both);
    if (items.size() != 2 || !items[0].IsString() || !items[1].IsString()) {
      work.Fail("tojson: 'separators' are two strings");
    } else {
      style.item_separator = items[0].text()->bytes();
      style.key_separator = items[1].text()->bytes();
    }
  }
  return work.failed() ? Value() : MakeString(work, ToJson(work, self, style));
}

constexpr Filter kFilters[] = {
    {"abs", Absolute},
    {"attr", Attr},
    {"capitalize", Mapped<Capitalize>},
    {"center", Center},
    {"d", Default},
    {"default", Default},
    {"e", EscapeMarkup},
    {"escape", EscapeMarkup},
    {"float", AsFloat},
    {"forceescape", ForceEscape},
    {"format", Format},
    {"indent", Indent},
    {"int", AsInteger},
    {"lower", Mapped<Lower>},
    {"replace", ReplaceText},
    {"round", Round},
    {"safe", Safe},
    {"string", AsString},
    {"title", Mapped<TitleWords>},
    {"tojson", Json},
    {"trim", Trim},
    {"truncate", Truncate},
    {"upper", Mapped<Upper>},
    {"urlencode", UrlEncode},
    {"wordcount", CountWords},
};

}  // namespace

std::span<const Filter> TextFilters() { return kFilters; }

}  // namespace conclave::router::chat

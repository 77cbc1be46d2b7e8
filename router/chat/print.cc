#include "router/chat/print.h"

#include <charconv>
#include <cmath>
#include <cstdio>

#include "router/chat/characters.h"

namespace conclave::router::chat {
namespace {

std::string Escape(char32_t c) {
  const char* format = c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x";
  char text[16];
  std::snprintf(text, sizeof text, format, static_cast<unsigned>(c));
  return text;
}

void AppendQuoted(Work& work, const Text& text, Text* to) {
  if (!work.Make(text.size())) return;
  const std::string& bytes = text.bytes();
  const bool doubled =
      bytes.find('\'') != std::string::npos && bytes.find('"') == std::string::npos;
  const char quote = doubled ? '"' : '\'';
  to->Append(std::string_view(&quote, 1));
  for (size_t at = 0; at < bytes.size();) {
    const Character c = CharacterAt(bytes, at);
    if (c.code_point == '\\' || c.code_point == static_cast<unsigned char>(quote)) {
      to->AppendMade(std::string{'\\', bytes[at]}, text, at);
    } else if (c.code_point == '\n' || c.code_point == '\r' || c.code_point == '\t') {
      to->AppendMade(c.code_point == '\n' ? "\\n" : c.code_point == '\r' ? "\\r" : "\\t", text, at);
    } else if (!IsPrintable(c.code_point)) {
      to->AppendMade(Escape(c.code_point), text, at);
    } else {
      to->AppendPart(text, at, at + c.bytes);
    }
    at += c.bytes;
  }
  to->Append(std::string_view(&quote, 1));
}

void AppendItems(Work& work, const std::vector<Value>& items, Text* to) {
  for (size_t i = 0; i < items.size() && !work.failed(); ++i) {
    if (i > 0) to->Append(", ");
    AppendRepr(work, items[i], to);
  }
}

void AppendSequence(Work& work, const Sequence& sequence, Text* to) {
  switch (sequence.kind) {
    case Sequence::Kind::kList:
      to->Append("[");
      AppendItems(work, sequence.items, to);
      return to->Append("]");
    case Sequence::Kind::kTuple:
      to->Append("(");
      AppendItems(work, sequence.items, to);
      return to->Append(sequence.items.size() == 1 ? ",)" : ")");
    case Sequence::Kind::kKeys:
    case Sequence::Kind::kValues:
    case Sequence::Kind::kItems:
      to->Append(sequence.kind == Sequence::Kind::kKeys     ? "dict_keys(["
                 : sequence.kind == Sequence::Kind::kValues ? "dict_values(["
                                                            : "dict_items([");
      AppendItems(work, sequence.items, to);
      return to->Append("])");
    case Sequence::Kind::kRange:
      return work.Fail("a range cannot be printed; print its |list");
  }
}

void AppendDict(Work& work, const Dict& dict, Text* to) {
  to->Append("{");
  bool first = true;
  for (const auto& [key, value] : dict.entries()) {
    if (work.failed()) return;
    if (!first) to->Append(", ");
    first = false;
    AppendRepr(work, key, to);
    to->Append(": ");
    AppendRepr(work, value, to);
  }
  to->Append("}");
}

}  // namespace

std::string FloatText(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char text[32];
  const auto end = std::to_chars(text, text + sizeof text, value, std::chars_format::scientific);
  const std::string_view scientific(text, static_cast<size_t>(end.ptr - text));
  const size_t e = scientific.find('e');
  int exponent = 0;
  const char* const digits = scientific.data() + e + (scientific[e + 1] == '+' ? 2 : 1);
  std::from_chars(digits, end.ptr, exponent);
  if (exponent < -4 || exponent >= 16) return std::string(scientific);
  const auto fixed = std::to_chars(text, text + sizeof text, value, std::chars_format::fixed);
  std::string plain(text, fixed.ptr);
  return plain.find('.') == std::string::npos ? plain + ".0" : plain;
}

void AppendRepr(Work& work, const Value& value, Text* to) {
  if (!work.Make(8)) return;
  if (const Text* const text = value.text()) {
    if (!value.markup()) return AppendQuoted(work, *text, to);
    to->Append("Markup(");
    AppendQuoted(work, *text, to);
    return to->Append(")");
  }
  if (const Sequence* const sequence = value.sequence()) return AppendSequence(work, *sequence, to);
  if (const Dict* const dict = value.dict()) return AppendDict(work, *dict, to);
  if (value.IsUndefined()) return to->Append("Undefined");
  to->Append(Str(work, value));
}

Text Str(Work& work, const Value& value) {
  if (const Text* const text = value.text()) {
    return work.Make(text->held_bytes()) ? *text : Text();
  }
  if (value.IsUndefined()) return Text();
  if (value.Is<None>()) return Text("None");
  if (const bool* const truth = std::get_if<bool>(&value.data())) {
    return Text(*truth ? "True" : "False");
  }
  if (const auto whole = value.integer()) return Text(std::to_string(*whole));
  if (const auto number = value.number()) return Text(FloatText(*number));
  Text text;
  if (value.sequence() != nullptr || value.dict() != nullptr) {
    AppendRepr(work, value, &text);
  } else {
    work.Fail("a " + TypeName(value) + " cannot be printed");
  }
  return text;
}

}  // namespace conclave::router::chat

#include "router/utf8.h"

namespace conclave::router {
namespace {

struct Lead {
  uint32_t bytes;      // of the whole character; 0: begins none
  uint8_t second_min;  // allowed second bytes; later ones are 80..BF
  uint8_t second_max;
};

Lead LeadOf(uint8_t byte) {
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

}  // namespace

Utf8Char FirstChar(std::string_view text) {
  using Kind = Utf8Char::Kind;
  const auto byte = [text](uint32_t i) { return static_cast<uint8_t>(text[i]); };
  if (byte(0) < 0x80) return {Kind::kValid, byte(0), 1};
  const Lead lead = LeadOf(byte(0));
  if (lead.bytes == 0) return {Kind::kInvalid, 0, 1};
  char32_t code_point = byte(0) & (0x7Fu >> lead.bytes);
  for (uint32_t i = 1; i < lead.bytes; ++i) {
    if (i == text.size()) return {Kind::kIncomplete, 0, i};
    const uint8_t min = i == 1 ? lead.second_min : 0x80;
    const uint8_t max = i == 1 ? lead.second_max : 0xBF;
    if (byte(i) < min || byte(i) > max) return {Kind::kInvalid, 0, i};
    code_point = code_point << 6 | (byte(i) & 0x3Fu);
  }
  return {Kind::kValid, code_point, lead.bytes};
}

std::string ToUtf8(char32_t code_point) {
  std::string text;
  AppendUtf8(code_point, &text);
  return text;
}

void AppendUtf8(char32_t code_point, std::string* text) {
  if (code_point < 0x80) return text->push_back(static_cast<char>(code_point));
  const auto tail = [code_point](int shift) {
    return static_cast<char>(0x80 | (code_point >> shift & 0x3F));
  };
  if (code_point < 0x800) {
    text->append({static_cast<char>(0xC0 | code_point >> 6), tail(0)});
  } else if (code_point < 0x10000) {
    text->append({static_cast<char>(0xE0 | code_point >> 12), tail(6), tail(0)});
  } else {
    text->append({static_cast<char>(0xF0 | code_point >> 18), tail(12), tail(6), tail(0)});
  }
}

bool IsUtf8(std::string_view bytes) {
  while (!bytes.empty()) {
    const Utf8Char c = FirstChar(bytes);
    if (c.kind != Utf8Char::Kind::kValid) return false;
    bytes.remove_prefix(c.bytes);
  }
  return true;
}

std::string ReplaceInvalidUtf8(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size());
  while (!bytes.empty()) {
    const Utf8Char c = FirstChar(bytes);
    text += c.kind == Utf8Char::Kind::kValid ? bytes.substr(0, c.bytes) : kReplacementCharacter;
    bytes.remove_prefix(c.bytes);
  }
  return text;
}

}  // namespace conclave::router

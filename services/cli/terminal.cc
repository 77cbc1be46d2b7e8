#include "services/cli/terminal.h"

#include <cstddef>
#include <cstdint>

#include "absl/strings/str_format.h"

namespace conclave::services::cli {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

struct Decoded {
  enum Kind { kGood, kBad, kCut } kind = kBad;
  size_t bytes = 1;  // of a bad sequence: its longest part that could have begun a character
  uint32_t code = 0;
};

// The character at the beginning of `text`, which is not empty. RFC 3629's table of second bytes.
Decoded Decode(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {Decoded::kGood, 1, lead};
  if (lead < 0xC2 || lead > 0xF4) return {};
  const size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  uint32_t code = lead & (0x7FU >> length);
  for (size_t i = 1; i < length; ++i) {
    if (i == text.size()) return {Decoded::kCut, i, 0};
    uint8_t low = 0x80, high = 0xBF;
    if (i == 1 && lead == 0xE0) low = 0xA0;
    if (i == 1 && lead == 0xED) high = 0x9F;
    if (i == 1 && lead == 0xF0) low = 0x90;
    if (i == 1 && lead == 0xF4) high = 0x8F;
    if (byte(i) < low || byte(i) > high) return {Decoded::kBad, i, 0};
    code = code << 6 | (byte(i) & 0x3FU);
  }
  return {Decoded::kGood, length, code};
}

bool IsControl(uint32_t code) {
  if (code == '\n' || code == '\t') return false;
  return code < 0x20 || (code >= 0x7F && code < 0xA0);
}

}  // namespace

std::string TerminalText::Add(std::string_view piece) {
  const std::string text = pending_ + std::string(piece);
  pending_.clear();
  std::string shown;
  for (std::string_view rest = text; !rest.empty();) {
    const Decoded next = Decode(rest);
    if (next.kind == Decoded::kCut) {
      pending_ = rest;
      break;
    }
    if (next.kind == Decoded::kBad) {
      shown += kReplacement;
    } else if (IsControl(next.code)) {
      shown += absl::StrFormat("\\x%02x", next.code);
    } else {
      shown += rest.substr(0, next.bytes);
    }
    rest.remove_prefix(next.bytes);
  }
  return shown;
}

std::string TerminalText::End() {
  const bool cut = !pending_.empty();
  pending_.clear();
  return std::string(cut ? kReplacement : "");
}

std::string Printable(std::string_view text) {
  TerminalText terminal;
  const std::string shown = terminal.Add(text);
  return shown + terminal.End();
}

bool IsUtf8(std::string_view text) {
  while (!text.empty()) {
    const Decoded next = Decode(text);
    if (next.kind != Decoded::kGood) return false;
    text.remove_prefix(next.bytes);
  }
  return true;
}

}  // namespace conclave::services::cli

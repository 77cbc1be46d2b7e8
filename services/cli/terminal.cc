#include "services/cli/terminal.h"

#include "absl/strings/str_format.h"
#include "router/utf8.h"

namespace conclave::services::cli {
namespace {

using router::kReplacementCharacter;
using router::Utf8Char;

bool IsControl(char32_t code) {
  if (code == '\n' || code == '\t') return false;
  return code < 0x20 || (code >= 0x7F && code < 0xA0);
}

}  // namespace

std::string TerminalText::Add(std::string_view piece) {
  const std::string text = pending_ + std::string(piece);
  pending_.clear();
  std::string shown;
  for (std::string_view rest = text; !rest.empty();) {
    const Utf8Char next = router::FirstChar(rest);
    if (next.kind == Utf8Char::Kind::kIncomplete) {
      pending_ = rest;
      break;
    }
    if (next.kind == Utf8Char::Kind::kInvalid) {
      shown += kReplacementCharacter;
    } else if (IsControl(next.code_point)) {
      shown += absl::StrFormat("\\x%02x", static_cast<uint32_t>(next.code_point));
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
  return std::string(cut ? kReplacementCharacter : "");
}

std::string Printable(std::string_view text) {
  TerminalText terminal;
  const std::string shown = terminal.Add(text);
  return shown + terminal.End();
}

}  // namespace conclave::services::cli

#include "router/chat/lexer.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <utility>

#include "router/chat/characters.h"
#include "router/chat/escapes.h"

namespace conclave::router::chat {
namespace {

bool IsDecimal(char c) { return c >= '0' && c <= '9'; }

// All line breaks as \n, and without one at the end.
std::string WithPlainLines(std::string_view source) {
  std::string plain;
  plain.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      plain += source[i];
    } else {
      plain += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    }
  }
  if (plain.ends_with('\n')) plain.pop_back();
  return plain;
}

class Lexer {
 public:
  Lexer(std::string source, SyntaxError* error) : source_(std::move(source)), error_(error) {}

  std::optional<std::vector<Token>> Run() {
    while (at_ < source_.size()) {
      if (!Outside()) return std::nullopt;
    }
    Add(Token::Kind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  enum class Sign : uint8_t { kNone, kMinus, kPlus };

  bool Fail(const std::string& what) {
    *error_ = {line_, what};
    return false;
  }
  void Add(Token::Kind kind, std::string_view text) {
    tokens_.push_back({.kind = kind, .line = line_, .text = std::string(text)});
  }
  bool Has(std::string_view text) const {
    return std::string_view(source_).substr(at_).starts_with(text);
  }
  void Advance(size_t bytes) {
    line_ += static_cast<int32_t>(
        std::count(source_.begin() + static_cast<std::ptrdiff_t>(at_),
                   source_.begin() + static_cast<std::ptrdiff_t>(at_ + bytes), '\n'));
    at_ += bytes;
  }
  size_t SpaceAt(size_t at) const {
    const size_t begin = at;
    while (at < source_.size()) {
      const Character c = CharacterAt(source_, at);
      if (!IsSpace(c.code_point)) break;
      at += c.bytes;
    }
    return at - begin;
  }
  void SkipSpace() { Advance(SpaceAt(at_)); }
  Sign TakeSign() {
    const Sign sign = Has("-") ? Sign::kMinus : Has("+") ? Sign::kPlus : Sign::kNone;
    if (sign != Sign::kNone) ++at_;
    return sign;
  }

  // Text up to the next tag, and that tag.
  bool Outside() {
    const size_t open = NextTag();
    const std::string_view data = std::string_view(source_).substr(at_, open - at_);
    if (open == source_.size()) {
      Add(Token::Kind::kData, data);
      Advance(data.size());
      return true;
    }
    const char kind = source_[open + 1];
    const int32_t data_line = line_;
    Advance(data.size() + 2);
    const Sign sign = TakeSign();
    const std::string_view trimmed = Trim(data, sign, kind != '{');
    if (!trimmed.empty()) {
      tokens_.push_back(
          {.kind = Token::Kind::kData, .line = data_line, .text = std::string(trimmed)});
    }
    if (kind == '#') return Comment();
    if (kind == '%' && TakeRawBegin()) return Raw();
    return Tag(kind == '{');
  }

  size_t NextTag() const {
    for (size_t open = at_; (open = source_.find('{', open)) != std::string::npos; ++open) {
      const char next = open + 1 < source_.size() ? source_[open + 1] : 0;
      if (next == '{' || next == '%' || next == '#') return open;
    }
    return source_.size();
  }

  // The text before a tag, as its sign and lstrip_blocks leave it.
  std::string_view Trim(std::string_view data, Sign sign, bool block) const {
    if (sign == Sign::kMinus) {
      size_t end = data.size();
      while (end > 0) {
        size_t begin = end - 1;
        while (begin > 0 && (static_cast<unsigned char>(data[begin]) & 0xC0) == 0x80) --begin;
        if (!IsSpace(CharacterAt(data, begin).code_point)) break;
        end = begin;
      }
      return data.substr(0, end);
    }
    if (sign == Sign::kPlus || !block) return data;
    const size_t line = data.rfind('\n') + 1;  // npos + 1 is 0
    if (line == 0 && !line_starting_) return data;
    for (size_t at = line; at < data.size();) {
      const Character c = CharacterAt(data, at);
      if (!IsSpace(c.code_point)) return data;
      at += c.bytes;
    }
    return data.substr(0, line);
  }

  // "-%}" with the white space after it, "%}" with one line break, "+%}"; bytes, or 0.
  size_t BlockEndAt(size_t at, std::string_view end) const {
    const std::string_view rest = std::string_view(source_).substr(at);
    if (rest.starts_with('-') && rest.substr(1).starts_with(end)) return 3 + SpaceAt(at + 3);
    if (rest.starts_with('+') && rest.substr(1).starts_with(end)) return 3;
    if (!rest.starts_with(end)) return 0;
    return rest.substr(2).starts_with('\n') ? 3 : 2;
  }
  void TakeEnd(size_t bytes) {
    Advance(bytes);
    line_starting_ = source_[at_ - 1] == '\n';
  }

  bool Comment() {
    for (size_t at = at_; at < source_.size(); ++at) {
      if (const size_t end = BlockEndAt(at, "#}")) {
        Advance(at - at_);
        TakeEnd(end);
        return true;
      }
    }
    return Fail("a comment is not closed by #}");
  }

  // "raw %}" after "{%"; nothing is taken if it is another tag.
  bool TakeRawBegin() {
    size_t at = at_ + SpaceAt(at_);
    if (!std::string_view(source_).substr(at).starts_with("raw")) return false;
    at += 3;
    at += SpaceAt(at);
    const std::string_view rest = std::string_view(source_).substr(at);
    size_t end = 0;
    if (rest.starts_with("-%}")) end = 3 + SpaceAt(at + 3);
    if (rest.starts_with("%}")) end = 2;
    if (end == 0) return false;
    Advance(at - at_);
    TakeEnd(end);
    return true;
  }

  bool Raw() {
    for (size_t open = at_; (open = source_.find("{%", open)) != std::string::npos; ++open) {
      size_t at = open + 2;
      const char c = at < source_.size() ? source_[at] : 0;
      const Sign sign = c == '-' ? Sign::kMinus : c == '+' ? Sign::kPlus : Sign::kNone;
      if (sign != Sign::kNone) ++at;
      at += SpaceAt(at);
      if (!std::string_view(source_).substr(at).starts_with("endraw")) continue;
      at += 6;
      at += SpaceAt(at);
      const size_t end = BlockEndAt(at, "%}");
      if (end == 0) continue;
      const std::string_view data = std::string_view(source_).substr(at_, open - at_);
      Add(Token::Kind::kData, Trim(data, sign, true));
      Advance(at - at_);
      TakeEnd(end);
      return true;
    }
    return Fail("raw is not closed by {% endraw %}");
  }

  // What is between {{ and }}, or {% and %}.
  bool Tag(bool variable) {
    Add(variable ? Token::Kind::kVariableBegin : Token::Kind::kBlockBegin, "");
    std::string closers;  // of the brackets that are open
    while (at_ < source_.size()) {
      if (closers.empty()) {
        if (const size_t end = TagEnd(variable)) {
          Add(variable ? Token::Kind::kVariableEnd : Token::Kind::kBlockEnd, "");
          TakeEnd(end);
          return true;
        }
      }
      SkipSpace();
      if (at_ == source_.size()) break;
      if (closers.empty() && TagEnd(variable) != 0) continue;
      if (!TakeToken(&closers)) return false;
    }
    return Fail(variable ? "{{ is not closed by }}" : "{% is not closed by %}");
  }

  size_t TagEnd(bool variable) const {
    if (!variable) return BlockEndAt(at_, "%}");
    if (Has("-}}")) return 3 + SpaceAt(at_ + 3);
    return Has("}}") ? 2 : 0;
  }

  bool TakeToken(std::string* closers) {
    const char c = source_[at_];
    if (IsDecimal(c)) return TakeNumber();
    if (c == '\'' || c == '"') return TakeString(c);
    const size_t name = NameAt();
    if (name > 0) {
      Add(Token::Kind::kName, std::string_view(source_).substr(at_, name));
      at_ += name;
      return true;
    }
    return TakeOperator(closers);
  }

  size_t NameAt() const {
    size_t at = at_;
    while (at < source_.size()) {
      const Character c = CharacterAt(source_, at);
      if (c.code_point != '_' && !IsAlpha(c.code_point) && !IsDigit(c.code_point)) break;
      at += c.bytes;
    }
    return at - at_;
  }

  bool TakeOperator(std::string* closers) {
    constexpr std::array<std::string_view, 6> kDouble = {"//", "**", "==", "!=", ">=", "<="};
    const auto two =
        std::find_if(kDouble.begin(), kDouble.end(), [&](std::string_view op) { return Has(op); });
    const size_t size = two == kDouble.end() ? 1 : 2;
    const std::string_view op = std::string_view(source_).substr(at_, size);
    if (size == 1 && std::string_view("+-/*%~[](){}<>=.:|,;").find(op) == std::string::npos) {
      return Fail("unexpected character '" + source_.substr(at_, CharacterAt(source_, at_).bytes) +
                  "'");
    }
    if (op == "(") *closers += ')';
    if (op == "[") *closers += ']';
    if (op == "{") *closers += '}';
    if (op == ")" || op == "]" || op == "}") {
      if (closers->empty() || closers->back() != op[0]) {
        return Fail("unexpected '" + std::string(op) + "'");
      }
      closers->pop_back();
    }
    Add(Token::Kind::kOperator, op);
    at_ += size;
    return true;
  }

  // Digits with single underscores between them, from `at`; bytes.
  template <typename IsDigitOf>
  size_t DigitsAt(size_t at, IsDigitOf is) const {
    const size_t begin = at;
    while (at < source_.size() &&
           (is(source_[at]) || (source_[at] == '_' && at > begin && at + 1 < source_.size() &&
                                is(source_[at + 1]) && source_[at - 1] != '_'))) {
      ++at;
    }
    return at - begin;
  }

  bool TakeNumber() {
    const size_t whole = DigitsAt(at_, IsDecimal);
    const bool after_dot = at_ > 0 && source_[at_ - 1] == '.';
    const size_t size = after_dot ? whole : FloatAt(whole);
    if (size > whole) {
      std::string digits = source_.substr(at_, size);
      std::erase(digits, '_');
      Add(Token::Kind::kFloat, digits);
      tokens_.back().number = std::strtod(digits.c_str(), nullptr);
      at_ += size;
      return true;
    }
    return TakeInteger(whole);
  }

  // The size of a float whose whole part has `whole` bytes; `whole` if it is none.
  size_t FloatAt(size_t whole) const {
    size_t size = whole;
    if (at_ + size < source_.size() && source_[at_ + size] == '.') {
      const size_t fraction = DigitsAt(at_ + size + 1, IsDecimal);
      if (fraction == 0) return whole;
      size += 1 + fraction;
    }
    size_t exponent = at_ + size;
    if (exponent >= source_.size() || (source_[exponent] | 0x20) != 'e') return size;
    ++exponent;
    if (exponent < source_.size() && (source_[exponent] == '+' || source_[exponent] == '-')) {
      ++exponent;
    }
    const size_t digits = DigitsAt(exponent, IsDecimal);
    return digits == 0 ? size : exponent + digits - at_;
  }

  bool TakeInteger(size_t whole) {
    int base = 10;
    size_t prefix = 0, size = whole;
    const char marker = source_[at_] == '0' && at_ + 1 < source_.size()
                            ? static_cast<char>(source_[at_ + 1] | 0x20)
                            : 0;
    if (marker == 'x' || marker == 'o' || marker == 'b') {
      base = marker == 'x' ? 16 : marker == 'o' ? 8 : 2;
      const size_t digits = DigitsAt(at_ + 2, [&](char c) {
        return base == 16 ? (IsDecimal(c) || ((c | 0x20) >= 'a' && (c | 0x20) <= 'f'))
                          : c >= '0' && c < '0' + base;
      });
      if (digits > 0) {
        prefix = 2;
        size = 2 + digits;
      } else {
        base = 10;
      }
    }
    std::string digits = source_.substr(at_ + prefix, size - prefix);
    std::erase(digits, '_');
    int64_t value = 0;
    const auto read = std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
    if (read.ec != std::errc()) return Fail("the number " + digits + " is beyond 64 bits");
    Add(Token::Kind::kInteger, digits);
    tokens_.back().integer = value;
    at_ += size;
    return true;
  }

  bool TakeString(char quote) {
    size_t end = at_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) return Fail("a string is not closed");
    std::string text;
    std::string problem;
    if (!Unescape(std::string_view(source_).substr(at_ + 1, end - at_ - 1), &text, &problem)) {
      return Fail(problem);
    }
    Add(Token::Kind::kString, text);
    Advance(end + 1 - at_);
    return true;
  }

  const std::string source_;
  SyntaxError* const error_;
  std::vector<Token> tokens_;
  size_t at_ = 0;
  int32_t line_ = 1;
  bool line_starting_ = true;  // what came last ended with a line break
};

}  // namespace

std::optional<std::vector<Token>> Tokenize(std::string_view source, SyntaxError* error) {
  return Lexer(WithPlainLines(source), error).Run();
}

}  // namespace conclave::router::chat

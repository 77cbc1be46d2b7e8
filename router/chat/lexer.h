#pragma once
// A chat template's text as tokens, white space already trimmed: Jinja's lexer with trim_blocks and
// lstrip_blocks, as transformers configures it. Pure; any thread.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace conclave::router::chat {

struct Token {
  enum class Kind : uint8_t {
    kData,           // text: outside of tags
    kVariableBegin,  // {{
    kVariableEnd,
    kBlockBegin,  // {%
    kBlockEnd,
    kName,
    kString,  // text: without quotes, escapes resolved
    kInteger,
    kFloat,
    kOperator,
    kEnd,
  };
  Kind kind = Kind::kEnd;
  int32_t line = 1;
  std::string text;
  int64_t integer = 0;
  double number = 0;

  bool IsName(std::string_view name) const { return kind == Kind::kName && text == name; }
  bool IsOperator(std::string_view op) const { return kind == Kind::kOperator && text == op; }
};

// What is wrong with a template, and where.
struct SyntaxError {
  int32_t line = 0;
  std::string what;
};

// The tokens, kEnd last. nullopt and *error: a tag is not closed, a character that is in no token.
std::optional<std::vector<Token>> Tokenize(std::string_view source, SyntaxError* error);

}  // namespace conclave::router::chat

#include "router/chat/token_stream.h"

#include <algorithm>

namespace conclave::router::chat {

std::string Describe(const Token& token) {
  switch (token.kind) {
    case Token::Kind::kData:
      return "text";
    case Token::Kind::kVariableBegin:
      return "'{{'";
    case Token::Kind::kVariableEnd:
      return "'}}'";
    case Token::Kind::kBlockBegin:
      return "'{%'";
    case Token::Kind::kBlockEnd:
      return "'%}'";
    case Token::Kind::kString:
      return "a string";
    case Token::Kind::kEnd:
      return "the end of the template";
    default:
      return "'" + token.text.substr(0, 60) + "'";
  }
}

bool TokenStream::Named(std::string_view name, size_t from) const {
  return std::any_of(tokens_.begin() + static_cast<std::ptrdiff_t>(from),
                     tokens_.begin() + static_cast<std::ptrdiff_t>(at_),
                     [&](const Token& token) { return token.IsName(name); });
}

Token TokenStream::Take() {
  Token token = current();
  if (at_ + 1 < tokens_.size()) ++at_;
  return token;
}

bool TokenStream::TakeOperator(std::string_view op) {
  if (failed() || !current().IsOperator(op)) return false;
  ++at_;
  return true;
}

bool TokenStream::TakeName(std::string_view name) {
  if (failed() || !current().IsName(name)) return false;
  ++at_;
  return true;
}

void TokenStream::ExpectOperator(std::string_view op) {
  if (!TakeOperator(op)) {
    Fail("expected '" + std::string(op) + "', found " + Describe(current()));
  }
}

void TokenStream::ExpectName(std::string_view name) {
  if (!TakeName(name)) {
    Fail("expected '" + std::string(name) + "', found " + Describe(current()));
  }
}

void TokenStream::Expect(Token::Kind kind, const char* what) {
  if (current().kind == kind) {
    Take();
  } else {
    Fail(std::string("expected ") + what + ", found " + Describe(current()));
  }
}

std::string TokenStream::ExpectAnyName() {
  if (current().kind == Token::Kind::kName) return Take().text;
  Fail("expected a name, found " + Describe(current()));
  return {};
}

void TokenStream::FailAt(int32_t line, const std::string& what) {
  if (!failed()) error_ = {line, what};
}

void TokenStream::FailUnexpected() { Fail("unexpected " + Describe(current())); }

bool TokenStream::CountNode(int32_t line, int32_t depth) {
  if (++nodes_ > limits_.syntax_nodes) {
    FailAt(line, "the template has more than " + std::to_string(limits_.syntax_nodes) +
                     " nodes, the limit");
  }
  if (depth > limits_.syntax_depth || level_ > limits_.syntax_depth) {
    FailAt(line, "the template is nested more than " + std::to_string(limits_.syntax_depth) +
                     " deep, the limit");
  }
  return !failed();
}

}  // namespace conclave::router::chat

#include "router/chat/chat_template.h"

#include <utility>

#include "router/chat/lexer.h"
#include "router/chat/parser.h"
#include "router/utf8.h"

namespace conclave::router::chat {
namespace {

std::string LiteralsOf(const std::vector<Token>& tokens) {
  std::string literals;
  bool in_string = false;
  for (const Token& token : tokens) {
    const bool string = token.kind == Token::Kind::kString;
    if (!string && token.kind != Token::Kind::kData) {
      in_string = false;
      continue;
    }
    if (!(string && in_string)) literals += '\0';  // strings beside each other are one
    literals += token.text;
    in_string = string;
  }
  return literals;
}

}  // namespace

std::optional<ChatTemplate> ChatTemplate::Load(std::string_view source, const ChatLimits& limits,
                                               std::string* error) {
  if (source.size() > limits.template_bytes) {
    *error = "chat template: it has " + std::to_string(source.size()) + " bytes, the limit is " +
             std::to_string(limits.template_bytes);
    return std::nullopt;
  }
  if (!IsUtf8(source)) {
    *error = "chat template: it is not UTF-8";
    return std::nullopt;
  }
  SyntaxError problem;
  std::optional<std::vector<Token>> tokens = Tokenize(source, &problem);
  std::optional<Body> body;
  ChatTemplate loaded;
  if (tokens) {
    loaded.literals_ = LiteralsOf(*tokens);
    body = Parse(*std::move(tokens), limits, &problem);
  }
  if (!body) {
    *error = "chat template, line " + std::to_string(problem.line) + ": " + problem.what;
    return std::nullopt;
  }
  loaded.body_ = std::make_shared<const Body>(*std::move(body));
  return loaded;
}

Text ChatTemplate::Render(const Variables& variables, Work& work) const {
  return Rendering(*body_, variables, work).Run();
}

}  // namespace conclave::router::chat

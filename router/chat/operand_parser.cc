// What operators stand between: literals, names, calls, attributes, filters and tests.

#include <algorithm>
#include <utility>

#include "router/chat/expression_grammar.h"
#include "router/chat/functions.h"

namespace conclave::router::chat {

int32_t DepthOf(const ExpressionPtr& expression) {
  return expression == nullptr ? 0 : expression->depth;
}

int32_t DepthOf(const std::vector<ExpressionPtr>& expressions) {
  int32_t depth = 0;
  for (const ExpressionPtr& one : expressions) depth = std::max(depth, DepthOf(one));
  return depth;
}

int32_t DepthOf(const CallArguments& arguments) {
  int32_t depth = std::max({DepthOf(arguments.positional), DepthOf(arguments.more_positional),
                            DepthOf(arguments.more_keyword)});
  for (const auto& [name, value] : arguments.keyword) depth = std::max(depth, DepthOf(value));
  return depth;
}

ExpressionPtr ExpressionParser::Filters(ExpressionPtr input, bool without_bar) {
  while (!stream_.failed() && (without_bar || stream_.current().IsOperator("|"))) {
    if (!std::exchange(without_bar, false)) stream_.ExpectOperator("|");
    const int32_t line = stream_.current().line;
    const std::string name = DottedName();
    const Native native = FindFilter(name);
    if (native == nullptr) stream_.FailAt(line, "the filter '" + name + "' is not supported");
    CallArguments arguments;
    if (stream_.current().IsOperator("(")) arguments = Arguments();
    const int32_t depth = std::max(DepthOf(input), DepthOf(arguments));
    input = Make(FilterCall{std::move(input), name, native, std::move(arguments)}, line, depth);
  }
  return input;
}

ExpressionPtr ExpressionParser::Primary() {
  const Token token = stream_.current();
  switch (token.kind) {
    case Token::Kind::kName:
      stream_.Take();
      return NamedValue(token);
    case Token::Kind::kString:
      return StringLiteral();
    case Token::Kind::kInteger:
      stream_.Take();
      return Make(Constant{token.integer}, token.line, 0);
    case Token::Kind::kFloat:
      stream_.Take();
      return Make(Constant{token.number}, token.line, 0);
    default:
      break;
  }
  if (stream_.TakeOperator("(")) {
    ExpressionPtr inner = Tuple(true, true);
    stream_.ExpectOperator(")");
    return inner;
  }
  if (token.IsOperator("[")) return List();
  if (token.IsOperator("{")) return Mapping();
  stream_.FailUnexpected();
  return nullptr;
}

ExpressionPtr ExpressionParser::NamedValue(const Token& token) {
  if (token.text == "true" || token.text == "True") return Make(Constant{true}, token.line, 0);
  if (token.text == "false" || token.text == "False") {
    return Make(Constant{false}, token.line, 0);
  }
  if (token.text == "none" || token.text == "None") {
    return Make(Constant{None()}, token.line, 0);
  }
  if (token.text == "cycler" || token.text == "joiner" || token.text == "lipsum") {
    stream_.FailAt(token.line, "the function '" + token.text + "' is not supported");
  }
  return Make(Name{token.text}, token.line, 0);
}

ExpressionPtr ExpressionParser::StringLiteral() {
  const int32_t line = stream_.current().line;
  Text text;
  while (stream_.current().kind == Token::Kind::kString) text.Append(stream_.Take().text);
  return Make(Constant{String{std::make_shared<const Text>(std::move(text))}}, line, 0);
}

ExpressionPtr ExpressionParser::List() {
  const int32_t line = stream_.current().line;
  stream_.ExpectOperator("[");
  std::vector<ExpressionPtr> items;
  while (!stream_.failed() && !stream_.current().IsOperator("]")) {
    if (!items.empty()) stream_.ExpectOperator(",");
    if (stream_.current().IsOperator("]")) break;
    items.push_back(Whole(true));
  }
  stream_.ExpectOperator("]");
  const int32_t depth = DepthOf(items);
  return Make(ListLiteral{Sequence::Kind::kList, std::move(items)}, line, depth);
}

ExpressionPtr ExpressionParser::Mapping() {
  const int32_t line = stream_.current().line;
  stream_.ExpectOperator("{");
  DictLiteral dict;
  int32_t depth = 0;
  while (!stream_.failed() && !stream_.current().IsOperator("}")) {
    if (!dict.entries.empty()) stream_.ExpectOperator(",");
    if (stream_.current().IsOperator("}")) break;
    ExpressionPtr key = Whole(true);
    stream_.ExpectOperator(":");
    ExpressionPtr value = Whole(true);
    depth = std::max({depth, DepthOf(key), DepthOf(value)});
    dict.entries.emplace_back(std::move(key), std::move(value));
  }
  stream_.ExpectOperator("}");
  return Make(std::move(dict), line, depth);
}

ExpressionPtr ExpressionParser::Postfix(ExpressionPtr expression) {
  while (!stream_.failed()) {
    if (stream_.current().IsOperator(".")) {
      expression = Dot(std::move(expression));
    } else if (stream_.current().IsOperator("[")) {
      expression = Brackets(std::move(expression));
    } else if (stream_.current().IsOperator("(")) {
      expression = Called(std::move(expression));
    } else {
      break;
    }
  }
  return expression;
}

ExpressionPtr ExpressionParser::FiltersAndTests(ExpressionPtr expression) {
  while (!stream_.failed()) {
    if (stream_.current().IsOperator("|")) {
      expression = Filters(std::move(expression), false);
    } else if (stream_.current().IsName("is")) {
      expression = Tested(std::move(expression));
    } else if (stream_.current().IsOperator("(")) {
      expression = Called(std::move(expression));
    } else {
      break;
    }
  }
  return expression;
}

ExpressionPtr ExpressionParser::Called(ExpressionPtr callee) {
  const int32_t line = stream_.current().line;
  CallArguments arguments = Arguments();
  const int32_t depth = std::max(DepthOf(callee), DepthOf(arguments));
  return Make(Call{std::move(callee), std::move(arguments)}, line, depth);
}

ExpressionPtr ExpressionParser::Dot(ExpressionPtr object) {
  const int32_t line = stream_.Take().line;
  const int32_t depth = DepthOf(object);
  const Token token = stream_.Take();
  if (token.kind == Token::Kind::kName) {
    return Make(Attribute{std::move(object), token.text}, line, depth);
  }
  if (token.kind != Token::Kind::kInteger) stream_.FailAt(line, "expected a name after '.'");
  ExpressionPtr key = Make(Constant{token.integer}, line, 0);
  return Make(Subscript{std::move(object), std::move(key)}, line, std::max(depth, 1));
}

ExpressionPtr ExpressionParser::Brackets(ExpressionPtr object) {
  const int32_t line = stream_.Take().line;
  ExpressionPtr bounds[3];
  size_t given = 0;
  bool slice = false;
  while (!stream_.failed() && !stream_.current().IsOperator("]")) {
    if (stream_.TakeOperator(":")) {
      slice = true;
      if (++given > 2) stream_.Fail("a slice has at most two ':'");
    } else if (bounds[given] != nullptr) {
      stream_.Fail("expected ']', found " + Describe(stream_.current()));
    } else {
      bounds[given] = Whole(true);
    }
  }
  stream_.ExpectOperator("]");
  if (!slice && bounds[0] == nullptr) stream_.FailAt(line, "[] is empty");
  const int32_t depth =
      std::max({DepthOf(object), DepthOf(bounds[0]), DepthOf(bounds[1]), DepthOf(bounds[2])});
  if (!slice) return Make(Subscript{std::move(object), std::move(bounds[0])}, line, depth);
  return Make(
      Slice{std::move(object), std::move(bounds[0]), std::move(bounds[1]), std::move(bounds[2])},
      line, depth);
}

CallArguments ExpressionParser::Arguments() {
  CallArguments arguments;
  const int32_t line = stream_.current().line;
  stream_.ExpectOperator("(");
  for (bool first = true; !stream_.failed() && !stream_.current().IsOperator(")"); first = false) {
    if (!first) stream_.ExpectOperator(",");
    if (stream_.current().IsOperator(")")) break;
    const bool starred = arguments.more_positional != nullptr || arguments.more_keyword != nullptr;
    bool in_order = arguments.more_keyword == nullptr;
    if (stream_.TakeOperator("*")) {
      in_order = !starred;
      arguments.more_positional = Whole(true);
    } else if (stream_.TakeOperator("**")) {
      arguments.more_keyword = Whole(true);
    } else if (stream_.current().kind == Token::Kind::kName && stream_.next().IsOperator("=")) {
      std::string name = stream_.Take().text;
      stream_.Take();
      arguments.keyword.emplace_back(std::move(name), Whole(true));
    } else {
      in_order = !starred && arguments.keyword.empty();
      arguments.positional.push_back(Whole(true));
    }
    if (!in_order) stream_.FailAt(line, "the arguments of a call are in the wrong order");
  }
  stream_.ExpectOperator(")");
  return arguments;
}

std::string ExpressionParser::DottedName() {
  std::string name = stream_.ExpectAnyName();
  while (stream_.TakeOperator(".")) name += "." + stream_.ExpectAnyName();
  return name;
}

bool ExpressionParser::AtTestArgument() const {
  const Token& token = stream_.current();
  switch (token.kind) {
    case Token::Kind::kName:
      return token.text != "else" && token.text != "or" && token.text != "and";
    case Token::Kind::kString:
    case Token::Kind::kInteger:
    case Token::Kind::kFloat:
      return true;
    default:
      return token.IsOperator("[") || token.IsOperator("{");
  }
}

ExpressionPtr ExpressionParser::Tested(ExpressionPtr input) {
  const int32_t line = stream_.Take().line;
  const bool negated = stream_.TakeName("not");
  const std::string name = DottedName();
  const Native native = FindTest(name);
  if (native == nullptr) stream_.FailAt(line, "the test '" + name + "' is not supported");
  CallArguments arguments;
  if (stream_.current().IsOperator("(")) {
    arguments = Arguments();
  } else if (!stream_.failed() && AtTestArgument()) {
    if (stream_.current().IsName("is")) stream_.Fail("tests with 'is' cannot be chained");
    const TokenStream::Level level(stream_);
    arguments.positional.push_back(Postfix(Primary()));
  }
  const int32_t depth = std::max(DepthOf(input), DepthOf(arguments));
  ExpressionPtr test =
      Make(TestCall{std::move(input), name, native, std::move(arguments)}, line, depth);
  return negated ? Make(Not{std::move(test)}, line, depth + 1) : std::move(test);
}

}  // namespace conclave::router::chat

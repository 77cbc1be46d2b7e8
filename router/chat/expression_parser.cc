#include "router/chat/expression_parser.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "router/chat/expression_grammar.h"

namespace conclave::router::chat {

ExpressionPtr ExpressionParser::Tuple(bool conditional, bool parenthesised) {
  const int32_t line = stream_.current().line;
  std::vector<ExpressionPtr> items;
  bool tuple = false;
  while (!stream_.failed()) {
    if (!items.empty()) stream_.ExpectOperator(",");
    if (AtTupleEnd()) break;
    items.push_back(Whole(conditional));
    if (!stream_.current().IsOperator(",")) break;
    tuple = true;
  }
  if (!tuple && !items.empty()) return std::move(items.front());
  if (!tuple && !parenthesised) {
    stream_.Fail("expected an expression, found " + Describe(stream_.current()));
  }
  const int32_t depth = DepthOf(items);
  return Make(ListLiteral{Sequence::Kind::kTuple, std::move(items)}, line, depth);
}

ExpressionPtr ExpressionParser::Whole(bool conditional) {
  const TokenStream::Level level(stream_);
  if (stream_.failed()) return nullptr;
  return conditional ? Condition() : Or();
}

ExpressionPtr ExpressionParser::Make(Expression::Kind kind, int32_t line, int32_t depth) {
  if (!stream_.CountNode(line, depth + 1)) return nullptr;
  auto expression = std::make_unique<Expression>();
  expression->kind = std::move(kind);
  expression->line = line;
  expression->depth = depth + 1;
  return expression;
}

bool ExpressionParser::AtTupleEnd() const {
  const Token& token = stream_.current();
  return token.kind == Token::Kind::kVariableEnd || token.kind == Token::Kind::kBlockEnd ||
         token.IsOperator(")");
}

ExpressionPtr ExpressionParser::Condition() {
  const int32_t line = stream_.current().line;
  ExpressionPtr then = Or();
  while (stream_.TakeName("if")) {
    ExpressionPtr condition = Or();
    ExpressionPtr otherwise;
    if (stream_.TakeName("else")) otherwise = Whole(true);
    const int32_t depth = std::max({DepthOf(then), DepthOf(condition), DepthOf(otherwise)});
    then =
        Make(Conditional{std::move(condition), std::move(then), std::move(otherwise)}, line, depth);
  }
  return then;
}

ExpressionPtr ExpressionParser::Or() {
  const int32_t line = stream_.current().line;
  ExpressionPtr left = And();
  while (stream_.TakeName("or")) left = MakeLogic(false, line, std::move(left), And());
  return left;
}

ExpressionPtr ExpressionParser::And() {
  const int32_t line = stream_.current().line;
  ExpressionPtr left = Negation();
  while (stream_.TakeName("and")) left = MakeLogic(true, line, std::move(left), Negation());
  return left;
}

ExpressionPtr ExpressionParser::MakeLogic(bool is_and, int32_t line, ExpressionPtr left,
                                          ExpressionPtr right) {
  const int32_t depth = std::max(DepthOf(left), DepthOf(right));
  return Make(Logic{is_and, std::move(left), std::move(right)}, line, depth);
}

ExpressionPtr ExpressionParser::Negation() {
  const int32_t line = stream_.current().line;
  if (!stream_.TakeName("not")) return Comparisons();
  const TokenStream::Level level(stream_);
  if (stream_.failed()) return nullptr;
  ExpressionPtr operand = Negation();
  const int32_t depth = DepthOf(operand);
  return Make(Not{std::move(operand)}, line, depth);
}

std::optional<CompareOp> ExpressionParser::TakeCompareOp() {
  constexpr std::array<std::pair<std::string_view, CompareOp>, 6> kOps = {{
      {"==", CompareOp::kEqual},
      {"!=", CompareOp::kUnequal},
      {"<", CompareOp::kLess},
      {"<=", CompareOp::kAtMost},
      {">", CompareOp::kMore},
      {">=", CompareOp::kAtLeast},
  }};
  for (const auto& [op, kind] : kOps) {
    if (stream_.TakeOperator(op)) return kind;
  }
  if (stream_.TakeName("in")) return CompareOp::kIn;
  if (stream_.current().IsName("not") && stream_.next().IsName("in")) {
    stream_.Take();
    stream_.Take();
    return CompareOp::kNotIn;
  }
  return std::nullopt;
}

ExpressionPtr ExpressionParser::Comparisons() {
  const int32_t line = stream_.current().line;
  ExpressionPtr first = Sum();
  std::vector<std::pair<CompareOp, ExpressionPtr>> rest;
  int32_t depth = DepthOf(first);
  while (const auto op = TakeCompareOp()) {
    rest.emplace_back(*op, Sum());
    depth = std::max(depth, DepthOf(rest.back().second));
  }
  if (rest.empty()) return first;
  return Make(Comparison{std::move(first), std::move(rest)}, line, depth);
}

ExpressionPtr ExpressionParser::MakeBinary(BinaryOp op, int32_t line, ExpressionPtr left,
                                           ExpressionPtr right) {
  const int32_t depth = std::max(DepthOf(left), DepthOf(right));
  return Make(Binary{op, std::move(left), std::move(right)}, line, depth);
}

ExpressionPtr ExpressionParser::Sum() {
  const int32_t line = stream_.current().line;
  ExpressionPtr left = Concatenated();
  while (!stream_.failed()) {
    if (stream_.TakeOperator("+")) {
      left = MakeBinary(BinaryOp::kAdd, line, std::move(left), Concatenated());
    } else if (stream_.TakeOperator("-")) {
      left = MakeBinary(BinaryOp::kSubtract, line, std::move(left), Concatenated());
    } else {
      break;
    }
  }
  return left;
}

ExpressionPtr ExpressionParser::Concatenated() {
  const int32_t line = stream_.current().line;
  std::vector<ExpressionPtr> parts;
  parts.push_back(Product());
  while (stream_.TakeOperator("~")) parts.push_back(Product());
  if (parts.size() == 1) return std::move(parts.front());
  const int32_t depth = DepthOf(parts);
  return Make(Concatenation{std::move(parts)}, line, depth);
}

ExpressionPtr ExpressionParser::Product() {
  constexpr std::array<std::pair<std::string_view, BinaryOp>, 4> kOps = {{
      {"*", BinaryOp::kMultiply},
      {"/", BinaryOp::kDivide},
      {"//", BinaryOp::kFloorDivide},
      {"%", BinaryOp::kModulo},
  }};
  const int32_t line = stream_.current().line;
  ExpressionPtr left = Power();
  for (bool more = true; more && !stream_.failed();) {
    more = false;
    for (const auto& [op, kind] : kOps) {
      if (!stream_.TakeOperator(op)) continue;
      left = MakeBinary(kind, line, std::move(left), Power());
      more = true;
    }
  }
  return left;
}

ExpressionPtr ExpressionParser::Power() {
  const int32_t line = stream_.current().line;
  ExpressionPtr left = Signed(true);
  while (stream_.TakeOperator("**")) {
    left = MakeBinary(BinaryOp::kPower, line, std::move(left), Signed(true));
  }
  return left;
}

ExpressionPtr ExpressionParser::Signed(bool with_filters) {
  const TokenStream::Level level(stream_);
  if (stream_.failed()) return nullptr;
  const int32_t line = stream_.current().line;
  ExpressionPtr expression;
  if (stream_.current().IsOperator("-") || stream_.current().IsOperator("+")) {
    const char op = stream_.Take().text[0];
    ExpressionPtr operand = Signed(false);
    const int32_t depth = DepthOf(operand);
    expression = Make(Unary{op, std::move(operand)}, line, depth);
  } else {
    expression = Primary();
  }
  expression = Postfix(std::move(expression));
  return with_filters ? FiltersAndTests(std::move(expression)) : std::move(expression);
}

namespace {

Target ParseOneTarget(TokenStream& stream, bool with_namespace) {
  Target target;
  if (stream.TakeOperator("(")) {
    const TokenStream::Level level(stream);
    if (!stream.failed()) target = ParseTarget(stream, with_namespace);
    stream.ExpectOperator(")");
    return target;
  }
  const int32_t line = stream.current().line;
  target.name = stream.ExpectAnyName();
  constexpr std::array<std::string_view, 6> kConstants = {"true",  "True", "false",
                                                          "False", "none", "None"};
  if (std::find(kConstants.begin(), kConstants.end(), target.name) != kConstants.end()) {
    stream.FailAt(line, "'" + target.name + "' cannot be assigned to");
  }
  if (with_namespace && stream.TakeOperator(".")) target.attribute = stream.ExpectAnyName();
  return target;
}

}  // namespace

ExpressionPtr ParseTuple(TokenStream& stream, bool conditional) {
  return ExpressionParser(stream).Tuple(conditional, false);
}

ExpressionPtr ParseExpression(TokenStream& stream, bool conditional) {
  return ExpressionParser(stream).Whole(conditional);
}

ExpressionPtr ParseFilters(TokenStream& stream, ExpressionPtr input, bool first_without_bar) {
  return ExpressionParser(stream).Filters(std::move(input), first_without_bar);
}

Target ParseTarget(TokenStream& stream, bool with_namespace) {
  Target target = ParseOneTarget(stream, with_namespace);
  if (stream.failed() || !stream.current().IsOperator(",")) return target;
  Target several;
  several.tuple = true;
  several.items.push_back(std::move(target));
  while (stream.TakeOperator(",")) {
    if (stream.current().kind != Token::Kind::kName && !stream.current().IsOperator("(")) break;
    if (stream.current().IsName("in")) break;
    stream.CountNode(stream.current().line);
    several.items.push_back(ParseOneTarget(stream, with_namespace));
  }
  return several;
}

}  // namespace conclave::router::chat

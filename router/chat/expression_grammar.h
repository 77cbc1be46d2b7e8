#pragma once
// The grammar of expressions, one function for each of its rules, in the order of what binds
// tighter: operators are in expression_parser.cc, what they stand between in operand_parser.cc.
// One thread.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "router/chat/syntax.h"
#include "router/chat/token_stream.h"

namespace conclave::router::chat {

class ExpressionParser {
 public:
  explicit ExpressionParser(TokenStream& stream) : stream_(stream) {}

  // See expression_parser.h.
  ExpressionPtr Tuple(bool conditional, bool parenthesised);
  ExpressionPtr Whole(bool conditional);
  ExpressionPtr Filters(ExpressionPtr input, bool without_bar);

 private:
  // expression_parser.cc
  ExpressionPtr Make(Expression::Kind kind, int32_t line, int32_t depth);
  bool AtTupleEnd() const;
  ExpressionPtr Condition();
  ExpressionPtr Or();
  ExpressionPtr And();
  ExpressionPtr MakeLogic(bool is_and, int32_t line, ExpressionPtr left, ExpressionPtr right);
  ExpressionPtr Negation();
  std::optional<CompareOp> TakeCompareOp();
  ExpressionPtr Comparisons();
  ExpressionPtr MakeBinary(BinaryOp op, int32_t line, ExpressionPtr left, ExpressionPtr right);
  ExpressionPtr Sum();
  ExpressionPtr Concatenated();
  ExpressionPtr Product();
  ExpressionPtr Power();
  ExpressionPtr Signed(bool with_filters);

  // operand_parser.cc
  ExpressionPtr Primary();
  ExpressionPtr NamedValue(const Token& token);
  // Strings beside each other are one.
  ExpressionPtr StringLiteral();
  ExpressionPtr List();
  ExpressionPtr Mapping();
  ExpressionPtr Postfix(ExpressionPtr expression);
  ExpressionPtr FiltersAndTests(ExpressionPtr expression);
  ExpressionPtr Called(ExpressionPtr callee);
  ExpressionPtr Dot(ExpressionPtr object);
  ExpressionPtr Brackets(ExpressionPtr object);
  CallArguments Arguments();
  std::string DottedName();
  bool AtTestArgument() const;
  ExpressionPtr Tested(ExpressionPtr input);

  TokenStream& stream_;
};

// Of the deepest; 0 for none.
int32_t DepthOf(const ExpressionPtr& expression);
int32_t DepthOf(const std::vector<ExpressionPtr>& expressions);
int32_t DepthOf(const CallArguments& arguments);

}  // namespace conclave::router::chat

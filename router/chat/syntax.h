#pragma once
// A parsed chat template. Immutable once parsed; any thread. Depth and number of nodes are bounded
// by the parser, so that whoever walks it may recurse.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "router/chat/value.h"

namespace conclave::router::chat {

struct Expression;
using ExpressionPtr = std::unique_ptr<const Expression>;

struct CallArguments {
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string, ExpressionPtr>> keyword;
  ExpressionPtr more_positional;  // *list; null: none
  ExpressionPtr more_keyword;     // **mapping; null: none
};

struct Constant {
  Value value;
};
struct Name {
  std::string name;
};
struct ListLiteral {
  Sequence::Kind kind;  // kList or kTuple
  std::vector<ExpressionPtr> items;
};
struct DictLiteral {
  std::vector<std::pair<ExpressionPtr, ExpressionPtr>> entries;
};
struct Attribute {
  ExpressionPtr object;
  std::string name;
};
struct Subscript {
  ExpressionPtr object;
  ExpressionPtr key;
};
struct Slice {
  ExpressionPtr object;
  ExpressionPtr start;  // null: open; so are the others
  ExpressionPtr stop;
  ExpressionPtr step;
};
struct Call {
  ExpressionPtr callee;
  CallArguments arguments;
};
struct FilterCall {
  ExpressionPtr input;  // null: the text of the block it stands in
  std::string name;
  Native native;
  CallArguments arguments;
};
struct TestCall {
  ExpressionPtr input;
  std::string name;
  Native native;
  CallArguments arguments;
};
struct Not {
  ExpressionPtr operand;
};
struct Unary {
  char op;  // - or +
  ExpressionPtr operand;
};
enum class BinaryOp : uint8_t {
  kAdd,
  kSubtract,
  kMultiply,
  kDivide,
  kFloorDivide,
  kModulo,
  kPower
};
struct Binary {
  BinaryOp op;
  ExpressionPtr left;
  ExpressionPtr right;
};
// `and` or `or`: the operand that decides.
struct Logic {
  bool is_and;
  ExpressionPtr left;
  ExpressionPtr right;
};
enum class CompareOp : uint8_t { kEqual, kUnequal, kLess, kAtMost, kMore, kAtLeast, kIn, kNotIn };
// a < b <= c: every neighbouring pair.
struct Comparison {
  ExpressionPtr first;
  std::vector<std::pair<CompareOp, ExpressionPtr>> rest;
};
struct Concatenation {
  std::vector<ExpressionPtr> parts;
};
struct Conditional {
  ExpressionPtr condition;
  ExpressionPtr then;
  ExpressionPtr otherwise;  // null: undefined
};

struct Expression {
  using Kind = std::variant<Constant, Name, ListLiteral, DictLiteral, Attribute, Subscript, Slice,
                            Call, FilterCall, TestCall, Not, Unary, Binary, Logic, Comparison,
                            Concatenation, Conditional>;
  Kind kind;
  int32_t line = 0;
  int32_t depth = 1;
};

struct Statement;
using Body = std::vector<std::unique_ptr<const Statement>>;

// What a value is assigned to: a name, ns.name, or several of them.
struct Target {
  std::string name;
  std::string attribute;  // of the namespace `name`; empty: the name itself
  bool tuple = false;
  std::vector<Target> items;  // of a tuple
};

struct Data {
  Text text;
};
struct Output {
  ExpressionPtr value;
};
struct Set {
  Target target;
  ExpressionPtr value;
};
struct SetBlock {
  Target target;
  ExpressionPtr filter;  // null: none
  Body body;
};
struct If {
  std::vector<std::pair<ExpressionPtr, Body>> branches;
  Body otherwise;
};
struct For {
  Target target;
  ExpressionPtr items;
  ExpressionPtr condition;  // null: all items
  Body body;
  Body otherwise;          // of no items
  bool recursive = false;  // loop(items) renders it of others
};
struct Parameter {
  std::string name;
  ExpressionPtr otherwise;  // null: undefined
};
struct Macro {
  std::string name;
  std::vector<Parameter> parameters;
  Body body;
  bool takes_varargs = false;  // its body names them
  bool takes_kwargs = false;
  bool takes_caller = false;
};
struct MacroDefinition {
  Macro macro;
};
struct CallBlock {
  ExpressionPtr call;  // a Call
  Macro caller;
};
struct FilterBlock {
  ExpressionPtr filter;
  Body body;
};
struct With {
  std::vector<std::pair<Target, ExpressionPtr>> bindings;
  Body body;
};
// {% generation %}: its body is what an assistant wrote; only training asks.
struct Generation {
  Body body;
};
struct Break {};
struct Continue {};

struct Statement {
  using Kind = std::variant<Data, Output, Set, SetBlock, If, For, MacroDefinition, CallBlock,
                            FilterBlock, With, Generation, Break, Continue>;
  Kind kind;
  int32_t line = 0;
};

}  // namespace conclave::router::chat

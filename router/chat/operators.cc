#include "router/chat/operators.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "router/chat/access.h"
#include "router/chat/format.h"
#include "router/chat/strings.h"

namespace conclave::router::chat {
namespace {

constexpr const char* kSpelled[] = {"+", "-", "*", "/", "//", "%", "**"};

Value FailTypes(Work& work, const char* op, const Value& left, const Value& right) {
  if (left.IsUndefined()) {
    FailUndefined(work, left);
  } else if (right.IsUndefined()) {
    FailUndefined(work, right);
  } else {
    work.Fail(std::string("'") + op + "' does not take a " + TypeName(left) + " and a " +
              TypeName(right));
  }
  return {};
}

Value FailOverflow(Work& work) {
  work.Fail("a whole number goes beyond 64 bits");
  return {};
}

Value FailZero(Work& work) {
  work.Fail("division by zero");
  return {};
}

int64_t FloorDivide(int64_t a, int64_t b) {
  const int64_t quotient = a / b;
  return a % b != 0 && (a < 0) != (b < 0) ? quotient - 1 : quotient;
}

int64_t FloorModulo(int64_t a, int64_t b) {
  const int64_t rest = a % b;
  return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
}

double FloorModulo(double a, double b) {
  const double rest = std::fmod(a, b);
  return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
}

Value IntegerPower(Work& work, int64_t base, int64_t exponent) {
  int64_t result = 1;
  if (base == 0 || base == 1) return exponent == 0 ? int64_t{1} : base;
  if (base == -1) return exponent % 2 == 0 ? int64_t{1} : int64_t{-1};
  for (; exponent > 0; --exponent) {
    if (__builtin_mul_overflow(result, base, &result)) return FailOverflow(work);
  }
  return result;
}

Value OperateIntegers(Work& work, BinaryOp op, int64_t a, int64_t b) {
  int64_t result = 0;
  switch (op) {
    case BinaryOp::kAdd:
      return __builtin_add_overflow(a, b, &result) ? FailOverflow(work) : Value(result);
    case BinaryOp::kSubtract:
      return __builtin_sub_overflow(a, b, &result) ? FailOverflow(work) : Value(result);
    case BinaryOp::kMultiply:
      return __builtin_mul_overflow(a, b, &result) ? FailOverflow(work) : Value(result);
    case BinaryOp::kDivide:
      return b == 0 ? FailZero(work) : Value(static_cast<double>(a) / static_cast<double>(b));
    case BinaryOp::kFloorDivide:
      if (b == 0) return FailZero(work);
      return a == INT64_MIN && b == -1 ? FailOverflow(work) : Value(FloorDivide(a, b));
    case BinaryOp::kModulo:
      if (b == 0) return FailZero(work);
      return b == -1 ? Value(int64_t{0}) : Value(FloorModulo(a, b));
    case BinaryOp::kPower:
      if (b >= 0) return IntegerPower(work, a, b);
      return a == 0 ? FailZero(work)
                    : Value(std::pow(static_cast<double>(a), static_cast<double>(b)));
  }
  return {};
}

Value OperateFloats(Work& work, BinaryOp op, double a, double b) {
  switch (op) {
    case BinaryOp::kAdd:
      return a + b;
    case BinaryOp::kSubtract:
      return a - b;
    case BinaryOp::kMultiply:
      return a * b;
    case BinaryOp::kDivide:
      return b == 0 ? FailZero(work) : Value(a / b);
    case BinaryOp::kFloorDivide:
      return b == 0 ? FailZero(work) : Value((a - FloorModulo(a, b)) / b);
    case BinaryOp::kModulo:
      return b == 0 ? FailZero(work) : Value(FloorModulo(a, b));
    case BinaryOp::kPower:
      return std::pow(a, b);
  }
  return {};
}

// What is joined to markup is escaped unless it is markup itself.
Value JoinTexts(Work& work, const Value& left, const Value& right) {
  const bool markup = left.markup() || right.markup();
  Text joined;
  for (const Value* const part : {&left, &right}) {
    if (!work.Make(part->text()->held_bytes())) return {};
    joined.Append(markup && !part->markup() ? Escape(work, *part->text()) : *part->text());
  }
  return MakeString(work, std::move(joined), markup);
}

// [1] + [2]; of the same kind.
Value JoinSequences(Work& work, const Sequence& left, const Sequence& right) {
  if (!work.Step(static_cast<int64_t>(left.items.size() + right.items.size()))) return {};
  std::vector<Value> items = left.items;
  items.insert(items.end(), right.items.begin(), right.items.end());
  return MakeSequence(work, std::move(items), left.kind);
}

Value RepeatSequence(Work& work, const Sequence& sequence, int64_t times) {
  std::vector<Value> items;
  for (int64_t i = 0; i < times && !sequence.items.empty(); ++i) {
    if (!work.Make(sequence.items.size() * sizeof(Value))) return {};
    items.insert(items.end(), sequence.items.begin(), sequence.items.end());
  }
  return MakeSequence(work, std::move(items), sequence.kind);
}

bool IsJoinable(const Value& value) {
  return value.sequence() != nullptr && value.sequence()->kind <= Sequence::Kind::kTuple;
}

int OrderNumbers(double a, double b) { return a < b ? -1 : a > b ? 1 : 0; }

}  // namespace

Value Operate(Work& work, BinaryOp op, const Value& left, const Value& right) {
  if (left.integer() && right.integer()) {
    return OperateIntegers(work, op, *left.integer(), *right.integer());
  }
  if (left.IsNumber() && right.IsNumber()) {
    return OperateFloats(work, op, *left.number(), *right.number());
  }
  if (op == BinaryOp::kAdd) {
    if (left.IsString() && right.IsString()) return JoinTexts(work, left, right);
    if (IsJoinable(left) && IsJoinable(right) && left.sequence()->kind == right.sequence()->kind) {
      return JoinSequences(work, *left.sequence(), *right.sequence());
    }
  }
  if (op == BinaryOp::kMultiply) {
    const bool swapped = left.integer().has_value();
    const Value& value = swapped ? right : left;
    const std::optional<int64_t> times = swapped ? left.integer() : right.integer();
    if (times && value.IsString()) {
      return MakeString(work, Repeat(work, *value.text(), *times), value.markup());
    }
    if (times && IsJoinable(value)) return RepeatSequence(work, *value.sequence(), *times);
  }
  if (op == BinaryOp::kModulo && left.IsString() && !right.IsUndefined()) {
    return MakeString(work, FormatPercent(work, *left.text(), right), left.markup());
  }
  return FailTypes(work, kSpelled[static_cast<size_t>(op)], left, right);
}

Value Negate(Work& work, char op, const Value& operand) {
  if (const auto whole = operand.integer()) {
    if (op == '+') return *whole;
    return *whole == INT64_MIN ? FailOverflow(work) : Value(-*whole);
  }
  if (const auto number = operand.number()) return op == '+' ? *number : -*number;
  if (operand.IsUndefined()) {
    FailUndefined(work, operand);
  } else {
    work.Fail(std::string("'") + op + "' does not take a " + TypeName(operand));
  }
  return {};
}

int Order(Work& work, const Value& left, const Value& right) {
  if (!work.Step()) return 0;
  if (left.integer() && right.integer()) {
    const int64_t a = *left.integer(), b = *right.integer();
    return a < b ? -1 : a > b ? 1 : 0;
  }
  if (left.IsNumber() && right.IsNumber()) return OrderNumbers(*left.number(), *right.number());
  if (left.IsString() && right.IsString()) {
    if (!work.Visit(std::min(left.text()->size(), right.text()->size()))) return 0;
    // Bytes of UTF-8 are in the order of their code points.
    return left.text()->bytes().compare(right.text()->bytes());
  }
  if (IsJoinable(left) && IsJoinable(right) && left.sequence()->kind == right.sequence()->kind) {
    const std::vector<Value>&a = left.sequence()->items, &b = right.sequence()->items;
    for (size_t i = 0; i < std::min(a.size(), b.size()) && !work.failed(); ++i) {
      if (!Equal(work, a[i], b[i])) return Order(work, a[i], b[i]);
    }
    return a.size() < b.size() ? -1 : a.size() > b.size() ? 1 : 0;
  }
  FailTypes(work, "<", left, right);
  return 0;
}

bool In(Work& work, const Value& item, const Value& container) {
  if (const Text* const text = container.text()) {
    if (item.text() != nullptr) return Contains(work, *text, *item.text());
    work.Fail("'in <string>' needs a string on the left, not " + TypeName(item));
    return false;
  }
  if (const Dict* const dict = container.dict()) {
    return dict->Find(work, item) != nullptr;
  }
  if (const Sequence* const sequence = container.sequence()) {
    return std::any_of(sequence->items.begin(), sequence->items.end(),
                       [&](const Value& one) { return Equal(work, one, item); });
  }
  if (Iterator* const iterator = container.iterator()) {
    while (iterator->next < iterator->items.size()) {
      if (Equal(work, iterator->items[iterator->next++], item)) return true;
    }
    return false;
  }
  if (!container.IsUndefined()) {
    work.Fail("'in' does not take a " + TypeName(container) + " on the right");
  }
  return false;
}

bool Compare(Work& work, CompareOp op, const Value& left, const Value& right) {
  switch (op) {
    case CompareOp::kEqual:
      return Equal(work, left, right);
    case CompareOp::kUnequal:
      return !Equal(work, left, right);
    case CompareOp::kIn:
      return In(work, left, right);
    case CompareOp::kNotIn:
      return !In(work, left, right);
    default:
      break;
  }
  const bool numbers = left.IsNumber() && right.IsNumber();
  if (numbers && (std::isnan(*left.number()) || std::isnan(*right.number()))) return false;
  const int order = Order(work, left, right);
  switch (op) {
    case CompareOp::kLess:
      return order < 0;
    case CompareOp::kAtMost:
      return order <= 0;
    case CompareOp::kMore:
      return order > 0;
    default:
      return order >= 0;
  }
}

}  // namespace conclave::router::chat

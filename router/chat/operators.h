#pragma once
// What +, %, <, in and their like do with values, as Python has them. One thread.

#include "router/chat/syntax.h"
#include "router/chat/value.h"

namespace conclave::router::chat {

Value Operate(Work& work, BinaryOp op, const Value& left, const Value& right);
// op: - or +
Value Negate(Work& work, char op, const Value& operand);
bool Compare(Work& work, CompareOp op, const Value& left, const Value& right);

// Below 0, 0 or above. Fails for what has no order.
int Order(Work& work, const Value& left, const Value& right);
bool In(Work& work, const Value& item, const Value& container);

}  // namespace conclave::router::chat

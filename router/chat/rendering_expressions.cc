// How a rendering evaluates expressions.

#include <utility>

#include "router/chat/access.h"
#include "router/chat/functions.h"
#include "router/chat/operators.h"
#include "router/chat/print.h"
#include "router/chat/rendering.h"

namespace conclave::router::chat {

Value Rendering::Evaluate(const Expression& expression, Scope* scope) {
  if (depth_ >= work_.limits().evaluation_depth) {
    work_.Fail("macros and expressions are nested more than " +
               std::to_string(work_.limits().evaluation_depth) + " deep, the limit");
  }
  if (!work_.Step()) return {};
  work_.line = expression.line;
  ++depth_;
  Value value = std::visit([&](const auto& node) { return Get(node, scope); }, expression.kind);
  --depth_;
  return value;
}

Value Rendering::Get(const Constant& node, Scope*) { return node.value; }

Value Rendering::Get(const Name& node, Scope* scope) {
  for (const Scope* inner = scope; inner != nullptr; inner = inner->parent) {
    if (!work_.Scan(inner->names.size())) return {};
    if (const Value* const found = inner->Find(node.name)) return *found;
  }
  if (const Native global = FindGlobal(node.name)) {
    return MakeNative(work_, node.name, global, None());
  }
  return Value::Missing("'" + node.name + "' is undefined");
}

Value Rendering::Get(const ListLiteral& node, Scope* scope) {
  std::vector<Value> items;
  for (const ExpressionPtr& item : node.items) items.push_back(Evaluate(*item, scope));
  return MakeSequence(work_, std::move(items), node.kind);
}

Value Rendering::Get(const DictLiteral& node, Scope* scope) {
  Dict dict;
  for (const auto& [key, value] : node.entries) {
    const Value name = Evaluate(*key, scope);
    if (!dict.Set(work_, name, Evaluate(*value, scope))) {
      work_.Fail("a " + TypeName(name) + " cannot be the key of a mapping");
    }
    if (work_.failed()) return {};
  }
  return MakeDict(work_, std::move(dict));
}

Value Rendering::Get(const Attribute& node, Scope* scope) {
  const Value object = Evaluate(*node.object, scope);
  return work_.failed() ? Value() : GetAttribute(work_, object, node.name);
}

Value Rendering::Get(const Subscript& node, Scope* scope) {
  const Value object = Evaluate(*node.object, scope);
  const Value key = Evaluate(*node.key, scope);
  return work_.failed() ? Value() : GetItem(work_, object, key);
}

Value Rendering::Get(const Slice& node, Scope* scope) {
  const Value object = Evaluate(*node.object, scope);
  const auto bound = [&](const ExpressionPtr& expression) {
    return expression == nullptr ? Value(None()) : Evaluate(*expression, scope);
  };
  const Value start = bound(node.start), stop = bound(node.stop), step = bound(node.step);
  return work_.failed() ? Value() : GetSlice(work_, object, start, stop, step);
}

Arguments Rendering::Evaluated(const CallArguments& arguments, Scope* scope) {
  Arguments values;
  for (const ExpressionPtr& one : arguments.positional) {
    values.positional.push_back(Evaluate(*one, scope));
  }
  for (const auto& [name, one] : arguments.keyword) {
    values.keyword.emplace_back(name, Evaluate(*one, scope));
  }
  if (arguments.more_positional != nullptr) {
    const Value more = Evaluate(*arguments.more_positional, scope);
    if (work_.failed()) return values;
    for (Value& one : Items(work_, more)) values.positional.push_back(std::move(one));
  }
  if (arguments.more_keyword != nullptr) {
    const Value more = Evaluate(*arguments.more_keyword, scope);
    if (work_.failed()) return values;
    if (more.dict() == nullptr) work_.Fail("** takes a mapping, not a " + TypeName(more));
    if (work_.failed() || !work_.Make(more.dict()->entries().size() * 64)) return values;
    for (const auto& [name, one] : more.dict()->entries()) {
      if (name.text() == nullptr) work_.Fail("** takes a mapping whose keys are strings");
      if (work_.failed() || !work_.Make(name.text()->size())) return values;
      values.keyword.emplace_back(name.text()->bytes(), one);
    }
  }
  return values;
}

Value Rendering::CallValue(const Value& callee, Arguments arguments) {
  if (callee.IsUndefined()) {
    FailUndefined(work_, callee);
    return {};
  }
  if (const Loop* const loop = callee.loop()) return CallLoop(*loop, arguments);
  const Callable* const callable = callee.callable();
  if (callable == nullptr) {
    work_.Fail("a " + TypeName(callee) + " cannot be called");
    return {};
  }
  if (callable->native != nullptr) return callable->native(work_, callable->self, arguments);
  return CallMacro(*callable->macro, callable->scope, std::move(arguments));
}

Value Rendering::Get(const Call& node, Scope* scope) {
  const Value callee = Evaluate(*node.callee, scope);
  Arguments arguments = Evaluated(node.arguments, scope);
  return work_.failed() ? Value() : CallValue(callee, std::move(arguments));
}

Value Rendering::Get(const FilterCall& node, Scope* scope) {
  const Value input = node.input == nullptr ? *block_ : Evaluate(*node.input, scope);
  const Arguments arguments = Evaluated(node.arguments, scope);
  return work_.failed() ? Value() : node.native(work_, input, arguments);
}

Value Rendering::Get(const TestCall& node, Scope* scope) {
  const Value input = Evaluate(*node.input, scope);
  const Arguments arguments = Evaluated(node.arguments, scope);
  return work_.failed() ? Value() : node.native(work_, input, arguments);
}

Value Rendering::Get(const Not& node, Scope* scope) {
  return !Truth(Evaluate(*node.operand, scope));
}

Value Rendering::Get(const Unary& node, Scope* scope) {
  const Value operand = Evaluate(*node.operand, scope);
  return work_.failed() ? Value() : Negate(work_, node.op, operand);
}

Value Rendering::Get(const Binary& node, Scope* scope) {
  const Value left = Evaluate(*node.left, scope);
  const Value right = Evaluate(*node.right, scope);
  return work_.failed() ? Value() : Operate(work_, node.op, left, right);
}

Value Rendering::Get(const Logic& node, Scope* scope) {
  Value left = Evaluate(*node.left, scope);
  return Truth(left) == node.is_and ? Evaluate(*node.right, scope) : std::move(left);
}

Value Rendering::Get(const Comparison& node, Scope* scope) {
  Value left = Evaluate(*node.first, scope);
  for (const auto& [op, expression] : node.rest) {
    Value right = Evaluate(*expression, scope);
    if (work_.failed() || !Compare(work_, op, left, right)) return false;
    left = std::move(right);
  }
  return true;
}

Value Rendering::Get(const Concatenation& node, Scope* scope) {
  Text text;
  for (const ExpressionPtr& part : node.parts) {
    const Value value = Evaluate(*part, scope);
    if (work_.failed()) return {};
    text.Append(Str(work_, value));
  }
  return MakeString(work_, std::move(text));
}

Value Rendering::Get(const Conditional& node, Scope* scope) {
  if (Truth(Evaluate(*node.condition, scope))) return Evaluate(*node.then, scope);
  if (node.otherwise != nullptr) return Evaluate(*node.otherwise, scope);
  return Value::Missing("an if-expression was false and has no else");
}

}  // namespace conclave::router::chat

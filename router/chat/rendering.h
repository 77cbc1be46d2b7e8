#pragma once
// One rendering of a chat template: walks its syntax with the variables of one request. It ends:
// every step is counted, and depth is bounded. One thread; the syntax is shared.

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "router/chat/syntax.h"
#include "router/chat/value.h"
#include "router/chat/work.h"

namespace conclave::router::chat {

// The names that a statement set, and where to look for others.
struct Scope {
  Scope* parent = nullptr;
  std::vector<std::pair<std::string_view, Value>> names;

  const Value* Find(std::string_view name) const;
  void Set(std::string_view name, Value value);
};

using Variables = std::vector<std::pair<std::string, Value>>;

class Rendering {
 public:
  // All outlive it.
  Rendering(const Body& body, const Variables& variables, Work& work);

  // The text; what it is after a failure (of work) does not matter.
  Text Run();

 private:
  enum class Flow : uint8_t { kOn, kBreak, kContinue };

  // While it lives, one level deeper.
  class Level;

  Scope* NewScope(Scope* parent);

  // rendering.cc
  Flow Execute(const Body& body, Scope* scope, Text* out);
  Flow Execute(const Statement& statement, Scope* scope, Text* out);
  Flow Do(const Data& node, Scope* scope, Text* out);
  Flow Do(const Output& node, Scope* scope, Text* out);
  Flow Do(const Set& node, Scope* scope, Text* out);
  Flow Do(const SetBlock& node, Scope* scope, Text* out);
  Flow Do(const If& node, Scope* scope, Text* out);
  Flow Do(const For& node, Scope* scope, Text* out);
  Flow Do(const MacroDefinition& node, Scope* scope, Text* out);
  Flow Do(const CallBlock& node, Scope* scope, Text* out);
  Flow Do(const FilterBlock& node, Scope* scope, Text* out);
  Flow Do(const With& node, Scope* scope, Text* out);
  Flow Do(const Generation& node, Scope* scope, Text* out);
  Flow Do(const Break& node, Scope* scope, Text* out);
  Flow Do(const Continue& node, Scope* scope, Text* out);
  Flow RunLoop(const For& node, const Value& iterable, int32_t depth0, Scope* scope, Text* out);
  std::vector<Value> ItemsOf(const For& node, const Value& iterable, Scope* scope);
  Value CallLoop(const Loop& loop, const Arguments& arguments);
  Value TextOf(const Body& body, Scope* scope);
  void Write(const Value& value, Text* out);
  void Assign(const Target& target, const Value& value, Scope* scope);
  Value CallMacro(const Macro& macro, Scope* defined_in, Arguments arguments);
  void BindParameters(const Macro& macro, Arguments* arguments, Scope* scope);

  // rendering_expressions.cc
  Value Evaluate(const Expression& expression, Scope* scope);
  Value Get(const Constant& node, Scope* scope);
  Value Get(const Name& node, Scope* scope);
  Value Get(const ListLiteral& node, Scope* scope);
  Value Get(const DictLiteral& node, Scope* scope);
  Value Get(const Attribute& node, Scope* scope);
  Value Get(const Subscript& node, Scope* scope);
  Value Get(const Slice& node, Scope* scope);
  Value Get(const Call& node, Scope* scope);
  Value Get(const FilterCall& node, Scope* scope);
  Value Get(const TestCall& node, Scope* scope);
  Value Get(const Not& node, Scope* scope);
  Value Get(const Unary& node, Scope* scope);
  Value Get(const Binary& node, Scope* scope);
  Value Get(const Logic& node, Scope* scope);
  Value Get(const Comparison& node, Scope* scope);
  Value Get(const Concatenation& node, Scope* scope);
  Value Get(const Conditional& node, Scope* scope);
  Arguments Evaluated(const CallArguments& arguments, Scope* scope);
  Value CallValue(const Value& callee, Arguments arguments);

  const Body& body_;
  const Variables& variables_;
  Work& work_;
  const Value* block_ = nullptr;  // what a filter without an input is applied to
  int32_t depth_ = 0;
};

}  // namespace conclave::router::chat

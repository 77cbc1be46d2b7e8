#include "router/chat/rendering.h"

#include <algorithm>
#include <memory>

#include "router/chat/access.h"
#include "router/chat/print.h"

namespace conclave::router::chat {

const Value* Scope::Find(std::string_view name) const {
  for (const auto& [key, value] : names) {
    if (key == name) return &value;
  }
  return nullptr;
}

void Scope::Set(std::string_view name, Value value) {
  for (auto& [key, old] : names) {
    if (key == name) {
      old = std::move(value);
      return;
    }
  }
  names.emplace_back(name, std::move(value));
}

class Rendering::Level {
 public:
  explicit Level(Rendering& rendering) : rendering_(rendering) {
    const int32_t limit = rendering.work_.limits().evaluation_depth;
    if (++rendering_.depth_ > limit) {
      rendering.work_.Fail("macros and expressions are nested more than " + std::to_string(limit) +
                           " deep, the limit");
    }
  }
  ~Level() { --rendering_.depth_; }
  Level(const Level&) = delete;
  Level& operator=(const Level&) = delete;

 private:
  Rendering& rendering_;
};

Rendering::Rendering(const Body& body, const Variables& variables, Work& work)
    : body_(body), variables_(variables), work_(work) {}

Text Rendering::Run() {
  Scope* const root = NewScope(nullptr);
  for (const auto& [name, value] : variables_) root->Set(name, value);
  Text out;
  Execute(body_, root, &out);
  return out;
}

Scope* Rendering::NewScope(Scope* parent) {
  work_.Make(sizeof(Scope) + 2 * sizeof(Value));
  auto scope = std::make_shared<Scope>();
  scope->parent = parent;
  return work_.Keep(std::move(scope));
}

Rendering::Flow Rendering::Execute(const Body& body, Scope* scope, Text* out) {
  for (const auto& statement : body) {
    const Flow flow = Execute(*statement, scope, out);
    if (work_.failed()) return Flow::kBreak;
    if (flow != Flow::kOn) return flow;
  }
  return Flow::kOn;
}

Rendering::Flow Rendering::Execute(const Statement& statement, Scope* scope, Text* out) {
  const Level level(*this);
  work_.line = statement.line;
  if (!work_.Step()) return Flow::kBreak;
  return std::visit([&](const auto& node) { return Do(node, scope, out); }, statement.kind);
}

void Rendering::Write(const Value& value, Text* out) {
  if (const Text* const text = value.text()) {
    if (!work_.Make(text->held_bytes())) return;
    out->Append(*text);
  } else {
    out->Append(Str(work_, value));
  }
  if (out->size() <= work_.limits().output_bytes) return;
  work_.Fail("the text has more than " + std::to_string(work_.limits().output_bytes) +
             " bytes, the limit");
}

Rendering::Flow Rendering::Do(const Data& node, Scope*, Text* out) {
  if (work_.Make(node.text.size())) out->Append(node.text);
  return Flow::kOn;
}

Rendering::Flow Rendering::Do(const Output& node, Scope* scope, Text* out) {
  const Value value = Evaluate(*node.value, scope);
  if (!work_.failed()) Write(value, out);
  return Flow::kOn;
}

Rendering::Flow Rendering::Do(const Set& node, Scope* scope, Text*) {
  Assign(node.target, Evaluate(*node.value, scope), scope);
  return Flow::kOn;
}

Value Rendering::TextOf(const Body& body, Scope* scope) {
  Text text;
  Execute(body, NewScope(scope), &text);
  return MakeString(work_, std::move(text));
}

Rendering::Flow Rendering::Do(const SetBlock& node, Scope* scope, Text*) {
  Value text = TextOf(node.body, scope);
  if (node.filter != nullptr && !work_.failed()) {
    const Value* const outer = std::exchange(block_, &text);
    Value filtered = Evaluate(*node.filter, scope);
    block_ = outer;
    text = std::move(filtered);
  }
  Assign(node.target, text, scope);
  return Flow::kOn;
}

Rendering::Flow Rendering::Do(const FilterBlock& node, Scope* scope, Text* out) {
  const Value text = TextOf(node.body, scope);
  if (work_.failed()) return Flow::kOn;
  const Value* const outer = std::exchange(block_, &text);
  const Value filtered = Evaluate(*node.filter, scope);
  block_ = outer;
  if (work_.failed()) return Flow::kOn;
  if (!filtered.IsString()) work_.Fail("the filter of a block makes a " + TypeName(filtered));
  Write(filtered, out);
  return Flow::kOn;
}

Rendering::Flow Rendering::Do(const If& node, Scope* scope, Text* out) {
  for (const auto& [condition, body] : node.branches) {
    const bool holds = Truth(Evaluate(*condition, scope));
    if (work_.failed()) return Flow::kOn;
    if (holds) return Execute(body, scope, out);
  }
  return Execute(node.otherwise, scope, out);
}

std::vector<Value> Rendering::ItemsOf(const For& node, const Value& iterable, Scope* scope) {
  std::vector<Value> items = Items(work_, iterable);
  if (node.condition == nullptr) return items;
  std::vector<Value> chosen;
  for (Value& item : items) {
    Scope* const inner = NewScope(scope);
    Assign(node.target, item, inner);
    const bool holds = Truth(Evaluate(*node.condition, inner));
    if (work_.failed()) return {};
    if (holds) chosen.push_back(std::move(item));
  }
  return chosen;
}

Rendering::Flow Rendering::Do(const For& node, Scope* scope, Text* out) {
  const Value iterable = Evaluate(*node.items, scope);
  return work_.failed() ? Flow::kOn : RunLoop(node, iterable, 0, scope, out);
}

Value Rendering::CallLoop(const Loop& loop, const Arguments& arguments) {
  const Level level(*this);
  if (loop.recursive == nullptr) work_.Fail("loop(...) is for a loop that says 'recursive'");
  if (arguments.positional.size() != 1 || !arguments.keyword.empty()) {
    work_.Fail("loop(...) takes one argument");
  }
  Text text;
  if (!work_.failed()) {
    RunLoop(*loop.recursive, arguments.positional[0], loop.depth0 + 1, loop.scope, &text);
  }
  return MakeString(work_, std::move(text));
}

Rendering::Flow Rendering::RunLoop(const For& node, const Value& iterable, int32_t depth0,
                                   Scope* scope, Text* out) {
  auto loop = std::make_shared<Loop>();
  loop->items = ItemsOf(node, iterable, scope);
  loop->depth0 = depth0;
  loop->recursive = node.recursive ? &node : nullptr;
  loop->scope = scope;
  if (work_.failed()) return Flow::kOn;
  if (loop->items.empty()) return Execute(node.otherwise, NewScope(scope), out);
  Loop* const kept = work_.Keep(std::move(loop));
  for (kept->index0 = 0; kept->index0 < kept->items.size(); ++kept->index0) {
    Scope* const inner = NewScope(scope);
    inner->Set("loop", kept);
    Assign(node.target, kept->items[kept->index0], inner);
    if (work_.failed()) return Flow::kOn;
    if (Execute(node.body, inner, out) == Flow::kBreak) break;
  }
  return Flow::kOn;
}

Rendering::Flow Rendering::Do(const MacroDefinition& node, Scope* scope, Text*) {
  if (!work_.Make(sizeof(Callable))) return Flow::kOn;
  auto callable = std::make_shared<Callable>();
  callable->name = node.macro.name;
  callable->macro = &node.macro;
  callable->scope = scope;
  scope->Set(node.macro.name, std::shared_ptr<const Callable>(std::move(callable)));
  return Flow::kOn;
}

Rendering::Flow Rendering::Do(const CallBlock& node, Scope* scope, Text* out) {
  auto caller = std::make_shared<Callable>();
  caller->name = "caller";
  caller->macro = &node.caller;
  caller->scope = scope;
  const Call& call = std::get<Call>(node.call->kind);
  const Value callee = Evaluate(*call.callee, scope);
  Arguments arguments = Evaluated(call.arguments, scope);
  arguments.keyword.emplace_back("caller", std::shared_ptr<const Callable>(std::move(caller)));
  const Value value = work_.failed() ? Value() : CallValue(callee, std::move(arguments));
  if (!work_.failed()) Write(value, out);
  return Flow::kOn;
}

Rendering::Flow Rendering::Do(const With& node, Scope* scope, Text* out) {
  Scope* const inner = NewScope(scope);
  for (const auto& [target, value] : node.bindings) Assign(target, Evaluate(*value, scope), inner);
  return work_.failed() ? Flow::kOn : Execute(node.body, inner, out);
}

Rendering::Flow Rendering::Do(const Generation& node, Scope* scope, Text* out) {
  return Execute(node.body, NewScope(scope), out);
}

Rendering::Flow Rendering::Do(const Break&, Scope*, Text*) { return Flow::kBreak; }

Rendering::Flow Rendering::Do(const Continue&, Scope*, Text*) { return Flow::kContinue; }

void Rendering::Assign(const Target& target, const Value& value, Scope* scope) {
  if (work_.failed()) return;
  if (target.tuple) {
    const std::vector<Value> items = Items(work_, value);
    if (items.size() != target.items.size()) {
      return work_.Fail("there are " + std::to_string(items.size()) + " values for " +
                        std::to_string(target.items.size()) + " names");
    }
    for (size_t i = 0; i < items.size(); ++i) Assign(target.items[i], items[i], scope);
    return;
  }
  if (target.attribute.empty()) return scope->Set(target.name, value);
  const Value holder = Get(Name{target.name}, scope);
  Namespace* const ns = holder.ns();
  if (ns == nullptr) return work_.Fail("cannot assign an attribute on what is no namespace");
  if (target.attribute[0] == '_') return work_.Fail("a namespace takes no name that begins with _");
  if (work_.Make(sizeof(Value))) ns->Set(work_, target.attribute, value);
}

Value Rendering::CallMacro(const Macro& macro, Scope* defined_in, Arguments arguments) {
  const Level level(*this);
  const int32_t line = work_.line;
  Scope* const scope = NewScope(defined_in);
  BindParameters(macro, &arguments, scope);
  Text text;
  if (!work_.failed()) Execute(macro.body, scope, &text);
  if (!work_.failed()) work_.line = line;
  return MakeString(work_, std::move(text));
}

void Rendering::BindParameters(const Macro& macro, Arguments* arguments, Scope* scope) {
  const std::string name = "macro '" + macro.name + "' ";
  std::vector<Value>& given = arguments->positional;
  const auto take_keyword = [&](std::string_view key) -> std::optional<Value> {
    const auto found = std::find_if(arguments->keyword.begin(), arguments->keyword.end(),
                                    [&](const auto& entry) { return entry.first == key; });
    if (found == arguments->keyword.end()) return std::nullopt;
    Value value = std::move(found->second);
    arguments->keyword.erase(found);
    return value;
  };
  for (size_t i = 0; i < macro.parameters.size(); ++i) {
    const Parameter& parameter = macro.parameters[i];
    std::optional<Value> value;
    if (i < given.size()) {
      value = given[i];
    } else {
      value = take_keyword(parameter.name);
    }
    if (!value && parameter.otherwise != nullptr) value = Evaluate(*parameter.otherwise, scope);
    if (!value) value = Value::Missing("parameter '" + parameter.name + "' was not provided");
    scope->Set(parameter.name, *std::move(value));
  }
  if (macro.takes_caller && scope->Find("caller") == nullptr) {
    scope->Set("caller", take_keyword("caller").value_or(Value::Missing("No caller defined")));
  }
  if (macro.takes_kwargs) {
    Dict rest;
    for (const auto& [key, value] : arguments->keyword)
      rest.Set(work_, MakeName(work_, key), value);
    scope->Set("kwargs", MakeDict(work_, std::move(rest)));
  } else if (!arguments->keyword.empty()) {
    work_.Fail(name + "takes no keyword argument '" + arguments->keyword[0].first + "'");
  }
  if (macro.takes_varargs) {
    const size_t taken = std::min(given.size(), macro.parameters.size());
    scope->Set(
        "varargs",
        MakeSequence(work_, {given.begin() + static_cast<std::ptrdiff_t>(taken), given.end()},
                     Sequence::Kind::kTuple));
  } else if (given.size() > macro.parameters.size()) {
    work_.Fail(name + "takes not more than " + std::to_string(macro.parameters.size()) +
               " argument(s)");
  }
}

}  // namespace conclave::router::chat

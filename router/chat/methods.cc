#include "router/chat/methods.h"

#include <algorithm>
#include <array>
#include <span>
#include <utility>
#include <vector>

#include "router/chat/access.h"
#include "router/chat/arguments.h"
#include "router/chat/syntax.h"

namespace conclave::router::chat {
namespace {

struct Method {
  std::string_view name;
  Native native;
};

Native FindIn(std::span<const Method> methods, std::string_view name) {
  const auto found = std::find_if(methods.begin(), methods.end(),
                                  [&](const Method& method) { return method.name == name; });
  return found == methods.end() ? nullptr : found->native;
}

Value Keys(Work& work, const Value& self, const Arguments& arguments) {
  Parameters(work, "keys", arguments, {});
  return MakeSequence(work, Items(work, self), Sequence::Kind::kKeys);
}

Value Values(Work& work, const Value& self, const Arguments& arguments) {
  Parameters(work, "values", arguments, {});
  std::vector<Value> values;
  for (const Dict::Entry& entry : self.dict()->entries()) values.push_back(entry.second);
  return MakeSequence(work, std::move(values), Sequence::Kind::kValues);
}

Value ItemPairs(Work& work, const Value& self, const Arguments& arguments) {
  Parameters(work, "items", arguments, {});
  std::vector<Value> pairs;
  for (const Dict::Entry& entry : self.dict()->entries()) {
    if (work.failed()) break;
    pairs.push_back(MakeSequence(work, {entry.first, entry.second}, Sequence::Kind::kTuple));
  }
  return MakeSequence(work, std::move(pairs), Sequence::Kind::kItems);
}

Value Get(Work& work, const Value& self, const Arguments& arguments) {
  const Parameters parameters(work, "get", arguments, {"key", "default"});
  const Value& key = parameters.Need(0);
  if (const Value* const found = self.dict()->Find(work, key)) return *found;
  return parameters[1] == nullptr ? Value(None()) : *parameters[1];
}

Value CopyOf(Work& work, const Value& self, const Arguments& arguments) {
  Parameters(work, "copy", arguments, {});
  return self;  // nothing changes, so one is as good as two
}

Value IndexOf(Work& work, const Value& self, const Arguments& arguments) {
  const Parameters parameters(work, "index", arguments, {"value"});
  const std::vector<Value>& items = self.sequence()->items;
  for (size_t i = 0; i < items.size() && !work.failed(); ++i) {
    if (Equal(work, items[i], parameters.Need(0))) return static_cast<int64_t>(i);
  }
  work.Fail("index: the value is not in the list");
  return {};
}

Value CountIn(Work& work, const Value& self, const Arguments& arguments) {
  const Parameters parameters(work, "count", arguments, {"value"});
  const std::vector<Value>& items = self.sequence()->items;
  return static_cast<int64_t>(std::count_if(items.begin(), items.end(), [&](const Value& item) {
    return Equal(work, item, parameters.Need(0));
  }));
}

constexpr std::array kDictMethods = {
    Method{"copy", CopyOf}, Method{"get", Get},       Method{"items", ItemPairs},
    Method{"keys", Keys},   Method{"values", Values},
};

constexpr std::array kListMethods = {
    Method{"copy", CopyOf},
    Method{"count", CountIn},
    Method{"index", IndexOf},
};

// loop.cycle('a', 'b')
Value Cycle(Work& work, const Value& self, const Arguments& arguments) {
  const std::vector<Value>& choices = arguments.positional;
  if (choices.empty()) {
    work.Fail("no items for cycling given");
    return {};
  }
  return choices[self.loop()->index0 % choices.size()];
}

// loop.changed(value): whether it is another than the last time it was asked.
Value Changed(Work& work, const Value& self, const Arguments& arguments) {
  Loop& loop = *self.loop();
  const std::vector<Value>& now = arguments.positional;
  const bool same = loop.last_changed && loop.last_changed->size() == now.size() &&
                    std::equal(now.begin(), now.end(), loop.last_changed->begin(),
                               [&](const Value& a, const Value& b) { return Equal(work, a, b); });
  if (!same) loop.last_changed = now;
  return !same;
}

}  // namespace

Native FindMethod(const Value& value, std::string_view name) {
  if (value.IsString()) return FindStringMethod(name);
  if (value.dict() != nullptr) return FindIn(kDictMethods, name);
  const Sequence* const sequence = value.sequence();
  if (sequence == nullptr || sequence->kind > Sequence::Kind::kTuple) return nullptr;
  return FindIn(kListMethods, name);
}

std::optional<Value> LoopAttribute(Work& work, Loop& loop, std::string_view name) {
  const auto index0 = static_cast<int64_t>(loop.index0);
  const auto length = static_cast<int64_t>(loop.items.size());
  const auto at = [&](size_t index) { return loop.items[index]; };
  if (name == "index") return index0 + 1;
  if (name == "index0") return index0;
  if (name == "revindex") return length - index0;
  if (name == "revindex0") return length - index0 - 1;
  if (name == "first") return index0 == 0;
  if (name == "last") return index0 + 1 == length;
  if (name == "length") return length;
  if (name == "depth") return int64_t{1} + loop.depth0;
  if (name == "depth0") return int64_t{loop.depth0};
  if (name == "previtem") {
    return index0 == 0 ? Value::Missing("there is no previous item") : at(loop.index0 - 1);
  }
  if (name == "nextitem") {
    return index0 + 1 == length ? Value::Missing("there is no next item") : at(loop.index0 + 1);
  }
  if (name == "cycle") return MakeNative(work, name, Cycle, Value(&loop));
  if (name == "changed") return MakeNative(work, name, Changed, Value(&loop));
  return std::nullopt;
}

std::optional<Value> MacroAttribute(Work& work, const Macro& macro, std::string_view name) {
  if (name == "name") return MakeString(work, macro.name);
  if (name == "catch_varargs") return macro.takes_varargs;
  if (name == "catch_kwargs") return macro.takes_kwargs;
  if (name == "caller") return macro.takes_caller;
  if (name != "arguments") return std::nullopt;
  std::vector<Value> names;
  for (const Parameter& one : macro.parameters) names.push_back(MakeString(work, one.name));
  return MakeSequence(work, std::move(names), Sequence::Kind::kTuple);
}

}  // namespace conclave::router::chat

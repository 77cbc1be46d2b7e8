#include "router/chat/functions.h"

#include <algorithm>
#include <ctime>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "router/chat/access.h"
#include "router/chat/arguments.h"
#include "router/chat/filters.h"
#include "router/chat/methods.h"
#include "router/chat/operators.h"
#include "router/chat/print.h"

namespace conclave::router::chat {
namespace {

Native FindIn(std::span<const Filter> table, std::string_view name) {
  const auto found = std::find_if(table.begin(), table.end(),
                                  [&](const Filter& entry) { return entry.name == name; });
  return found == table.end() ? nullptr : found->native;
}

using Predicate = bool (*)(const Value&);

template <Predicate kIs>
Value Test(Work& work, const Value& self, const Arguments& arguments) {
  Parameters(work, "a test", arguments, {});
  return kIs(self);
}

bool IsDefined(const Value& value) { return !value.IsUndefined(); }
bool IsMissing(const Value& value) { return value.IsUndefined(); }
bool IsNone(const Value& value) { return value.Is<None>(); }
bool IsString(const Value& value) { return value.IsString(); }
bool IsMapping(const Value& value) { return value.dict() != nullptr; }
bool IsNumber(const Value& value) { return value.IsNumber(); }
bool IsInteger(const Value& value) { return value.Is<int64_t>(); }
bool IsFloat(const Value& value) { return value.Is<double>(); }
bool IsBoolean(const Value& value) { return value.Is<bool>(); }
bool IsTrue(const Value& value) { return value.Is<bool>() && Truth(value); }
bool IsFalse(const Value& value) { return value.Is<bool>() && !Truth(value); }
bool IsCallable(const Value& value) { return value.callable() != nullptr || value.IsUndefined(); }
bool IsEscaped(const Value& value) { return value.markup(); }

bool IsSequence(const Value& value) {
  const Sequence* const sequence = value.sequence();
  return value.IsString() || value.dict() != nullptr || value.IsUndefined() ||
         (sequence != nullptr && sequence->kind <= Sequence::Kind::kRange);
}
bool IsIterable(const Value& value) {
  return value.IsString() || value.dict() != nullptr || value.sequence() != nullptr ||
         value.iterator() != nullptr || value.IsUndefined() || value.loop() != nullptr;
}

template <CompareOp kOp>
Value CompareTest(Work& work, const Value& self, const Arguments& arguments) {
  const Parameters parameters(work, "a test", arguments, {"other"});
  const Value& other = parameters.Need(0);
  return work.failed() ? false : Compare(work, kOp, self, other);
}

Value SameAs(Work& work, const Value& self, const Arguments& arguments) {
  const Parameters parameters(work, "sameas", arguments, {"other"});
  const Value& other = parameters.Need(0);
  // Of what is not one of a kind, whether they are the same object is not for a template to know.
  const bool single = self.Is<None>() || self.Is<bool>() || other.Is<None>() || other.Is<bool>();
  if (!single) work.Fail("sameas takes none, true or false");
  return self.data().index() == other.data().index() && Equal(work, self, other);
}

// A whole number modulo another, floats included.
Value Modulo(Work& work, const Value& self, const Value& by) {
  return Operate(work, BinaryOp::kModulo, self, by);
}

template <int64_t kRest>
Value Parity(Work& work, const Value& self, const Arguments& arguments) {
  Parameters(work, "a test", arguments, {});
  const Value rest = Modulo(work, self, int64_t{2});
  return work.failed() ? false : Equal(work, rest, kRest);
}

Value DivisibleBy(Work& work, const Value& self, const Arguments& arguments) {
  const Parameters parameters(work, "divisibleby", arguments, {"num"});
  const Value rest = Modulo(work, self, parameters.Need(0));
  return work.failed() ? false : Equal(work, rest, int64_t{0});
}

template <bool kUpper>
Value CaseTest(Work& work, const Value& self, const Arguments& arguments) {
  const Value text = MakeString(work, Str(work, self));
  if (work.failed()) return false;
  return FindStringMethod(kUpper ? "isupper" : "islower")(work, text, arguments);
}

template <Native (*kFind)(std::string_view)>
Value Known(Work& work, const Value& self, const Arguments& arguments) {
  Parameters(work, "a test", arguments, {});
  return self.text() != nullptr && kFind(self.text()->bytes()) != nullptr;
}

constexpr Filter kTests[] = {
    {"!=", CompareTest<CompareOp::kUnequal>},
    {"<", CompareTest<CompareOp::kLess>},
    {"<=", CompareTest<CompareOp::kAtMost>},
    {"==", CompareTest<CompareOp::kEqual>},
    {">", CompareTest<CompareOp::kMore>},
    {">=", CompareTest<CompareOp::kAtLeast>},
    {"boolean", Test<IsBoolean>},
    {"callable", Test<IsCallable>},
    {"defined", Test<IsDefined>},
    {"divisibleby", DivisibleBy},
    {"eq", CompareTest<CompareOp::kEqual>},
    {"equalto", CompareTest<CompareOp::kEqual>},
    {"escaped", Test<IsEscaped>},
    {"even", Parity<0>},
    {"false", Test<IsFalse>},
    {"filter", Known<FindFilter>},
    {"float", Test<IsFloat>},
    {"ge", CompareTest<CompareOp::kAtLeast>},
    {"greaterthan", CompareTest<CompareOp::kMore>},
    {"gt", CompareTest<CompareOp::kMore>},
    {"in", CompareTest<CompareOp::kIn>},
    {"integer", Test<IsInteger>},
    {"iterable", Test<IsIterable>},
    {"le", CompareTest<CompareOp::kAtMost>},
    {"lessthan", CompareTest<CompareOp::kLess>},
    {"lower", CaseTest<false>},
    {"lt", CompareTest<CompareOp::kLess>},
    {"mapping", Test<IsMapping>},
    {"ne", CompareTest<CompareOp::kUnequal>},
    {"none", Test<IsNone>},
    {"number", Test<IsNumber>},
    {"odd", Parity<1>},
    {"sameas", SameAs},
    {"sequence", Test<IsSequence>},
    {"string", Test<IsString>},
    {"test", Known<FindTest>},
    {"true", Test<IsTrue>},
    {"undefined", Test<IsMissing>},
    {"upper", CaseTest<true>},
};

Value Range(Work& work, const Value&, const Arguments& arguments) {
  const Parameters parameters(work, "range", arguments, {"start", "stop", "step"});
  parameters.Need(0);
  const bool open = parameters[1] == nullptr;
  const int64_t start = open ? 0 : parameters.Integer(0, 0);
  const int64_t stop = open ? parameters.Integer(0, 0) : parameters.Integer(1, 0);
  const int64_t step = parameters.Integer(2, 1);
  if (step == 0) work.Fail("range() arg 3 must not be zero");
  if (work.failed()) return {};
  std::vector<Value> items;
  for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
    if (static_cast<int64_t>(items.size()) >= work.limits().range_items) {
      work.Fail("a range has more than " + std::to_string(work.limits().range_items) +
                " items, the limit");
      return {};
    }
    items.push_back(i);
    if (!work.Step() || __builtin_add_overflow(i, step, &i)) break;
  }
  return MakeSequence(work, std::move(items), Sequence::Kind::kRange);
}

// The entries that dict(...) and namespace(...) are made of: a mapping or pairs, then names.
Dict Entries(Work& work, const char* function, const Arguments& arguments) {
  Dict dict;
  if (arguments.positional.size() > 1) work.Fail(std::string(function) + " takes one mapping");
  for (const Value& given : arguments.positional) {
    if (const Dict* const mapping = given.dict()) {
      if (work.Make(mapping->entries().size() * sizeof(Dict::Entry))) dict = *mapping;
      continue;
    }
    for (const Value& pair : Items(work, given)) {
      const std::vector<Value> both = work.failed() ? std::vector<Value>() : Items(work, pair);
      if (both.size() != 2 || !dict.Set(work, both[0], both[1])) {
        work.Fail(std::string(function) + " takes pairs of a key and a value");
        return dict;
      }
    }
  }
  for (const auto& [name, value] : arguments.keyword) dict.Set(work, MakeName(work, name), value);
  return dict;
}

Value MakeMapping(Work& work, const Value&, const Arguments& arguments) {
  Dict dict = Entries(work, "dict", arguments);
  return work.failed() ? Value() : MakeDict(work, std::move(dict));
}

Value MakeNamespace(Work& work, const Value&, const Arguments& arguments) {
  const Dict dict = Entries(work, "namespace", arguments);
  if (work.failed() || !work.Make(sizeof(Namespace))) return {};
  auto ns = std::make_shared<Namespace>();
  for (const auto& [name, value] : dict.entries()) {
    if (name.text() == nullptr || name.text()->bytes().starts_with('_')) {
      work.Fail("a namespace takes names that do not begin with _");
      return {};
    }
    ns->Set(work, name.text()->bytes(), value);
  }
  return work.Keep(std::move(ns));
}

Value RaiseException(Work& work, const Value&, const Arguments& arguments) {
  const Parameters parameters(work, "raise_exception", arguments, {"message"});
  const Text message = Str(work, parameters.Need(0));
  work.Refuse(message.bytes());
  return {};
}

Value StrftimeNow(Work& work, const Value&, const Arguments& arguments) {
  const Parameters parameters(work, "strftime_now", arguments, {"format"});
  parameters.Need(0);
  const Text* const format = parameters.String(0);
  if (format != nullptr && format->size() > 200) work.Fail("strftime_now: the format is too long");
  if (work.failed() || format == nullptr) return {};
  char text[4096];
  const size_t size = std::strftime(text, sizeof text, format->bytes().c_str(), &work.now());
  return MakeString(work, std::string_view(text, size));
}

constexpr Filter kGlobals[] = {
    {"dict", MakeMapping}, {"namespace", MakeNamespace},  {"raise_exception", RaiseException},
    {"range", Range},      {"strftime_now", StrftimeNow},
};

}  // namespace

Native FindFilter(std::string_view name) {
  const Native found = FindIn(TextFilters(), name);
  return found != nullptr ? found : FindIn(SequenceFilters(), name);
}

Native FindTest(std::string_view name) { return FindIn(kTests, name); }

Native FindGlobal(std::string_view name) { return FindIn(kGlobals, name); }

}  // namespace conclave::router::chat

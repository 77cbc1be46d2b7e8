// Filters over the items of a value.

#include <algorithm>
#include <optional>
#include <unordered_set>
#include <utility>
#include <vector>

#include "router/chat/access.h"
#include "router/chat/arguments.h"
#include "router/chat/filters.h"
#include "router/chat/functions.h"
#include "router/chat/operators.h"
#include "router/chat/print.h"
#include "router/chat/strings.h"

namespace conclave::router::chat {
namespace {

Value IgnoreCase(Work& work, const Value& value) {
  return value.IsString() ? MakeString(work, Lower(work, *value.text())) : value;
}

std::optional<int64_t> LengthOf(Work& work, const Value& value) {
  if (value.IsUndefined()) return 0;
  if (const Text* const text = value.text()) {
    work.Visit(text->size());
    return static_cast<int64_t>(CharacterCount(text->bytes()));
  }
  if (const Sequence* const sequence = value.sequence()) {
    return static_cast<int64_t>(sequence->items.size());
  }
  if (const Dict* const dict = value.dict()) return static_cast<int64_t>(dict->entries().size());
  if (const Loop* const loop = value.loop()) return static_cast<int64_t>(loop->items.size());
  return std::nullopt;
}

Value Length(Work& work, const Value& self, const Arguments& arguments) {
  Parameters(work, "length", arguments, {});
  const std::optional<int64_t> length = LengthOf(work, self);
  if (length) return *length;
  work.Fail("a " + TypeName(self) + " has no length");
  return {};
}

Value List(Work& work, const Value& self, const Arguments& arguments) {
  Parameters(work, "list", arguments, {});
  return MakeSequence(work, Items(work, self));
}

Value First(Work& work, const Value& self, const Arguments& arguments) {
  Parameters(work, "first", arguments, {});
  if (Iterator* const iterator = self.iterator()) {
    if (iterator->next < iterator->items.size()) return iterator->items[iterator->next++];
    return Value::Missing("No first item, sequence was empty.");
  }
  std::vector<Value> items = Items(work, self);
  return items.empty() ? Value::Missing("No first item, sequence was empty.") : items.front();
}

Value Last(Work& work, const Value& self, const Arguments& arguments) {
  Parameters(work, "last", arguments, {});
  if (self.iterator() != nullptr) work.Fail("last does not take a generator; take its |list");
  std::vector<Value> items = Items(work, self);
  return items.empty() ? Value::Missing("No last item, sequence was empty.") : items.back();
}

Value Join(Work& work, const Value& self, const Arguments& arguments) {
  const Parameters parameters(work, "join", arguments, {"d", "attribute"});
  const Text between = parameters[0] == nullptr ? Text() : Str(work, *parameters[0]);
  Text joined;
  bool first = true;
  for (const Value& item : Items(work, self)) {
    if (work.failed() || !work.Make(between.held_bytes())) return {};
    if (!std::exchange(first, false)) joined.Append(between);
    joined.Append(Str(work, parameters[1] == nullptr ? item : GetPath(work, item, *parameters[1])));
  }
  return MakeString(work, std::move(joined));
}

Value ItemPairs(Work& work, const Value& self, const Arguments& arguments) {
  Parameters(work, "items", arguments, {});
  std::vector<Value> pairs;
  if (self.dict() == nullptr && !self.IsUndefined()) work.Fail("items takes a mapping");
  if (self.dict() != nullptr) {
    for (const Dict::Entry& entry : self.dict()->entries()) {
      if (work.failed()) break;
      pairs.push_back(MakeSequence(work, {entry.first, entry.second}, Sequence::Kind::kTuple));
    }
  }
  return MakeIterator(work, std::move(pairs));
}

// What a filter is called with, besides the item, where map() names it.
Arguments Rest(const Arguments& arguments, size_t taken) {
  Arguments rest = arguments;
  rest.positional.erase(rest.positional.begin(),
                        rest.positional.begin() + static_cast<std::ptrdiff_t>(taken));
  return rest;
}

Value MapAttribute(Work& work, const Value& self, const Arguments& arguments) {
  const Parameters parameters(work, "map", arguments, {"attribute", "default"});
  std::vector<Value> mapped;
  for (const Value& item : Items(work, self)) {
    if (work.failed()) return {};
    Value value = GetPath(work, item, parameters.Need(0));
    if (value.IsUndefined() && parameters[1] != nullptr) value = *parameters[1];
    mapped.push_back(std::move(value));
  }
  return MakeIterator(work, std::move(mapped));
}

Value Map(Work& work, const Value& self, const Arguments& arguments) {
  if (!Truth(self)) return MakeIterator(work, {});
  if (arguments.positional.empty()) return MapAttribute(work, self, arguments);
  const Text* const name = arguments.positional[0].text();
  const Native filter = name == nullptr ? nullptr : FindFilter(name->bytes());
  if (filter == nullptr) {
    work.Fail("map: the filter '" + (name == nullptr ? "" : name->bytes()) + "' is not supported");
    return {};
  }
  const Arguments rest = Rest(arguments, 1);
  std::vector<Value> mapped;
  for (const Value& item : Items(work, self)) {
    if (work.failed()) return {};
    mapped.push_back(filter(work, item, rest));
  }
  return MakeIterator(work, std::move(mapped));
}

// select, reject and, of an attribute, selectattr, rejectattr.
template <bool kSelect, bool kAttribute>
Value Choose(Work& work, const Value& self, const Arguments& arguments) {
  if (!Truth(self)) return MakeIterator(work, {});
  const size_t taken = kAttribute ? 1 : 0;
  const std::vector<Value>& given = arguments.positional;
  if (given.size() < taken) {
    work.Fail("selectattr and rejectattr need the name of an attribute");
    return {};
  }
  Native test = nullptr;
  Arguments rest;
  if (given.size() > taken) {
    const Text* const name = given[taken].text();
    test = name == nullptr ? nullptr : FindTest(name->bytes());
    if (test == nullptr) {
      work.Fail("select: the test '" + (name == nullptr ? "" : name->bytes()) +
                "' is not supported");
      return {};
    }
    rest = Rest(arguments, taken + 1);
  }
  std::vector<Value> chosen;
  for (const Value& item : Items(work, self)) {
    if (work.failed()) return {};
    const Value value = kAttribute ? GetPath(work, item, given[0]) : item;
    if (work.failed()) return {};
    if (Truth(test == nullptr ? value : test(work, value, rest)) == kSelect) chosen.push_back(item);
  }
  return MakeIterator(work, std::move(chosen));
}

Value Reverse(Work& work, const Value& self, const Arguments& arguments) {
  Parameters(work, "reverse", arguments, {});
  std::vector<Value> items = Items(work, self);
  std::reverse(items.begin(), items.end());
  if (!self.IsString()) return MakeIterator(work, std::move(items));
  Text reversed;
  for (const Value& item : items) {
    if (!work.failed()) reversed.Append(*item.text());
  }
  return MakeString(work, std::move(reversed));
}

// Items with what they are sorted by.
using Keyed = std::vector<std::pair<std::vector<Value>, Value>>;

void SortByKeys(Work& work, Keyed* keyed, bool reverse) {
  const auto less = [&](const auto& a, const auto& b) {
    for (size_t i = 0; i < a.first.size() && !work.failed(); ++i) {
      const int order = Order(work, a.first[i], b.first[i]);
      if (order != 0) return order < 0;
    }
    return false;
  };
  // Reversed, what is equal still keeps its order.
  if (reverse) {
    std::stable_sort(keyed->begin(), keyed->end(),
                     [&](const auto& a, const auto& b) { return less(b, a); });
  } else {
    std::stable_sort(keyed->begin(), keyed->end(), less);
  }
}

std::vector<Value> KeysOf(Work& work, const Value& item, const Value* attributes, bool fold) {
  std::vector<Value> keys;
  if (attributes == nullptr || !attributes->IsString()) {
    keys.push_back(attributes == nullptr ? item : GetPath(work, item, *attributes));
  } else {
    const Text comma(",");
    for (const Value& path : Split(work, *attributes->text(), &comma, -1)) {
      if (!work.failed()) keys.push_back(GetPath(work, item, path));
    }
  }
  if (fold) {
    for (Value& key : keys) key = IgnoreCase(work, key);
  }
  return keys;
}

Value Sort(Work& work, const Value& self, const Arguments& arguments) {
  const Parameters parameters(work, "sort", arguments, {"reverse", "case_sensitive", "attribute"});
  const bool fold = !parameters.Truth(1, false);
  Keyed keyed;
  for (Value& item : Items(work, self)) {
    if (work.failed()) return {};
    std::vector<Value> keys = KeysOf(work, item, parameters[2], fold);
    keyed.emplace_back(std::move(keys), std::move(item));
  }
  SortByKeys(work, &keyed, parameters.Truth(0, false));
  std::vector<Value> sorted;
  for (auto& [keys, item] : keyed) sorted.push_back(std::move(item));
  return MakeSequence(work, std::move(sorted));
}

Value DictSort(Work& work, const Value& self, const Arguments& arguments) {
  const Parameters parameters(work, "dictsort", arguments, {"case_sensitive", "by", "reverse"});
  const Text* const by = parameters.String(1);
  if (self.dict() == nullptr) work.Fail("dictsort takes a mapping, not a " + TypeName(self));
  if (by != nullptr && by->bytes() != "key" && by->bytes() != "value") {
    work.Fail("You can only sort by either \"key\" or \"value\"");
  }
  if (work.failed()) return {};
  const bool by_value = by != nullptr && by->bytes() == "value";
  const bool fold = !parameters.Truth(0, false);
  Keyed keyed;
  for (const auto& [key, value] : self.dict()->entries()) {
    if (work.failed()) return {};
    const Value& sorted_by = by_value ? value : key;
    keyed.emplace_back(std::vector<Value>{fold ? IgnoreCase(work, sorted_by) : sorted_by},
                       MakeSequence(work, {key, value}, Sequence::Kind::kTuple));
  }
  SortByKeys(work, &keyed, parameters.Truth(2, false));
  std::vector<Value> sorted;
  for (auto& [keys, pair] : keyed) sorted.push_back(std::move(pair));
  return MakeSequence(work, std::move(sorted));
}

Value Unique(Work& work, const Value& self, const Arguments& arguments) {
  const Parameters parameters(work, "unique", arguments, {"case_sensitive", "attribute"});
  const bool fold = !parameters.Truth(0, false);
  std::unordered_set<std::string> seen;
  std::vector<Value> items;
  for (const Value& item : Items(work, self)) {
    if (work.failed()) return {};
    Value key = parameters[1] == nullptr ? item : GetPath(work, item, *parameters[1]);
    if (fold) key = IgnoreCase(work, key);
    const std::optional<std::string> name = KeyOf(work, key);
    if (!name) work.Fail("unique: a " + TypeName(key) + " cannot be compared here");
    if (name && seen.insert(*name).second) items.push_back(item);
  }
  return MakeIterator(work, std::move(items));
}

template <bool kMax>
Value Extreme(Work& work, const Value& self, const Arguments& arguments) {
  const Parameters parameters(work, kMax ? "max" : "min", arguments,
                              {"case_sensitive", "attribute"});
  const bool fold = !parameters.Truth(0, false);
  Value best = Value::Missing("No aggregated item, sequence was empty.");
  Value best_key;
  bool first = true;
  for (const Value& item : Items(work, self)) {
    if (work.failed()) return {};
    Value key = parameters[1] == nullptr ? item : GetPath(work, item, *parameters[1]);
    if (fold) key = IgnoreCase(work, key);
    const int order = first ? 0 : Order(work, key, best_key);
    if (std::exchange(first, false) || (kMax ? order > 0 : order < 0)) {
      best = item;
      best_key = std::move(key);
    }
  }
  return best;
}

Value Sum(Work& work, const Value& self, const Arguments& arguments) {
  const Parameters parameters(work, "sum", arguments, {"attribute", "start"});
  const bool whole = parameters[0] == nullptr || parameters[0]->Is<None>();
  Value total = parameters[1] == nullptr ? Value(int64_t{0}) : *parameters[1];
  for (const Value& item : Items(work, self)) {
    const Value value = whole ? item : GetPath(work, item, *parameters[0]);
    if (work.failed()) return {};
    total = Operate(work, BinaryOp::kAdd, total, value);
  }
  return total;
}

Value Batch(Work& work, const Value& self, const Arguments& arguments) {
  const Parameters parameters(work, "batch", arguments, {"linecount", "fill_with"});
  parameters.Need(0);
  const int64_t size = parameters.Integer(0, 1);
  if (size < 1 || size > work.limits().range_items) work.Fail("batch: 'linecount' is out of range");
  if (work.failed()) return {};
  std::vector<Value> batches, batch;
  for (Value& item : Items(work, self)) {
    if (work.failed()) return {};
    batch.push_back(std::move(item));
    if (static_cast<int64_t>(batch.size()) < size) continue;
    batches.push_back(MakeSequence(work, std::exchange(batch, {})));
  }
  if (!batch.empty()) {
    if (parameters[1] != nullptr && !parameters[1]->Is<None>()) {
      batch.resize(static_cast<size_t>(size), *parameters[1]);
    }
    batches.push_back(MakeSequence(work, std::move(batch)));
  }
  return MakeIterator(work, std::move(batches));
}

Value SliceInto(Work& work, const Value& self, const Arguments& arguments) {
  const Parameters parameters(work, "slice", arguments, {"slices", "fill_with"});
  parameters.Need(0);
  const int64_t slices = parameters.Integer(0, 1);
  if (slices < 1 || slices > work.limits().range_items)
    work.Fail("slice: 'slices' is out of range");
  const std::vector<Value> items = Items(work, self);
  const auto count = static_cast<int64_t>(items.size());
  const bool fill = parameters[1] != nullptr && !parameters[1]->Is<None>();
  std::vector<Value> result;
  auto next = items.begin();
  for (int64_t i = 0; i < slices && !work.failed(); ++i) {
    const int64_t size = count / slices + (i < count % slices ? 1 : 0);
    std::vector<Value> part(next, next + size);
    next += size;
    if (fill && i >= count % slices) part.push_back(*parameters[1]);
    result.push_back(MakeSequence(work, std::move(part)));
  }
  return MakeIterator(work, std::move(result));
}

Value MakeGroup(Work& work, const Value& key, const Value& list) {
  const Value pair = MakeSequence(work, {key, list}, Sequence::Kind::kTuple);
  if (work.failed()) return {};
  Sequence group = *pair.sequence();
  group.group = true;
  return std::make_shared<const Sequence>(std::move(group));
}

Value GroupBy(Work& work, const Value& self, const Arguments& arguments) {
  const Parameters parameters(work, "groupby", arguments,
                              {"attribute", "default", "case_sensitive"});
  const bool fold = !parameters.Truth(2, false);
  const auto key_of = [&](const Value& item) {
    Value key = GetPath(work, item, parameters.Need(0));
    return key.IsUndefined() && parameters[1] != nullptr ? *parameters[1] : key;
  };
  Keyed keyed;
  for (Value& item : Items(work, self)) {
    if (work.failed()) return {};
    const Value key = key_of(item);
    keyed.emplace_back(std::vector<Value>{fold ? IgnoreCase(work, key) : key}, std::move(item));
  }
  SortByKeys(work, &keyed, false);
  std::vector<Value> groups;
  for (size_t begin = 0; begin < keyed.size() && !work.failed();) {
    std::vector<Value> members;
    size_t end = begin;
    while (end < keyed.size() && Equal(work, keyed[begin].first[0], keyed[end].first[0])) {
      members.push_back(keyed[end++].second);
    }
    if (work.failed()) return {};
    const Value key = key_of(members[0]);
    const Value list = MakeSequence(work, std::move(members));
    groups.push_back(MakeGroup(work, key, list));
    begin = end;
  }
  return MakeSequence(work, std::move(groups));
}

constexpr Filter kFilters[] = {
    {"batch", Batch},
    {"count", Length},
    {"dictsort", DictSort},
    {"first", First},
    {"groupby", GroupBy},
    {"items", ItemPairs},
    {"join", Join},
    {"last", Last},
    {"length", Length},
    {"list", List},
    {"map", Map},
    {"max", Extreme<true>},
    {"min", Extreme<false>},
    {"reject", Choose<false, false>},
    {"rejectattr", Choose<false, true>},
    {"reverse", Reverse},
    {"select", Choose<true, false>},
    {"selectattr", Choose<true, true>},
    {"slice", SliceInto},
    {"sort", Sort},
    {"sum", Sum},
    {"unique", Unique},
};

}  // namespace

std::span<const Filter> SequenceFilters() { return kFilters; }

}  // namespace conclave::router::chat

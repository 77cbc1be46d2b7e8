#include "router/chat/value.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "router/utf8.h"

namespace conclave::router::chat {
namespace {

constexpr size_t kTextBytes = sizeof(Text) + 64;  // with its range and its count of owners
constexpr size_t kItemBytes = sizeof(Value);
constexpr size_t kEntryBytes = 2 * sizeof(Value) + 64;  // with its place in the index

template <typename T>
const T* Pointer(const Value& value) {
  const auto* const held = std::get_if<std::shared_ptr<const T>>(&value.data());
  return held == nullptr ? nullptr : held->get();
}

template <typename T>
T* Raw(const Value& value) {
  T* const* const held = std::get_if<T*>(&value.data());
  return held == nullptr ? nullptr : *held;
}

// 1, 1.0 and True are one key.
std::string NumberKey(const Value& value) {
  if (const auto whole = value.integer()) return "n" + std::to_string(*whole);
  const double number = *value.number();
  if (std::nearbyint(number) == number && std::abs(number) < 9e18) {
    return "n" + std::to_string(static_cast<int64_t>(number));
  }
  return "f" + std::to_string(std::hash<double>()(number)) + "/" + std::to_string(number);
}

bool EqualItems(Work& work, const std::vector<Value>& left, const std::vector<Value>& right) {
  return left.size() == right.size() &&
         std::equal(left.begin(), left.end(), right.begin(),
                    [&](const Value& a, const Value& b) { return Equal(work, a, b); });
}

bool EqualDicts(Work& work, const Dict& left, const Dict& right) {
  if (left.entries().size() != right.entries().size()) return false;
  return std::all_of(left.entries().begin(), left.entries().end(), [&](const Dict::Entry& entry) {
    const Value* const other = right.Find(work, entry.first);
    return other != nullptr && Equal(work, entry.second, *other);
  });
}

}  // namespace

Value Value::Missing(std::string why) {
  Value value;
  value.data_ = Undefined{std::make_shared<const std::string>(std::move(why))};
  return value;
}

const Text* Value::text() const {
  const auto* const held = std::get_if<String>(&data_);
  return held == nullptr ? nullptr : held->text.get();
}
const Sequence* Value::sequence() const { return Pointer<Sequence>(*this); }
const Dict* Value::dict() const { return Pointer<Dict>(*this); }
Iterator* Value::iterator() const {
  const auto* const held = std::get_if<std::shared_ptr<Iterator>>(&data_);
  return held == nullptr ? nullptr : held->get();
}
const Callable* Value::callable() const { return Pointer<Callable>(*this); }
Namespace* Value::ns() const { return Raw<Namespace>(*this); }
Loop* Value::loop() const { return Raw<Loop>(*this); }

std::optional<int64_t> Value::integer() const {
  if (const auto* const value = std::get_if<int64_t>(&data_)) return *value;
  if (const auto* const value = std::get_if<bool>(&data_)) return *value ? 1 : 0;
  return std::nullopt;
}

std::optional<double> Value::number() const {
  if (const auto* const value = std::get_if<double>(&data_)) return *value;
  if (const auto value = integer()) return static_cast<double>(*value);
  return std::nullopt;
}

bool Value::markup() const {
  const auto* const held = std::get_if<String>(&data_);
  return held != nullptr && held->markup;
}

bool Dict::Set(Work& work, const Value& key, Value value) {
  std::optional<std::string> name = KeyOf(work, key);
  if (!name) return false;
  depth_ = std::max({depth_, 1 + DepthOf(key), 1 + DepthOf(value)});
  const auto [place, added] = places_.emplace(*std::move(name), entries_.size());
  if (added) {
    entries_.emplace_back(key, std::move(value));
  } else {
    entries_[place->second].second = std::move(value);
  }
  return true;
}

const Value* Dict::Find(Work& work, const Value& key) const {
  const std::optional<std::string> name = KeyOf(work, key);
  if (!name) return nullptr;
  const auto place = places_.find(*name);
  return place == places_.end() ? nullptr : &entries_[place->second].second;
}

const Value* Dict::Find(std::string_view key) const {
  const auto place = places_.find("s" + std::string(key));
  return place == places_.end() ? nullptr : &entries_[place->second].second;
}

const Value* Namespace::Find(Work& work, std::string_view name) const {
  if (!work.Scan(attributes.size())) return nullptr;
  for (const auto& [key, value] : attributes) {
    if (key == name) return &value;
  }
  return nullptr;
}

void Namespace::Set(Work& work, std::string_view name, Value value) {
  if (!work.Scan(attributes.size())) return;
  for (auto& [key, old] : attributes) {
    if (key == name) {
      old = std::move(value);
      return;
    }
  }
  attributes.emplace_back(name, std::move(value));
}

std::string TypeName(const Value& value) {
  struct Name {
    std::string operator()(const Undefined&) const { return "Undefined"; }
    std::string operator()(const None&) const { return "NoneType"; }
    std::string operator()(bool) const { return "bool"; }
    std::string operator()(int64_t) const { return "int"; }
    std::string operator()(double) const { return "float"; }
    std::string operator()(const String&) const { return "str"; }
    std::string operator()(const std::shared_ptr<const Sequence>& value) const {
      constexpr const char* kNames[] = {"list",      "tuple",       "range",
                                        "dict_keys", "dict_values", "dict_items"};
      return kNames[static_cast<size_t>(value->kind)];
    }
    std::string operator()(const std::shared_ptr<const Dict>&) const { return "dict"; }
    std::string operator()(const std::shared_ptr<Iterator>&) const { return "generator"; }
    std::string operator()(const std::shared_ptr<const Callable>&) const { return "function"; }
    std::string operator()(Namespace*) const { return "Namespace"; }
    std::string operator()(Loop*) const { return "LoopContext"; }
  };
  return std::visit(Name(), value.data());
}

std::optional<std::string> KeyOf(Work& work, const Value& value) {
  if (const Text* const text = value.text()) {
    if (!work.Make(text->size())) return std::nullopt;
    return "s" + text->bytes();
  }
  if (value.IsNumber()) return NumberKey(value);
  if (value.Is<None>()) return "none";
  const Sequence* const sequence = value.sequence();
  if (sequence == nullptr || sequence->kind != Sequence::Kind::kTuple) return std::nullopt;
  std::string key = "t";
  for (const Value& item : sequence->items) {
    // No tuple in a tuple: a few that share their items would make a key without end.
    if (item.sequence() != nullptr) return std::nullopt;
    const std::optional<std::string> part = KeyOf(work, item);
    if (!part || !work.Make(part->size())) return std::nullopt;
    key += std::to_string(part->size()) + ":" + *part;
  }
  return key;
}

int32_t DepthOf(const Value& value) {
  if (const Sequence* const sequence = value.sequence()) return sequence->depth;
  if (const Dict* const dict = value.dict()) return dict->depth();
  if (const Iterator* const iterator = value.iterator()) return iterator->depth;
  if (const Callable* const callable = value.callable()) return 1 + DepthOf(callable->self);
  return 0;
}

bool Truth(const Value& value) {
  if (value.IsUndefined() || value.Is<None>()) return false;
  if (const auto number = value.number()) return *number != 0;
  if (const Text* const text = value.text()) return !text->empty();
  if (const Sequence* const sequence = value.sequence()) return !sequence->items.empty();
  if (const Dict* const dict = value.dict()) return !dict->entries().empty();
  return true;
}

bool Equal(Work& work, const Value& left, const Value& right) {
  if (!work.Step()) return false;
  if (left.integer() && right.integer()) return *left.integer() == *right.integer();
  if (left.IsNumber() && right.IsNumber()) return *left.number() == *right.number();
  if (left.data().index() != right.data().index()) return false;
  if (left.IsUndefined() || left.Is<None>()) return true;
  if (const Text* const text = left.text()) {
    return work.Visit(text->size()) && text->bytes() == right.text()->bytes();
  }
  if (const Sequence* const a = left.sequence()) {
    const Sequence* const b = right.sequence();
    return a == b || (a->kind == b->kind && EqualItems(work, a->items, b->items));
  }
  if (const Dict* const dict = left.dict()) {
    return dict == right.dict() || EqualDicts(work, *dict, *right.dict());
  }
  if (left.iterator() != nullptr) return left.iterator() == right.iterator();
  if (left.callable() != nullptr) return left.callable() == right.callable();
  return left.ns() == right.ns() && left.loop() == right.loop();
}

Value MakeString(Work& work, Text text, bool markup) {
  if (!work.Make(kTextBytes + text.held_bytes())) return {};
  return String{std::make_shared<const Text>(std::move(text)), markup};
}

Value MakeString(Work& work, std::string_view ours) { return MakeString(work, Text(ours)); }

Value MakeName(Work& work, std::string_view name) {
  const bool word = std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
  });
  return MakeString(work, word ? Text(name) : Text::FromOutside(name));
}

namespace {

// Counts a container of these; its depth, or nullopt.
std::optional<int32_t> Contain(Work& work, const std::vector<Value>& items) {
  if (!work.Make(64 + items.size() * kItemBytes)) return std::nullopt;
  int32_t depth = 1;
  for (const Value& item : items) depth = std::max(depth, 1 + DepthOf(item));
  if (depth <= work.limits().value_depth) return depth;
  work.Fail("lists are nested more than " + std::to_string(work.limits().value_depth) +
            " deep, the limit");
  return std::nullopt;
}

}  // namespace

Value MakeSequence(Work& work, std::vector<Value> items, Sequence::Kind kind) {
  const std::optional<int32_t> depth = Contain(work, items);
  if (!depth) return {};
  return std::make_shared<const Sequence>(Sequence{kind, std::move(items), *depth});
}

Value MakeIterator(Work& work, std::vector<Value> items) {
  const std::optional<int32_t> depth = Contain(work, items);
  if (!depth) return {};
  return std::make_shared<Iterator>(Iterator{std::move(items), 0, *depth});
}

Value MakeDict(Work& work, Dict dict) {
  if (!work.Make(64 + dict.entries().size() * kEntryBytes)) return {};
  if (dict.depth() > work.limits().value_depth) {
    work.Fail("mappings are nested more than " + std::to_string(work.limits().value_depth) +
              " deep, the limit");
    return {};
  }
  return std::make_shared<const Dict>(std::move(dict));
}

Value MakeNative(Work& work, std::string_view name, Native native, const Value& self) {
  if (!work.Make(sizeof(Callable))) return {};
  if (DepthOf(self) >= work.limits().value_depth) {
    work.Fail("values are nested too deep");
    return {};
  }
  Callable callable;
  callable.name = name;
  callable.native = native;
  callable.self = self;
  return std::make_shared<const Callable>(std::move(callable));
}

std::vector<Value> Items(Work& work, const Value& value) {
  if (const Sequence* const sequence = value.sequence()) {
    return work.Make(sequence->items.size() * kItemBytes) ? sequence->items : std::vector<Value>();
  }
  std::vector<Value> items;
  if (value.IsUndefined()) return items;
  if (const Dict* const dict = value.dict()) {
    if (!work.Make(dict->entries().size() * kItemBytes)) return items;
    for (const Dict::Entry& entry : dict->entries()) items.push_back(entry.first);
  } else if (Iterator* const iterator = value.iterator()) {
    if (!work.Make((iterator->items.size() - iterator->next) * kItemBytes)) return items;
    const auto next =
        static_cast<std::ptrdiff_t>(std::exchange(iterator->next, iterator->items.size()));
    items.assign(iterator->items.begin() + next, iterator->items.end());
  } else if (const Text* const text = value.text()) {
    for (size_t at = 0; at < text->size() && !work.failed();) {
      const size_t end = at + FirstChar(std::string_view(text->bytes()).substr(at)).bytes;
      items.push_back(MakeString(work, text->Part(at, end)));
      at = end;
    }
  } else {
    work.Fail("'" + TypeName(value) + "' object is not iterable");
  }
  return items;
}

}  // namespace conclave::router::chat

#pragma once
// What a chat template computes with: Python's values as far as Jinja shows them. Lists, mappings
// and strings never change once made, as in Jinja's immutable sandbox, so they are shared and make
// no cycles; only namespaces change, and a rendering owns those. One thread at a time.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "router/chat/text.h"
#include "router/chat/work.h"

namespace conclave::router::chat {

class Dict;
struct Callable;
struct For;
struct Iterator;
struct Loop;
struct Namespace;
struct Scope;
struct Sequence;

// What a name or an attribute that is not there evaluates to. It prints as nothing, is false and
// empty; whatever else is done with it fails with `why`.
struct Undefined {
  std::shared_ptr<const std::string> why;
};

struct None {};

struct String {
  std::shared_ptr<const Text> text;
  bool markup = false;  // by |safe or |escape: what is joined to it with + is escaped
};

class Value {
 public:
  using Data =
      std::variant<Undefined, None, bool, int64_t, double, String, std::shared_ptr<const Sequence>,
                   std::shared_ptr<const Dict>, std::shared_ptr<Iterator>,
                   std::shared_ptr<const Callable>, Namespace*, Loop*>;

  Value() = default;  // undefined
  Value(None none) : data_(none) {}
  Value(bool value) : data_(value) {}
  Value(int64_t value) : data_(value) {}
  Value(double value) : data_(value) {}
  Value(String value) : data_(std::move(value)) {}
  Value(std::shared_ptr<const Sequence> value) : data_(std::move(value)) {}
  Value(std::shared_ptr<const Dict> value) : data_(std::move(value)) {}
  Value(std::shared_ptr<Iterator> value) : data_(std::move(value)) {}
  Value(std::shared_ptr<const Callable> value) : data_(std::move(value)) {}
  Value(Namespace* value) : data_(value) {}
  Value(Loop* value) : data_(value) {}
  template <typename T>
  Value(T*) = delete;  // no pointer becomes a bool

  static Value Missing(std::string why);

  template <typename T>
  bool Is() const {
    return std::holds_alternative<T>(data_);
  }
  bool IsUndefined() const { return Is<Undefined>(); }
  bool IsString() const { return Is<String>(); }
  bool IsNumber() const { return Is<bool>() || Is<int64_t>() || Is<double>(); }

  // Null if it is something else.
  const Text* text() const;
  const Sequence* sequence() const;
  const Dict* dict() const;
  Iterator* iterator() const;
  const Callable* callable() const;
  Namespace* ns() const;
  Loop* loop() const;
  // Of a bool or an int.
  std::optional<int64_t> integer() const;
  // Of any number.
  std::optional<double> number() const;
  bool markup() const;

  const Data& data() const { return data_; }

 private:
  Data data_;
};

struct Sequence {
  enum class Kind : uint8_t { kList, kTuple, kRange, kKeys, kValues, kItems };
  Kind kind = Kind::kList;
  std::vector<Value> items;
  int32_t depth = 1;   // of containers in one another, this one counted
  bool group = false;  // of groupby: a tuple whose items are also its `grouper` and its `list`
};

// In the order of insertion; a key that comes again keeps its place and takes the new value.
class Dict {
 public:
  using Entry = std::pair<Value, Value>;

  // False: the key can be none (a list, say), or work has failed.
  bool Set(Work& work, const Value& key, Value value);
  const Value* Find(Work& work, const Value& key) const;
  const Value* Find(std::string_view key) const;
  const std::vector<Entry>& entries() const { return entries_; }
  int32_t depth() const { return depth_; }

 private:
  std::vector<Entry> entries_;
  std::unordered_map<std::string, size_t> places_;  // by KeyOf
  int32_t depth_ = 1;
};

// What map(), select() and their like return: its items can be taken once.
struct Iterator {
  std::vector<Value> items;
  size_t next = 0;
  int32_t depth = 1;
};

// Changed by {% set ns.name = ... %}.
struct Namespace {
  std::vector<std::pair<std::string, Value>> attributes;

  // Both count the attributes they look at.
  const Value* Find(Work& work, std::string_view name) const;
  void Set(Work& work, std::string_view name, Value value);
};

// The `loop` of a for statement.
struct Loop {
  std::vector<Value> items;
  size_t index0 = 0;
  int32_t depth0 = 0;
  std::optional<std::vector<Value>> last_changed;  // of loop.changed()
  const For* recursive = nullptr;                  // what loop(items) renders; null: nothing
  Scope* scope = nullptr;                          // around the statement
};

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> keyword;
};

// A function of ours. self: what a method, filter or test is applied to.
using Native = Value (*)(Work& work, const Value& self, const Arguments& arguments);

struct Macro;

struct Callable {
  std::string name;
  Native native = nullptr;
  Value self;
  const Macro* macro = nullptr;  // if there is no native
  Scope* scope = nullptr;        // where the macro was defined
};

// What a value is called in messages, by Python's names.
std::string TypeName(const Value& value);
// The text two keys share if and only if they are the same key; nullopt for what cannot be one, or
// after a failure: it is as long as the key, and counted.
std::optional<std::string> KeyOf(Work& work, const Value& value);
int32_t DepthOf(const Value& value);

bool Truth(const Value& value);
// Compares as == does.
bool Equal(Work& work, const Value& left, const Value& right);

// Each counts what it makes; after a failure what they return does not matter.
Value MakeString(Work& work, Text text, bool markup = false);
Value MakeString(Work& work, std::string_view ours);
// Of a keyword argument. A plain word may be the template's own; anything else came by ** from a
// mapping of the request.
Value MakeName(Work& work, std::string_view name);
Value MakeSequence(Work& work, std::vector<Value> items,
                   Sequence::Kind kind = Sequence::Kind::kList);
Value MakeIterator(Work& work, std::vector<Value> items);
Value MakeDict(Work& work, Dict dict);
Value MakeNative(Work& work, std::string_view name, Native native, const Value& self);

// What a for statement would go through; takes the rest of an iterator. Fails for what cannot be
// gone through.
std::vector<Value> Items(Work& work, const Value& value);

}  // namespace conclave::router::chat

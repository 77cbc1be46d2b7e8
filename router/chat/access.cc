#include "router/chat/access.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <vector>

#include "router/chat/characters.h"
#include "router/chat/methods.h"

namespace conclave::router::chat {
namespace {

Value NoAttribute(const Value& value, std::string_view name) {
  return Value::Missing("'" + TypeName(value) + " object' has no attribute '" + std::string(name) +
                        "'");
}

Value Unsafe(const Value& value, std::string_view name) {
  return Value::Missing("access to attribute '" + std::string(name) + "' of '" + TypeName(value) +
                        "' object is unsafe.");
}

// Methods that would change the value.
bool Changes(const Value& value, std::string_view name) {
  const auto any_of = [&](std::initializer_list<std::string_view> names) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  if (value.dict() != nullptr) {
    return any_of({"clear", "pop", "popitem", "setdefault", "update"});
  }
  const Sequence* const sequence = value.sequence();
  return sequence != nullptr && sequence->kind == Sequence::Kind::kList &&
         any_of({"append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"});
}

// What Python's getattr finds; nullopt: nothing.
std::optional<Value> OwnAttribute(Work& work, const Value& value, std::string_view name) {
  if (const Namespace* const ns = value.ns()) {
    const Value* const found = ns->Find(work, name);
    return found == nullptr ? std::nullopt : std::optional<Value>(*found);
  }
  if (!name.empty() && name[0] == '_') return Unsafe(value, name);
  if (Changes(value, name)) return Unsafe(value, name);
  if (Loop* const loop = value.loop()) return LoopAttribute(work, *loop, name);
  if (const Sequence* const pair = value.sequence(); pair != nullptr && pair->group) {
    if (name == "grouper") return pair->items[0];
    if (name == "list") return pair->items[1];
  }
  if (const Callable* const callable = value.callable();
      callable != nullptr && callable->macro != nullptr) {
    return MacroAttribute(work, *callable->macro, name);
  }
  if (const Native method = FindMethod(value, name)) return MakeNative(work, name, method, value);
  return std::nullopt;
}

std::optional<Value> Element(Work& work, const Value& value, int64_t index) {
  const auto place = [&](size_t size) -> std::optional<size_t> {
    const auto count = static_cast<int64_t>(size);
    const int64_t at = index < 0 ? index + count : index;
    return at < 0 || at >= count ? std::nullopt : std::optional<size_t>(static_cast<size_t>(at));
  };
  if (const Sequence* const sequence = value.sequence();
      sequence != nullptr && sequence->kind <= Sequence::Kind::kRange) {
    const auto at = place(sequence->items.size());
    return at ? std::optional<Value>(sequence->items[*at]) : std::nullopt;
  }
  if (const Text* const text = value.text(); text != nullptr && work.Visit(text->size())) {
    const auto at = place(CharacterCount(text->bytes()));
    if (!at) return std::nullopt;
    const size_t begin = CharacterOffset(text->bytes(), *at);
    return MakeString(work, text->Part(begin, begin + CharacterAt(text->bytes(), begin).bytes));
  }
  return std::nullopt;
}

std::optional<Value> OwnItem(Work& work, const Value& value, const Value& key) {
  if (const Dict* const dict = value.dict()) {
    const Value* const found = dict->Find(work, key);
    return found == nullptr ? std::nullopt : std::optional<Value>(*found);
  }
  const std::optional<int64_t> index = key.integer();
  return index ? Element(work, value, *index) : std::nullopt;
}

// Python's slice.indices: where to start, and how many steps to take.
struct Indices {
  int64_t start;
  int64_t count;
};

Indices Resolve(int64_t size, std::optional<int64_t> start, std::optional<int64_t> stop,
                int64_t step) {
  const int64_t low = step < 0 ? -1 : 0;
  const int64_t high = step < 0 ? size - 1 : size;
  const auto clamp = [&](std::optional<int64_t> bound, int64_t open) {
    if (!bound) return open;
    if (*bound < 0) return std::max(*bound + size, low);
    return std::min(*bound, high);
  };
  const int64_t first = clamp(start, step < 0 ? high : low);
  const int64_t last = clamp(stop, step < 0 ? low : high);
  if (step < 0) return {first, first > last ? (first - last - 1) / -step + 1 : 0};
  return {first, first < last ? (last - first - 1) / step + 1 : 0};
}

Value SliceText(Work& work, const Value& value, const Indices& indices, int64_t step) {
  const Text& text = *value.text();
  if (step == 1) {
    const size_t begin = CharacterOffset(text.bytes(), static_cast<size_t>(indices.start));
    const size_t length = CharacterOffset(std::string_view(text.bytes()).substr(begin),
                                          static_cast<size_t>(indices.count));
    return MakeString(work, text.Part(begin, begin + length), value.markup());
  }
  std::vector<size_t> begins;  // of every character
  for (size_t at = 0; at < text.size(); at += CharacterAt(text.bytes(), at).bytes) {
    begins.push_back(at);
  }
  begins.push_back(text.size());
  Text result;
  for (int64_t i = 0; i < indices.count; ++i) {
    const auto at = static_cast<size_t>(indices.start + i * step);
    result.AppendPart(text, begins[at], begins[at + 1]);
  }
  return MakeString(work, std::move(result), value.markup());
}

}  // namespace

void FailUndefined(Work& work, const Value& undefined) {
  const auto& why = std::get<Undefined>(undefined.data()).why;
  work.Fail(why == nullptr ? "a value is undefined" : *why);
}

Value GetAttribute(Work& work, const Value& value, std::string_view name) {
  if (value.IsUndefined()) {
    FailUndefined(work, value);
    return {};
  }
  if (auto own = OwnAttribute(work, value, name)) return *std::move(own);
  if (const Dict* const dict = value.dict()) {
    if (const Value* const found = dict->Find(name)) return *found;
  }
  return NoAttribute(value, name);
}

Value GetItem(Work& work, const Value& value, const Value& key) {
  if (value.IsUndefined()) {
    FailUndefined(work, value);
    return {};
  }
  if (auto own = OwnItem(work, value, key)) return *std::move(own);
  const Text* const name = key.text();
  if (name != nullptr) {
    if (auto own = OwnAttribute(work, value, name->bytes())) return *std::move(own);
    return NoAttribute(value, name->bytes().substr(0, 100));
  }
  return Value::Missing(TypeName(value) + " object has no such element");
}

Value GetSlice(Work& work, const Value& value, const Value& start, const Value& stop,
               const Value& step) {
  if (value.IsUndefined()) {
    FailUndefined(work, value);
    return {};
  }
  std::optional<int64_t> bounds[3];
  const Value* const given[] = {&start, &stop, &step};
  constexpr int64_t kFar = int64_t{1} << 40;  // further than any text or list
  for (size_t i = 0; i < 3; ++i) {
    if (given[i]->Is<None>()) continue;
    const std::optional<int64_t> bound = given[i]->integer();
    if (!bound) work.Fail("a slice takes whole numbers, not a " + TypeName(*given[i]));
    if (!bound) return {};
    bounds[i] = std::clamp(*bound, -kFar, kFar);
  }
  const int64_t stride = bounds[2].value_or(1);
  if (stride == 0) {
    work.Fail("slice step cannot be zero");
    return {};
  }
  if (const Text* const text = value.text()) {
    if (!work.Visit(text->size())) return {};
    const auto size = static_cast<int64_t>(CharacterCount(text->bytes()));
    return SliceText(work, value, Resolve(size, bounds[0], bounds[1], stride), stride);
  }
  const Sequence* const sequence = value.sequence();
  if (sequence == nullptr || sequence->kind > Sequence::Kind::kRange) {
    work.Fail("a " + TypeName(value) + " cannot be sliced");
    return {};
  }
  const auto size = static_cast<int64_t>(sequence->items.size());
  const Indices indices = Resolve(size, bounds[0], bounds[1], stride);
  if (!work.Step(indices.count)) return {};
  std::vector<Value> items;
  items.reserve(static_cast<size_t>(indices.count));
  for (int64_t i = 0; i < indices.count; ++i) {
    items.push_back(sequence->items[static_cast<size_t>(indices.start + i * stride)]);
  }
  return MakeSequence(work, std::move(items), sequence->kind);
}

Value GetPath(Work& work, const Value& value, const Value& path) {
  const Text* const text = path.text();
  if (text == nullptr) return path.Is<None>() ? value : GetItem(work, value, path);
  Value item = value;
  std::string_view rest = text->bytes();
  while (!work.failed()) {
    const size_t dot = rest.find('.');
    const std::string_view part = rest.substr(0, dot);
    int64_t index = 0;
    const auto read = std::from_chars(part.data(), part.data() + part.size(), index);
    const bool whole = !part.empty() && read.ec == std::errc() && part[0] != '-' &&
                       read.ptr == part.data() + part.size();
    item = GetItem(work, item, whole ? Value(index) : MakeString(work, part));
    if (dot == std::string_view::npos) break;
    rest.remove_prefix(dot + 1);
  }
  return item;
}

}  // namespace conclave::router::chat

#include "router/chat/json.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "router/chat/characters.h"
#include "router/chat/print.h"

namespace conclave::router::chat {
namespace {

std::string Hexadecimal(char32_t c) {
  constexpr char kDigits[] = "0123456789abcdef";
  return {'\\',           'u', kDigits[c >> 12 & 15], kDigits[c >> 8 & 15], kDigits[c >> 4 & 15],
          kDigits[c & 15]};
}

std::string Escape(char32_t c) {
  switch (c) {
    case '"':
      return "\\\"";
    case '\\':
      return "\\\\";
    case '\b':
      return "\\b";
    case '\f':
      return "\\f";
    case '\n':
      return "\\n";
    case '\r':
      return "\\r";
    case '\t':
      return "\\t";
    default:
      break;
  }
  if (c < 0x10000) return Hexadecimal(c);
  c -= 0x10000;
  return Hexadecimal(0xD800 + (c >> 10)) + Hexadecimal(0xDC00 + (c & 0x3FF));
}

class JsonWriter {
 public:
  JsonWriter(Work& work, const JsonStyle& style) : work_(work), style_(style) {}

  void Write(const Value& value) {
    if (!work_.Make(8)) return;
    if (const Text* const text = value.text()) return WriteString(*text);
    if (const Sequence* const sequence = value.sequence();
        sequence != nullptr && sequence->kind <= Sequence::Kind::kTuple) {
      return WriteList(sequence->items);
    }
    if (const Dict* const dict = value.dict()) return WriteDict(*dict);
    if (const auto scalar = Scalar(value)) return to_.Append(*scalar);
    work_.Fail("Object of type " + TypeName(value) + " is not JSON serializable");
  }

  Text Take() { return std::move(to_); }

 private:
  static std::optional<std::string> Scalar(const Value& value) {
    if (value.Is<None>()) return "null";
    if (const bool* const truth = std::get_if<bool>(&value.data())) {
      return *truth ? "true" : "false";
    }
    if (const auto whole = value.integer()) return std::to_string(*whole);
    const auto number = value.number();
    if (!number) return std::nullopt;
    if (std::isnan(*number)) return "NaN";
    if (std::isinf(*number)) return *number > 0 ? "Infinity" : "-Infinity";
    return FloatText(*number);
  }

  void WriteString(const Text& text) {
    if (!work_.Make(text.size())) return;
    const std::string& bytes = text.bytes();
    to_.Append("\"");
    size_t plain = 0;  // bytes before it are written
    for (size_t at = 0; at < bytes.size();) {
      const Character c = CharacterAt(bytes, at);
      const bool escaped = c.code_point < 0x20 || c.code_point == '"' || c.code_point == '\\' ||
                           (style_.ascii && c.code_point > 0x7E);
      if (escaped) {
        to_.AppendPart(text, plain, at);
        to_.AppendMade(Escape(c.code_point), text, at);
        plain = at + c.bytes;
      }
      at += c.bytes;
    }
    to_.AppendPart(text, plain, bytes.size());
    to_.Append("\"");
  }

  void WriteList(const std::vector<Value>& items) {
    if (items.empty()) return to_.Append("[]");
    to_.Append("[");
    ++level_;
    for (size_t i = 0; i < items.size() && !work_.failed(); ++i) {
      Separate(i == 0);
      Write(items[i]);
    }
    --level_;
    BreakLine();
    to_.Append("]");
  }

  void WriteDict(const Dict& dict) {
    if (dict.entries().empty()) return to_.Append("{}");
    std::vector<const Dict::Entry*> entries;
    for (const Dict::Entry& entry : dict.entries()) entries.push_back(&entry);
    if (style_.sort_keys) SortByKey(&entries);
    to_.Append("{");
    ++level_;
    for (size_t i = 0; i < entries.size() && !work_.failed(); ++i) {
      Separate(i == 0);
      WriteKey(entries[i]->first);
      to_.Append(style_.key_separator);
      Write(entries[i]->second);
    }
    --level_;
    BreakLine();
    to_.Append("}");
  }

  void SortByKey(std::vector<const Dict::Entry*>* entries) {
    const bool strings = std::all_of(entries->begin(), entries->end(),
                                     [](const auto* entry) { return entry->first.IsString(); });
    if (!strings) return work_.Fail("tojson: sort_keys needs keys that are strings");
    work_.Step(static_cast<int64_t>(entries->size()) * 16);
    std::stable_sort(entries->begin(), entries->end(), [](const auto* a, const auto* b) {
      return a->first.text()->bytes() < b->first.text()->bytes();
    });
  }

  void WriteKey(const Value& key) {
    if (const Text* const text = key.text()) return WriteString(*text);
    const auto scalar = Scalar(key);
    if (!scalar) return work_.Fail("tojson: a key must be a string or a number");
    to_.Append("\"" + *scalar + "\"");
  }

  void Separate(bool first) {
    if (!first) to_.Append(style_.item_separator);
    BreakLine();
  }

  void BreakLine() {
    if (!style_.indent) return;
    if (!work_.Make(1 + level_ * style_.indent->size())) return;
    to_.Append("\n");
    for (size_t i = 0; i < level_; ++i) to_.Append(*style_.indent);
  }

  Work& work_;
  const JsonStyle& style_;
  Text to_;
  size_t level_ = 0;
};

// Builds values while nlohmann reads; nothing is kept of what is refused.
class Builder {
 public:
  Builder(Work& work, std::string* error) : work_(work), error_(error) {}

  bool null() { return Put(None()); }
  bool boolean(bool value) { return Put(value); }
  bool number_integer(int64_t value) { return Put(value); }
  bool number_unsigned(uint64_t value) {
    if (value > static_cast<uint64_t>(INT64_MAX)) {
      return Refuse("the number " + std::to_string(value) + " is beyond 64 bits");
    }
    return Put(static_cast<int64_t>(value));
  }
  bool number_float(double value, const std::string& spelled) {
    if (spelled.find_first_of(".eE") == std::string::npos) {
      return Refuse("the number " + spelled + " is beyond 64 bits");
    }
    return Put(value);
  }
  bool string(const std::string& value) { return Put(MakeString(work_, Text::FromOutside(value))); }
  bool binary(const std::vector<uint8_t>&) { return Refuse("binary is no JSON"); }

  bool start_object(size_t) { return Open(true); }
  bool start_array(size_t) { return Open(false); }
  bool key(const std::string& name) {
    open_.back().key = MakeString(work_, Text::FromOutside(name));
    return !work_.failed();
  }
  bool end_object() {
    const Value value = MakeDict(work_, std::move(open_.back().dict));
    open_.pop_back();
    return Put(value);
  }
  bool end_array() {
    const Value value = MakeSequence(work_, std::move(open_.back().items));
    open_.pop_back();
    return Put(value);
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) {
    return Refuse("it is no JSON at byte " + std::to_string(position));
  }

  std::optional<Value> Take() { return std::move(value_); }

 private:
  struct Container {
    bool object;
    Dict dict;
    std::vector<Value> items;
    Value key;
  };

  bool Refuse(const std::string& what) {
    if (error_->empty()) *error_ = what;
    return false;
  }
  bool Open(bool object) {
    if (open_.size() + 1 >= static_cast<size_t>(work_.limits().value_depth) / 2) {
      return Refuse("it is nested more than " + std::to_string(work_.limits().value_depth / 2 - 1) +
                    " deep, the limit");
    }
    open_.push_back({.object = object});
    return true;
  }
  bool Put(Value value) {
    if (work_.failed()) return Refuse(work_.error());
    if (open_.empty()) {
      value_ = std::move(value);
    } else if (open_.back().object) {
      open_.back().dict.Set(work_, open_.back().key, std::move(value));
    } else {
      open_.back().items.push_back(std::move(value));
    }
    return true;
  }

  Work& work_;
  std::string* const error_;
  std::vector<Container> open_;
  std::optional<Value> value_;
};

}  // namespace

Text ToJson(Work& work, const Value& value, const JsonStyle& style) {
  JsonWriter writer(work, style);
  writer.Write(value);
  return writer.Take();
}

std::optional<Value> ParseJson(Work& work, std::string_view json, std::string* error) {
  error->clear();
  Builder builder(work, error);
  if (!nlohmann::json::sax_parse(json.begin(), json.end(), &builder)) return std::nullopt;
  return builder.Take();
}

}  // namespace conclave::router::chat

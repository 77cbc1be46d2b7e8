#pragma once
// JSON to values and back. Reading is of what a request brought; writing is |tojson, as Python's
// json.dumps does it. One thread.

#include <optional>
#include <string>
#include <string_view>

#include "router/chat/text.h"
#include "router/chat/value.h"

namespace conclave::router::chat {

struct JsonStyle {
  bool ascii = false;                 // what is not ASCII is escaped
  std::optional<std::string> indent;  // of one level; absent: all on one line
  std::string item_separator = ", ";  // "," if there is an indent
  std::string key_separator = ": ";
  bool sort_keys = false;
};

// Fails for what JSON has no form of (undefined, a macro).
Text ToJson(Work& work, const Value& value, const JsonStyle& style);

// The value of a JSON text, every string in it from outside. nullopt and *error: it is none, is
// nested deeper than the limit, or has a number that 64 bits do not hold.
std::optional<Value> ParseJson(Work& work, std::string_view json, std::string* error);

}  // namespace conclave::router::chat

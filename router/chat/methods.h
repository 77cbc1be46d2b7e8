#pragma once
// The methods of strings, lists and mappings, and the attributes of loops and macros. One thread.

#include <optional>
#include <string_view>

#include "router/chat/value.h"

namespace conclave::router::chat {

// Null if this kind of value has no method of that name here.
Native FindMethod(const Value& value, std::string_view name);
Native FindStringMethod(std::string_view name);

std::optional<Value> LoopAttribute(Work& work, Loop& loop, std::string_view name);
std::optional<Value> MacroAttribute(Work& work, const Macro& macro, std::string_view name);

}  // namespace conclave::router::chat

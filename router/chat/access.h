#pragma once
// value.name, value[key] and value[a:b:c], as Jinja looks them up. What is not there is undefined;
// what is private or would change the value fails when it is used. One thread.

#include <string>
#include <string_view>

#include "router/chat/value.h"

namespace conclave::router::chat {

// A method first, then a key of that name.
Value GetAttribute(Work& work, const Value& value, std::string_view name);
// A key first, then a method of that name.
Value GetItem(Work& work, const Value& value, const Value& key);
// Bounds that are None are open.
Value GetSlice(Work& work, const Value& value, const Value& start, const Value& stop,
               const Value& step);
// "a.b.0", as map(attribute=...) and its like take it; a whole number is an index.
Value GetPath(Work& work, const Value& value, const Value& path);

// Fails with the reason that an undefined value carries.
void FailUndefined(Work& work, const Value& undefined);

}  // namespace conclave::router::chat

#pragma once
// The filters, tests and global functions that templates may name. Immutable tables; any thread.

#include <string_view>

#include "router/chat/value.h"

namespace conclave::router::chat {

// Null: there is none of that name here.
Native FindFilter(std::string_view name);
Native FindTest(std::string_view name);
// range, dict, namespace, raise_exception, strftime_now are functions; joiner and others are not
// here.
Native FindGlobal(std::string_view name);

}  // namespace conclave::router::chat

#pragma once
// The two tables of filters that FindFilter looks through. Immutable; any thread.

#include <span>
#include <string_view>

#include "router/chat/value.h"

namespace conclave::router::chat {

struct Filter {
  std::string_view name;
  Native native;
};

std::span<const Filter> TextFilters();      // over one value
std::span<const Filter> SequenceFilters();  // over the items of one

}  // namespace conclave::router::chat

#include "router/unicode_class.h"

#include <algorithm>
#include <array>
#include <iterator>

namespace conclave::router {
namespace {

using enum UnicodeClass;

constexpr UnicodeRange kRanges[] = {
#include "router/unicode_class.inc"
};

UnicodeClass Find(char32_t code_point) {
  const UnicodeRange* range =
      std::upper_bound(std::begin(kRanges), std::end(kRanges), code_point,
                       [](char32_t c, const UnicodeRange& r) { return c < r.first; });
  if (range == std::begin(kRanges)) return kOther;
  --range;
  return code_point <= range->last ? range->unicode_class : kOther;
}

const std::array<UnicodeClass, 128>& Ascii() {
  static const std::array<UnicodeClass, 128> table = [] {
    std::array<UnicodeClass, 128> classes{};
    for (char32_t c = 0; c < 128; ++c) classes[c] = Find(c);
    return classes;
  }();
  return table;
}

}  // namespace

std::span<const UnicodeRange> UnicodeRanges() { return kRanges; }

UnicodeClass ClassOf(char32_t code_point) {
  return code_point < 128 ? Ascii()[code_point] : Find(code_point);
}

}  // namespace conclave::router

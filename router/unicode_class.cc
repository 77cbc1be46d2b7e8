#include "router/unicode_class.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <string_view>

namespace conclave::router {
namespace {

using enum UnicodeClass;

struct ClassRange {
  char32_t first;
  char32_t last;  // inclusive
  UnicodeClass unicode_class;
};

constexpr ClassRange kClasses[] = {
#include "router/unicode_class.inc"
};
constexpr RecentRange kRecent[] = {
#include "router/unicode_recent.inc"
};

// The range among sorted ones that holds code_point, or null.
template <typename Range>
const Range* FindRange(std::span<const Range> ranges, char32_t code_point) {
  const auto after =
      std::upper_bound(ranges.begin(), ranges.end(), code_point,
                       [](char32_t c, const Range& range) { return c < range.first; });
  if (after == ranges.begin()) return nullptr;
  const Range& range = *std::prev(after);
  return code_point <= range.last ? &range : nullptr;
}

UnicodeClass Find(char32_t code_point) {
  const ClassRange* range = FindRange(std::span<const ClassRange>(kClasses), code_point);
  return range == nullptr ? kOther : range->unicode_class;
}

const std::array<UnicodeClass, 128>& Ascii() {
  static const std::array<UnicodeClass, 128> table = [] {
    std::array<UnicodeClass, 128> classes{};
    for (char32_t c = 0; c < 128; ++c) classes[c] = Find(c);
    return classes;
  }();
  return table;
}

std::string_view CategoryOf(char32_t code_point) {
  const RecentRange* recent = FindRange(RecentCategories(), code_point);
  if (recent != nullptr) return recent->category;
  return utf8proc_category_string(static_cast<utf8proc_int32_t>(code_point));
}

// Letters, circled or squared, that Unicode counts as symbols and yet as alphabetic.
bool IsAlphabeticSymbol(char32_t c) {
  return (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
         (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
}

}  // namespace

std::span<const RecentRange> RecentCategories() { return kRecent; }

UnicodeClass ClassOf(char32_t code_point) {
  return code_point < 128 ? Ascii()[code_point] : Find(code_point);
}

bool IsDigit(char32_t code_point) {
  return ClassOf(code_point) == kNumber || (code_point >= 0x11DE0 && code_point <= 0x11DE9) ||
         (code_point >= 0x16FF4 && code_point <= 0x16FF6);
}

bool IsWord(char32_t code_point) {
  constexpr char32_t kZeroWidthNonJoiner = 0x200C, kZeroWidthJoiner = 0x200D;
  const std::string_view category = CategoryOf(code_point);
  return category[0] == 'L' || category[0] == 'M' || category == "Nd" || category == "Nl" ||
         category == "Pc" || code_point == kZeroWidthNonJoiner || code_point == kZeroWidthJoiner ||
         IsAlphabeticSymbol(code_point);
}

}  // namespace conclave::router

#include "scheduler/adapter_operation.h"

#include <algorithm>
#include <array>

namespace conclave::scheduler {
namespace {

constexpr std::array<std::string_view, 3> kOurWords = {"auto", "base", "other"};

bool IsAlphanumeric(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

}  // namespace

std::string ProblemOfAdapterName(std::string_view name, size_t limit) {
  if (name.empty()) return "is empty";
  if (name.size() > limit) {
    return "has " + std::to_string(name.size()) + " bytes, the limit is " + std::to_string(limit);
  }
  const bool plain = std::all_of(name.begin(), name.end(), [](char c) {
    return IsAlphanumeric(c) || c == '.' || c == '_' || c == '-';
  });
  if (!plain || !IsAlphanumeric(name.front()))
    return "must be letters, digits, '.', '_' and '-', a letter or digit first";
  if (std::find(kOurWords.begin(), kOurWords.end(), name) != kOurWords.end())
    return "means something else";
  return "";
}

}  // namespace conclave::scheduler

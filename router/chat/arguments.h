#pragma once
// Fits the arguments of a call to a function's parameters, as Python does. One thread.

#include <array>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>

#include "router/chat/value.h"

namespace conclave::router::chat {

class Parameters {
 public:
  static constexpr size_t kMax = 6;

  // names: of the parameters, in order. Fails for one too many, an unknown or a doubled name.
  Parameters(Work& work, std::string_view function, const Arguments& arguments,
             std::initializer_list<const char*> names);

  // The argument, or null if it was not given.
  const Value* operator[](size_t index) const { return values_[index]; }
  // Fails if it was not given.
  const Value& Need(size_t index) const;
  bool Truth(size_t index, bool otherwise) const;
  // Fail if what was given is something else.
  int64_t Integer(size_t index, int64_t otherwise) const;
  const Text* String(size_t index) const;  // null: not given, or None

 private:
  void FailType(size_t index, const char* wanted) const;

  Work& work_;
  const std::string function_;
  std::array<const char*, kMax> names_ = {};
  std::array<const Value*, kMax> values_ = {};
};

}  // namespace conclave::router::chat

#include "router/chat/arguments.h"

#include <algorithm>

namespace conclave::router::chat {

Parameters::Parameters(Work& work, std::string_view function, const Arguments& arguments,
                       std::initializer_list<const char*> names)
    : work_(work), function_(function) {
  std::copy(names.begin(), names.end(), names_.begin());
  const std::vector<Value>& positional = arguments.positional;
  if (positional.size() > names.size()) {
    work.Fail(function_ + " takes at most " + std::to_string(names.size()) + " arguments, not " +
              std::to_string(positional.size()));
  }
  for (size_t i = 0; i < std::min(positional.size(), names.size()); ++i) {
    values_[i] = &positional[i];
  }
  for (const auto& [name, value] : arguments.keyword) {
    const auto found = std::find(names.begin(), names.end(), name);
    const auto index = static_cast<size_t>(found - names.begin());
    if (found == names.end()) {
      work.Fail(function_ + " takes no argument '" + name + "'");
    } else if (values_[index] != nullptr) {
      work.Fail(function_ + " got the argument '" + name + "' twice");
    } else {
      values_[index] = &value;
    }
  }
}

const Value& Parameters::Need(size_t index) const {
  static const Value kNone;
  if (values_[index] != nullptr) return *values_[index];
  work_.Fail(function_ + " needs the argument '" + names_[index] + "'");
  return kNone;
}

bool Parameters::Truth(size_t index, bool otherwise) const {
  return values_[index] == nullptr ? otherwise : chat::Truth(*values_[index]);
}

int64_t Parameters::Integer(size_t index, int64_t otherwise) const {
  if (values_[index] == nullptr) return otherwise;
  if (const auto value = values_[index]->integer()) return *value;
  FailType(index, "a whole number");
  return otherwise;
}

const Text* Parameters::String(size_t index) const {
  const Value* const value = values_[index];
  if (value == nullptr || value->Is<None>()) return nullptr;
  if (value->text() == nullptr) FailType(index, "a string");
  return value->text();
}

void Parameters::FailType(size_t index, const char* wanted) const {
  work_.Fail(function_ + ": '" + names_[index] + "' must be " + wanted + ", not " +
             TypeName(*values_[index]));
}

}  // namespace conclave::router::chat

#include "worker/model/config.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "worker/model/json.h"

namespace conclave::worker {

using Json = nlohmann::json;

Config::Config(const Json& document, std::string name) : name_(std::move(name)) {
  if (document.is_object()) {
    object_ = std::make_shared<const Json>(document);
  } else {
    object_ = std::make_shared<const Json>(Json::object());
    Refuse(absl::StrFormat("is %s, expected an object", document.type_name()));
  }
}

void Config::Fail(const absl::Status& status) {
  if (status_.ok()) status_ = status;
}

void Config::Refuse(const std::string& what) {
  Fail(absl::InvalidArgumentError(absl::StrFormat("%s: %s", name_, what)));
}

const Json* Config::Find(const std::string& key) const {
  const auto found = object_->find(key);
  return found == object_->end() || found->is_null() ? nullptr : &*found;
}

const Json* Config::Required(const std::string& key) {
  const Json* value = Find(key);
  if (value == nullptr) Refuse(absl::StrFormat("%s is missing", key));
  return value;
}

bool Config::Mentions(const std::string& key) const { return object_->contains(key); }

bool Config::Has(const std::string& key) const { return Find(key) != nullptr; }

int64_t Config::CheckedInt(const Json& value, const std::string& key, IntRange range) {
  if (!value.is_number_integer()) {
    Refuse(absl::StrFormat("%s is %s, expected an integer", key, value.type_name()));
    return range.low;
  }
  const bool beyond =
      value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX);
  if (beyond || value.get<int64_t>() < range.low || value.get<int64_t>() > range.high) {
    Refuse(
        absl::StrFormat("%s is %s, expected %d to %d", key, value.dump(), range.low, range.high));
    return range.low;
  }
  return value.get<int64_t>();
}

double Config::CheckedFloat(const Json& value, const std::string& key, FloatRange range) {
  if (!value.is_number()) {
    Refuse(absl::StrFormat("%s is %s, expected a number", key, value.type_name()));
    return range.low;
  }
  const double number = value.get<double>();
  if (!(number >= range.low && number <= range.high)) {
    Refuse(absl::StrFormat("%s is %g, expected %g to %g", key, number, range.low, range.high));
    return range.low;
  }
  return number;
}

int32_t Config::Int(const std::string& key, IntRange range) {
  const Json* value = Required(key);
  return static_cast<int32_t>(value == nullptr ? range.low : CheckedInt(*value, key, range));
}

double Config::Float(const std::string& key, FloatRange range) {
  const Json* value = Required(key);
  return value == nullptr ? range.low : CheckedFloat(*value, key, range);
}

std::string Config::String(const std::string& key) {
  return Required(key) == nullptr ? std::string() : StringOr(key, "");
}

int32_t Config::IntOr(const std::string& key, int32_t otherwise, IntRange range) {
  const Json* value = Find(key);
  return value == nullptr ? otherwise : static_cast<int32_t>(CheckedInt(*value, key, range));
}

double Config::FloatOr(const std::string& key, double otherwise, FloatRange range) {
  const Json* value = Find(key);
  return value == nullptr ? otherwise : CheckedFloat(*value, key, range);
}

bool Config::BoolOr(const std::string& key, bool otherwise) {
  const Json* value = Find(key);
  if (value == nullptr) return otherwise;
  if (value->is_boolean()) return value->get<bool>();
  Refuse(absl::StrFormat("%s is %s, expected true or false", key, value->type_name()));
  return false;
}

std::string Config::StringOr(const std::string& key, const std::string& otherwise) {
  const Json* value = Find(key);
  if (value == nullptr) return otherwise;
  if (value->is_string()) return value->get<std::string>();
  Refuse(absl::StrFormat("%s is %s, expected a string", key, value->type_name()));
  return "";
}

std::vector<int32_t> Config::IntsOr(const std::string& key, IntRange range, size_t max_count) {
  const Json* value = Find(key);
  if (value == nullptr) return {};
  if (!value->is_array()) return {static_cast<int32_t>(CheckedInt(*value, key, range))};
  if (value->size() > max_count) {
    Refuse(absl::StrFormat("%s has %d numbers, the limit is %d", key, value->size(), max_count));
    return {};
  }
  std::vector<int32_t> numbers;
  for (const Json& number : *value)
    numbers.push_back(static_cast<int32_t>(CheckedInt(number, key, range)));
  return numbers;
}

std::vector<std::string> Config::StringsOr(const std::string& key, size_t max_count) {
  const Json* value = Find(key);
  if (value == nullptr) return {};
  std::vector<std::string> strings;
  if (!value->is_array() || value->size() > max_count) {
    Refuse(absl::StrFormat("%s is no list of at most %d strings", key, max_count));
    return {};
  }
  for (const Json& one : *value) {
    if (one.is_string()) {
      strings.push_back(one.get<std::string>());
    } else {
      Refuse(absl::StrFormat("%s has %s in it, expected strings", key, one.type_name()));
    }
  }
  return strings;
}

Config Config::Object(const std::string& key) {
  const Json* value = Find(key);
  return {value == nullptr ? Json::object() : *value, name_ + ": " + key};
}

void Config::RequireAbsent(const std::string& key) {
  if (Has(key)) Refuse(absl::StrFormat("%s is set, which is not supported", key));
}

void Config::RequireKnown(const std::vector<std::string>& known) {
  for (const auto& [key, value] : object_->items()) {
    if (value.is_null() || std::find(known.begin(), known.end(), key) != known.end()) continue;
    Refuse(absl::StrFormat("%s is set, which is not supported", Printable(key)));
  }
}

void Config::RequireFalse(const std::string& key) {
  if (BoolOr(key, false)) Refuse(absl::StrFormat("%s is true, which is not supported", key));
}

void Config::RequireOneOf(const std::string& key, const std::string& otherwise,
                          const std::vector<std::string>& supported) {
  const std::string value = StringOr(key, otherwise);
  if (std::find(supported.begin(), supported.end(), value) != supported.end()) return;
  Refuse(absl::StrFormat("%s is \"%s\", supported: %s", key, Printable(value),
                         absl::StrJoin(supported, ", ")));
}

}  // namespace conclave::worker

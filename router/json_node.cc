#include "router/json_node.h"

#include <functional>
#include <nlohmann/json.hpp>
#include <unordered_set>
#include <utility>

#include "router/utf8.h"

namespace conclave::router {
namespace {

using Json = nlohmann::json;

constexpr size_t kQuotedBytes = 64;

// Whether text, if it is JSON, nests values deeper than depth_max.
bool IsDeeperThan(int depth_max, std::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '"') in_string = !in_string;
    if (in_string && c == '\\') ++i;
    if (in_string) continue;
    if ((c == '{' || c == '[') && ++depth > depth_max) return true;
    if (c == '}' || c == ']') --depth;
  }
  return false;
}

// Watches the parser for a key that an object has twice, which it would let pass.
class KeyCheck {
 public:
  // As nlohmann's parser calls it.
  bool operator()(int, Json::parse_event_t event, const Json& parsed) {
    if (twice_) return false;  // drops the value: the rest costs no memory
    if (event == Json::parse_event_t::object_start) keys_.emplace_back();
    if (event == Json::parse_event_t::object_end) keys_.pop_back();
    if (event == Json::parse_event_t::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!keys_.back().insert(key).second) twice_ = key;
    }
    return true;
  }

  const std::optional<std::string>& twice() const { return twice_; }

 private:
  std::vector<std::unordered_set<std::string>> keys_;  // of the open objects
  std::optional<std::string> twice_;
};

}  // namespace

std::string Quoted(std::string_view text) {
  std::string quoted(text.substr(0, kQuotedBytes));
  while (quoted.size() < text.size() && !IsUtf8(quoted)) quoted.pop_back();
  if (quoted.size() < text.size()) quoted += "...";
  return '"' + ReplaceInvalidUtf8(quoted) + '"';
}

std::optional<Json> ParseJsonObject(std::string_view text, const std::string& name,
                                    const JsonLimits& limits, std::string* error) {
  if (text.size() > limits.bytes_max) {
    *error = name + " has " + std::to_string(text.size()) + " bytes, the limit is " +
             std::to_string(limits.bytes_max);
    return std::nullopt;
  }
  if (IsDeeperThan(limits.depth_max, text)) {
    *error = name + " is nested deeper than " + std::to_string(limits.depth_max);
    return std::nullopt;
  }
  KeyCheck check;
  Json root;
  try {
    root = limits.keys_twice ? Json::parse(text) : Json::parse(text, std::ref(check));
  } catch (const Json::parse_error& wrong) {
    *error = name + " is not JSON in UTF-8: see byte " + std::to_string(wrong.byte);
  } catch (const Json::exception&) {
    *error = name + " has a number that is out of range";
  }
  if (check.twice()) *error = name + " has the key " + Quoted(*check.twice()) + " twice";
  if (!error->empty()) return std::nullopt;
  if (!root.is_object()) {
    *error = name + " is not a JSON object";
    return std::nullopt;
  }
  return root;
}

JsonNode::JsonNode(const Json& root, const std::string& name, std::string* error)
    : JsonNode(&root, name, "", error) {}

JsonNode::JsonNode(const Json* value, std::string file, std::string path, std::string* error)
    : value_(value), file_(std::move(file)), path_(std::move(path)), error_(error) {}

bool JsonNode::Fail(const std::string& what) const {
  if (ok()) *error_ = file_ + ": " + path_ + (path_.empty() ? "" : " ") + what;
  return false;
}

bool JsonNode::Unsupported(const std::string& what) const {
  return Fail(what + " is not supported");
}

JsonNode JsonNode::operator[](const std::string& key) const {
  const Json* child = nullptr;
  if (value_ != nullptr && value_->is_object() && ok()) {
    const auto found = value_->find(key);
    if (found != value_->end() && !found->is_null()) child = &*found;
  }
  return {child, file_, path_.empty() ? key : path_ + "." + key, error_};
}

JsonNode JsonNode::operator[](size_t index) const {
  const Json* child = nullptr;
  if (value_ != nullptr && value_->is_array() && index < value_->size() &&
      !(*value_)[index].is_null()) {
    child = &(*value_)[index];
  }
  return {child, file_, path_ + "[" + std::to_string(index) + "]", error_};
}

bool JsonNode::Bool(const std::string& key, bool otherwise) const {
  const JsonNode node = (*this)[key];
  if (!node.exists()) return otherwise;
  if (!node.value_->is_boolean()) return node.Fail("is not true or false");
  return node.value_->get<bool>();
}

std::string JsonNode::String(const std::string& key) const {
  const JsonNode node = (*this)[key];
  if (!node.exists()) node.Fail("is missing");
  return node.exists() ? node.AsString() : "";
}

std::string JsonNode::String(const std::string& key, const std::string& otherwise) const {
  const JsonNode node = (*this)[key];
  return node.exists() ? node.AsString() : otherwise;
}

size_t JsonNode::Count(const std::string& key, size_t max) const {
  const JsonNode node = (*this)[key];
  if (node.exists() && node.value_->is_number_unsigned()) {
    const auto count = node.value_->get<uint64_t>();
    if (count <= max) return static_cast<size_t>(count);
  }
  node.Fail("is not a number from 0 to " + std::to_string(max));
  return 0;
}

std::vector<JsonNode> JsonNode::List(const std::string& key, size_t max) const {
  const JsonNode node = (*this)[key];
  std::vector<JsonNode> entries;
  for (size_t i = 0, size = ListSize(key, max); i < size; ++i) entries.push_back(node[i]);
  return entries;
}

size_t JsonNode::ListSize(const std::string& key, size_t max) const {
  const JsonNode node = (*this)[key];
  if (!node.exists() || !node.value_->is_array()) {
    node.Fail("is not a list");
    return 0;
  }
  const size_t size = node.value_->size();
  if (size <= max) return size;
  node.Fail("has " + std::to_string(size) + " entries, the limit is " + std::to_string(max));
  return 0;
}

bool JsonNode::is_object() const { return value_ != nullptr && value_->is_object(); }

bool JsonNode::is_string() const { return value_ != nullptr && value_->is_string(); }

std::string JsonNode::AsString() const {
  if (is_string()) return value_->get<std::string>();
  Fail("is not a string");
  return "";
}

}  // namespace conclave::router

#pragma once
// Reads a JSON file that came from outside: each field is there and of its type, or the first thing
// that is wrong is noted with the path to it. Once something was noted, what is read is nothing
// (false, "", no entries), so a reader need ask only at the end. One thread at a time.

#include <cstddef>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace conclave::router {

struct JsonLimits {
  size_t bytes_max;
  int depth_max;
  bool keys_twice = false;  // allowed, the last counts: in files that people edit
};

// The object in text, which is the file name. nullopt and *error: it is too long or too deep, is
// not JSON in UTF-8, or not an object, or an object in it has a key twice.
std::optional<nlohmann::json> ParseJsonObject(std::string_view text, const std::string& name,
                                              const JsonLimits& limits, std::string* error);

// text in quotes and shortened, for a message.
std::string Quoted(std::string_view text);

// A place in the file, which may hold nothing.
class JsonNode {
 public:
  // root: of the file name. *error must be empty and outlive this.
  JsonNode(const nlohmann::json& root, const std::string& name, std::string* error);

  // False, after noting "FILE: PATH what" unless something was noted before.
  bool Fail(const std::string& what) const;
  // The same: "FILE: PATH what is not supported".
  bool Unsupported(const std::string& what) const;
  bool ok() const { return error_->empty(); }

  bool exists() const { return value_ != nullptr; }  // and is not null
  const nlohmann::json* value() const { return value_; }
  std::string* error() const { return error_; }

  // What the object has under key, the list at index; it need not exist.
  JsonNode operator[](const std::string& key) const;
  JsonNode operator[](size_t index) const;
  bool Bool(const std::string& key, bool otherwise) const;
  std::string String(const std::string& key) const;
  std::string String(const std::string& key, const std::string& otherwise) const;
  // A count of at most max.
  size_t Count(const std::string& key, size_t max) const;
  // The entries of a list of at most max.
  std::vector<JsonNode> List(const std::string& key, size_t max) const;
  // How many they are.
  size_t ListSize(const std::string& key, size_t max) const;

  bool is_object() const;
  bool is_string() const;
  std::string AsString() const;

 private:
  JsonNode(const nlohmann::json* value, std::string file, std::string path, std::string* error);

  const nlohmann::json* value_;
  std::string file_;
  std::string path_;  // "pre_tokenizer.pretokenizers[1]"
  std::string* error_;
};

}  // namespace conclave::router

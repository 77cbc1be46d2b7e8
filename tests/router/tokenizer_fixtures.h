#pragma once
// The tokenizers of tests/router/fixtures, and what becomes of them after changes to their file.

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "router/tokenizer.h"

namespace conclave::testing {

inline std::string FixtureDirectory(const std::string& name) {
  return std::string(CONCLAVE_SOURCE_DIR) + "/tests/router/fixtures/" + name;
}

inline std::string FixtureText(const std::string& name) {
  std::ifstream file(FixtureDirectory(name) + "/tokenizer.json");
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

inline router::Tokenizer Fixture(const std::string& name) {
  std::string error;
  auto tokenizer = router::Tokenizer::LoadDirectory(FixtureDirectory(name), &error);
  EXPECT_TRUE(tokenizer) << error;
  return *std::move(tokenizer);
}

struct Change {
  std::string path;   // JSON pointer into a fixture's tokenizer.json
  std::string value;  // JSON; empty: the thing is removed
};

// The tokenizer.json of a fixture after changes.
inline std::string Changed(const std::string& name, const std::vector<Change>& changes) {
  nlohmann::json root = nlohmann::json::parse(FixtureText(name));
  for (const Change& change : changes) {
    const nlohmann::json::json_pointer path(change.path);
    if (change.value.empty()) {
      root.at(path.parent_pointer()).erase(path.back());
    } else {
      root[path] = nlohmann::json::parse(change.value);
    }
  }
  return root.dump();
}

inline router::Tokenizer LoadedAfter(const std::string& name, const std::vector<Change>& changes) {
  std::string error;
  auto tokenizer = router::Tokenizer::Load(Changed(name, changes), "", &error);
  EXPECT_TRUE(tokenizer) << error;
  return *std::move(tokenizer);
}

// A pre_tokenizer that splits by a regular expression, given as a JSON string without its quotes.
inline Change SplitBy(const std::string& regex, const std::string& behavior = "Isolated") {
  return {"/pre_tokenizer", R"({"type": "Sequence", "pretokenizers": [
      {"type": "Split", "pattern": {"Regex": ")" +
                                regex + R"("}, "behavior": ")" + behavior + R"("},
      {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]})"};
}

}  // namespace conclave::testing

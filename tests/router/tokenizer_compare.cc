// tokenizer_compare DIRECTORY LINES: encodes every line of a file that
// tests/reference/tokenizer_oracle.py wrote with the tokenizer in DIRECTORY, prints each difference
// and exits 1 if there was one, 2 if something cannot be read.

#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "router/streaming_detokenizer.h"
#include "router/tokenizer.h"

namespace {

using conclave::router::EncodeOptions;
using conclave::router::StreamingDetokenizer;
using conclave::router::TokenId;
using conclave::router::Tokenizer;
using Json = nlohmann::json;

int Broken(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  return 2;
}

std::string Streamed(const Tokenizer& tokenizer, const std::vector<TokenId>& ids) {
  StreamingDetokenizer detokenizer(tokenizer, /*skip_special=*/false);
  std::string text;
  for (TokenId id : ids) text += detokenizer.Push(id);
  return text + detokenizer.Flush();
}

// What differs between the expected line and this tokenizer; empty if nothing.
std::string Difference(const Tokenizer& tokenizer, const Json& line) {
  const auto text = line.at("text").get<std::string>();
  for (const char* key : {"ids", "ids_special"}) {
    const bool special = std::string(key) == "ids_special";
    std::string error;
    const auto ids =
        tokenizer.Encode(text, {.parse_special = special, .add_special = special}, &error);
    if (!ids) return error;
    if (Json(*ids) != line.at(key)) {
      return std::string(key) + " " + Json(*ids).dump() + ", expected " + line.at(key).dump();
    }
  }
  const auto ids = line.at("ids").get<std::vector<TokenId>>();
  const std::string expected = line.value("decoded", text);
  const std::string decoded = Streamed(tokenizer, ids);
  if (decoded != expected) {
    return "decoded " + Json(decoded).dump() + ", expected " + Json(expected).dump();
  }
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return Broken("usage: tokenizer_compare DIRECTORY LINES");
  std::string error;
  const auto tokenizer = Tokenizer::LoadDirectory(argv[1], &error);
  if (!tokenizer) return Broken(error);
  std::ifstream lines(argv[2]);
  if (!lines) return Broken(std::string(argv[2]) + " cannot be read");
  int compared = 0, differing = 0;
  for (std::string line; std::getline(lines, line); ++compared) {
    const Json expected = Json::parse(line, nullptr, false);
    if (!expected.is_object())
      return Broken("line " + std::to_string(compared + 1) + " is no JSON");
    const std::string difference = Difference(*tokenizer, expected);
    if (difference.empty()) continue;
    ++differing;
    std::printf("%s\n  %s\n", expected.at("text").dump().c_str(), difference.c_str());
  }
  std::printf("%d strings compared, %d differ\n", compared, differing);
  return differing == 0 && compared > 0 ? 0 : 1;
}

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
#include "router/utf8.h"

namespace {

using conclave::router::ReplaceInvalidUtf8;
using conclave::router::StreamingDetokenizer;
using conclave::router::TokenId;
using conclave::router::Tokenizer;
using Json = nlohmann::json;

int Broken(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  return 2;
}

std::string Streamed(const Tokenizer& tokenizer, const std::vector<TokenId>& ids,
                     bool skip_special) {
  StreamingDetokenizer detokenizer(tokenizer, skip_special);
  std::string text;
  for (TokenId id : ids) text += detokenizer.Push(id);
  return text + detokenizer.Flush();
}

// What differs where ids are expected to decode to text, at once and token by token.
std::string DecodingDifference(const Tokenizer& tokenizer, const std::vector<TokenId>& ids,
                               bool skip_special, const std::string& text) {
  const std::string decoded = ReplaceInvalidUtf8(tokenizer.Decode(ids, skip_special));
  if (decoded != text) return "decoded " + Json(decoded).dump() + ", expected " + Json(text).dump();
  const std::string streamed = Streamed(tokenizer, ids, skip_special);
  if (streamed == text) return {};
  return "streamed " + Json(streamed).dump() + ", expected " + Json(text).dump();
}

// What differs between the expected line and this tokenizer; empty if nothing.
std::string Difference(const Tokenizer& tokenizer, const Json& line) {
  const auto text = line.at("text").get<std::string>();
  for (const bool special : {false, true}) {
    const std::string key = special ? "ids_special" : "ids";
    std::string error;
    const auto ids =
        tokenizer.Encode(text, {.parse_special = special, .add_special = special}, &error);
    if (!ids) return error;
    if (Json(*ids) != line.at(key)) {
      return key + " " + Json(*ids).dump() + ", expected " + line.at(key).dump();
    }
    const std::string decoded = line.value(special ? "decoded_special" : "decoded", text);
    const std::string difference = DecodingDifference(tokenizer, *ids, special, decoded);
    if (!difference.empty()) return difference;
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

// tokenizer_speed DIRECTORY TEXTS: encodes and decodes each text of a JSON list with the tokenizer
// in DIRECTORY and prints a line for each, {"tokens", "encode_s", "decode_s"}, in seconds of
// processor time. Exits 2 if something cannot be read or encoded.

#include <cstdio>
#include <ctime>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "router/streaming_detokenizer.h"
#include "router/tokenizer.h"

namespace {

using conclave::router::StreamingDetokenizer;
using conclave::router::TokenId;
using conclave::router::Tokenizer;
using Json = nlohmann::json;

int Broken(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  return 2;
}

double Seconds(std::clock_t ticks) { return static_cast<double>(ticks) / CLOCKS_PER_SEC; }

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return Broken("usage: tokenizer_speed DIRECTORY TEXTS");
  std::string error;
  const auto tokenizer = Tokenizer::LoadDirectory(argv[1], &error);
  if (!tokenizer) return Broken(error);
  std::ifstream file(argv[2]);
  const Json texts = Json::parse(file, nullptr, false);
  if (!texts.is_array()) return Broken(std::string(argv[2]) + " is not a JSON list");
  for (const Json& entry : texts) {
    const auto text = entry.get<std::string>();
    const auto start = std::clock();
    const auto ids = tokenizer->Encode(text, {}, &error);
    const auto encoded = std::clock();
    if (!ids) return Broken(error);
    StreamingDetokenizer detokenizer(*tokenizer);
    for (TokenId id : *ids) detokenizer.Push(id);
    detokenizer.Flush();
    const Json line = {{"tokens", ids->size()},
                       {"encode_s", Seconds(encoded - start)},
                       {"decode_s", Seconds(std::clock() - encoded)}};
    std::printf("%s\n", line.dump().c_str());
  }
  return 0;
}

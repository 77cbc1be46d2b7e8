#pragma once
// A tokenizer whose token ids are the bytes: token 97 is "a". Token 256 is the special "<eos>".
// Good for tests that want to say exactly which bytes a worker sampled.

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "nlohmann/json.hpp"
#include "router/tokenizer.h"

namespace conclave::testing {

constexpr uint32_t kEos = 256;
constexpr uint32_t kVocabSize = 257;

// UTF-8 of the character that stands for a byte in a byte-level vocabulary (GPT-2's
// bytes_to_unicode).
inline std::string ByteCharacter(int byte) {
  int code = byte;
  const auto printable = [](int b) {
    return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255);
  };
  if (!printable(byte)) {
    code = 256;
    for (int other = 0; other < byte; ++other) code += !printable(other);
  }
  if (code < 128) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xc0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3f))};
}

inline std::shared_ptr<const router::Tokenizer> TinyTokenizer() {
  nlohmann::json vocab;
  for (int byte = 0; byte < 256; ++byte) vocab[ByteCharacter(byte)] = byte;
  const nlohmann::json eos = {{"id", kEos},      {"content", "<eos>"}, {"single_word", false},
                              {"lstrip", false}, {"rstrip", false},    {"normalized", false},
                              {"special", true}};
  const nlohmann::json byte_level = {{"type", "ByteLevel"},
                                     {"add_prefix_space", false},
                                     {"trim_offsets", true},
                                     {"use_regex", true}};
  const nlohmann::json file = {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", {eos}},
      {"normalizer", nullptr},
      {"pre_tokenizer", byte_level},
      {"post_processor", nullptr},
      {"decoder", byte_level},
      {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", nlohmann::json::array()}}}};
  std::string error;
  auto tokenizer = router::Tokenizer::Load(file.dump(), "", &error);
  EXPECT_TRUE(tokenizer) << error;
  return std::make_shared<const router::Tokenizer>(*std::move(tokenizer));
}

}  // namespace conclave::testing

// Any bytes: ids of the vocabulary that decode to the same bytes, and streamed to the same text.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "router/streaming_detokenizer.h"
#include "router/tokenizer.h"
#include "router/utf8.h"
#include "scheduler/check.h"

namespace {

using conclave::router::TokenId;
using conclave::router::Tokenizer;

Tokenizer Load(const std::string& fixture) {
  std::string error;
  auto tokenizer = Tokenizer::LoadDirectory(
      std::string(CONCLAVE_SOURCE_DIR) + "/tests/router/fixtures/" + fixture, &error);
  CONCLAVE_CHECK(tokenizer.has_value());
  return *std::move(tokenizer);
}

void RoundTrip(const Tokenizer& tokenizer, std::string_view text) {
  std::string error;
  const auto ids = tokenizer.Encode(text, {}, &error);
  if (!ids) return;  // the pattern's match limit
  // Of the fixtures' tokens that a text may name, only <tool> strips the spaces beside it (rstrip):
  // then the bytes differ from the text's, by design.
  const std::string decoded = tokenizer.Decode(*ids, /*skip_special=*/false);
  CONCLAVE_CHECK(decoded == text || text.find("<tool>") != std::string_view::npos);
  conclave::router::StreamingDetokenizer streaming(tokenizer, /*skip_special=*/false);
  std::string streamed;
  for (const TokenId id : *ids) {
    CONCLAVE_CHECK(id >= 0 && static_cast<size_t>(id) < tokenizer.vocab_size());
    streamed += streaming.Push(id);
  }
  streamed += streaming.Flush();
  CONCLAVE_CHECK(streamed == conclave::router::ReplaceInvalidUtf8(decoded));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Tokenizer gpt2 = Load("gpt2");
  static const Tokenizer split = Load("split");
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  RoundTrip(gpt2, text);
  RoundTrip(split, text);
  return 0;
}

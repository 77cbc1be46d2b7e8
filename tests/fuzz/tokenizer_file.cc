// Whatever tokenizer.json says: an error, or a tokenizer that takes any text and streams what it
// decodes.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "router/streaming_detokenizer.h"
#include "router/tokenizer.h"
#include "router/utf8.h"
#include "scheduler/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view file(reinterpret_cast<const char*>(data), size);
  std::string error;
  const auto tokenizer = conclave::router::Tokenizer::Load(file, "", &error);
  if (!tokenizer) {
    CONCLAVE_CHECK(!error.empty());
    return 0;
  }
  for (const std::string_view text : {"", "it's 1234 o'clock\r\n", "\xff\xc3 \xe6\xbc\xa2<s>  \t",
                                      " ab\u2581A\u0301\uFB01 <A>"}) {
    const auto ids = tokenizer->Encode(text, {.parse_special = true, .add_special = true}, &error);
    if (!ids) continue;  // the pattern's match limit
    conclave::router::StreamingDetokenizer streaming(*tokenizer, /*skip_special=*/true);
    std::string streamed;
    for (const auto id : *ids) {
      CONCLAVE_CHECK(id >= 0 && static_cast<size_t>(id) < tokenizer->vocab_size());
      streamed += streaming.Push(id);
      CONCLAVE_CHECK(conclave::router::IsUtf8(streamed));
    }
    streamed += streaming.Flush();
    const std::string decoded = tokenizer->Decode(*ids, /*skip_special=*/true);
    CONCLAVE_CHECK(streamed == conclave::router::ReplaceInvalidUtf8(decoded));
  }
  return 0;
}

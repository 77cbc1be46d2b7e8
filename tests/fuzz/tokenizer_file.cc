// Whatever tokenizer.json says: an error, or a tokenizer that keeps any text.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "router/tokenizer.h"
#include "scheduler/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view file(reinterpret_cast<const char*>(data), size);
  std::string error;
  const auto tokenizer = conclave::router::Tokenizer::Load(file, "", &error);
  if (!tokenizer) {
    CONCLAVE_CHECK(!error.empty());
    return 0;
  }
  for (const std::string_view text :
       {"", "it's 1234 o'clock\r\n", "\xff\xc3 \xe6\xbc\xa2<s>  \t"}) {
    const auto ids = tokenizer->Encode(text, {.parse_special = true, .add_special = true}, &error);
    if (!ids) continue;  // the pattern's match limit
    for (const auto id : *ids) {
      CONCLAVE_CHECK(id >= 0 && static_cast<size_t>(id) < tokenizer->vocab_size());
    }
  }
  return 0;
}

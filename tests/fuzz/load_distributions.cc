// Whatever the text of a distribution of lengths or of a mix of adapters says, or a file that it
// names: an error, or draws inside the limits.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>

#include "loadtest/adapter_mix.h"
#include "loadtest/lengths.h"
#include "scheduler/check.h"
#include "tests/fuzz/memory_file.h"

namespace {

using namespace conclave::loadtest;

void DrawLengths(const std::string& text) {
  const auto lengths = Lengths::Parse(text, {.file_bytes = 4096, .lines = 50});
  if (!lengths.ok()) return;
  for (uint64_t i = 0; i < 10; ++i) {
    Random random(1, Random::Purpose::kPromptLength, i);
    const uint32_t length = lengths->Draw(random);
    CONCLAVE_CHECK(length >= 1 && length <= Lengths::kMaxTokens);
  }
}

void DrawAdapters(const std::string& text) {
  const auto mix = AdapterMix::Parse(text);
  if (!mix.ok()) return;
  CONCLAVE_CHECK(!mix->shares().empty() && mix->shares().size() <= AdapterMix::kMaxAdapters);
  double sum = 0;
  for (const auto& [name, share] : mix->shares()) {
    CONCLAVE_CHECK(!name.empty() && name.size() <= AdapterMix::kMaxNameBytes);
    CONCLAVE_CHECK(share >= 0 && share <= 1);
    sum += share;
  }
  CONCLAVE_CHECK(std::abs(sum - 1) < 1e-9);
  for (uint64_t i = 0; i < 10; ++i) {
    Random random(1, Random::Purpose::kAdapter, i);
    CONCLAVE_CHECK(!mix->Draw(random).empty());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const conclave::testing::MemoryFile file;
  const std::string text(reinterpret_cast<const char*>(data), size);
  if (!text.starts_with("file:")) {  // not every file ends
    DrawLengths(text);
    DrawAdapters(text);
  }
  const std::string path = "file:" + file.With(data, size);
  DrawLengths(path);
  DrawAdapters(path);
  return 0;
}

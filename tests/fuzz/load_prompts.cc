// Whatever a file of prompts says: an error that names the file, or prompts that make requests, and
// that agree with what they say has to come, wherever the stream is cut.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "absl/strings/match.h"
#include "loadtest/expectation.h"
#include "loadtest/prompts.h"
#include "loadtest/request.h"
#include "scheduler/check.h"
#include "tests/fuzz/memory_file.h"

namespace {

using namespace conclave::loadtest;

void Send(const Prompt& prompt) {
  const Job job = MakeJob({}, 0, {.prompt = prompt});
  const bool tokens = job.request.prompt().has_tokens();
  CONCLAVE_CHECK(tokens != prompt.token_ids.empty());
  std::string bytes;
  CONCLAVE_CHECK(job.request.SerializeToString(&bytes));
  conclave::v1::GenerateRequest read;  // as the router does, which takes no text but UTF-8
  CONCLAVE_CHECK(read.ParseFromString(bytes));
}

void Expect(const Prompt& prompt) {
  Expectation expectation(prompt);
  const std::string_view text = prompt.expect_text ? *prompt.expect_text : std::string_view();
  const std::span<const uint32_t> ids =
      prompt.expect_token_ids ? *prompt.expect_token_ids : std::span<const uint32_t>();
  expectation.Take(text.substr(0, text.size() / 2), ids.first(ids.size() / 2));
  CONCLAVE_CHECK(!expectation.Difference(false));
  expectation.Take(text.substr(text.size() / 2), ids.subspan(ids.size() / 2));
  CONCLAVE_CHECK(!expectation.Difference(true));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const conclave::testing::MemoryFile file;
  const std::string path = file.With(data, size);
  const PromptLimits limits = {.file_bytes = 4096, .prompts = 20};
  const auto prompts = ReadPrompts(path, limits);
  if (!prompts.ok()) {
    CONCLAVE_CHECK(absl::StartsWith(prompts.status().message(), path));
    return 0;
  }
  CONCLAVE_CHECK(size <= limits.file_bytes);
  CONCLAVE_CHECK(!prompts->empty() && prompts->size() <= limits.prompts);
  size_t line = 0;
  for (const Prompt& prompt : *prompts) {
    CONCLAVE_CHECK(prompt.line > line);
    line = prompt.line;
    Send(prompt);
    Expect(prompt);
  }
  return 0;
}

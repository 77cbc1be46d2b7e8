#pragma once
// What a load test asks for, read from a file of lines: a plain line is a prompt; a line that
// begins with '{' is a JSON object {"prompt" | "token_ids", "max_tokens", "temperature", "top_p",
// "top_k", "seed", "stop", "ignore_eos", "adapter", "expect_text", "expect_token_ids"}, all but one
// of the first two optional. Empty lines are left out. An unknown key is an error: a misspelt
// expectation would check nothing.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace conclave::loadtest {

struct Prompt {
  size_t line = 0;  // in the file, from 1; names the prompt in a report
  std::string text;
  std::vector<uint32_t> token_ids;  // when not empty, instead of text
  std::optional<uint32_t> max_tokens;
  std::optional<float> temperature;
  std::optional<float> top_p;
  std::optional<uint32_t> top_k;
  std::optional<uint64_t> seed;
  std::vector<std::string> stop;
  std::optional<bool> ignore_eos;
  std::string adapter;
  std::optional<std::string> expect_text;
  std::optional<std::vector<uint32_t>> expect_token_ids;
};

struct PromptLimits {
  size_t file_bytes = size_t{256} << 20;
  size_t prompts = 1'000'000;
};

// INVALID_ARGUMENT or NOT_FOUND, naming file and line.
absl::StatusOr<std::vector<Prompt>> ReadPrompts(const std::string& path,
                                                const PromptLimits& limits = {});
// One line that is not empty; INVALID_ARGUMENT without the line's number.
absl::StatusOr<Prompt> ParsePrompt(const std::string& line);

}  // namespace conclave::loadtest

#include "loadtest/prompts.h"

#include <cmath>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_format.h"
#include "loadtest/file.h"
#include "loadtest/text.h"
#include "worker/status.h"

namespace conclave::loadtest {
namespace {

using Json = nlohmann::json;

absl::Status Want(const std::string& what) { return absl::InvalidArgumentError("want " + what); }

absl::Status Take(const Json& json, std::string* target) {
  if (!json.is_string()) return Want("a string");
  *target = json.get<std::string>();
  return absl::OkStatus();
}

absl::Status Take(const Json& json, bool* target) {
  if (!json.is_boolean()) return Want("true or false");
  *target = json.get<bool>();
  return absl::OkStatus();
}

absl::Status Take(const Json& json, float* target) {
  if (!json.is_number()) return Want("a number");
  *target = json.get<float>();
  if (!std::isfinite(*target)) return Want("a finite number");
  return absl::OkStatus();
}

absl::Status Take(const Json& json, uint64_t* target) {
  if (!json.is_number_unsigned()) return Want("a whole number that is not negative");
  *target = json.get<uint64_t>();
  return absl::OkStatus();
}

absl::Status Take(const Json& json, uint32_t* target) {
  uint64_t wide = 0;
  CONCLAVE_RETURN_IF_ERROR(Take(json, &wide));
  if (wide > UINT32_MAX) return Want("a number below 2^32");
  *target = static_cast<uint32_t>(wide);
  return absl::OkStatus();
}

template <typename T>
absl::Status Take(const Json& json, std::vector<T>* target) {
  if (!json.is_array()) return Want("an array");
  target->clear();
  target->reserve(json.size());
  for (const Json& item : json) {
    T value;
    CONCLAVE_RETURN_IF_ERROR(Take(item, &value));
    target->push_back(std::move(value));
  }
  return absl::OkStatus();
}

template <typename T>
absl::Status Take(const Json& json, std::optional<T>* target) {
  return Take(json, &target->emplace());
}

absl::Status TakeKey(const std::string& key, const Json& json, Prompt* prompt) {
  using Taker = std::function<absl::Status(const Json&, Prompt*)>;
  static const auto* const takers = new std::map<std::string, Taker>{
      {"prompt", [](const Json& j, Prompt* p) { return Take(j, &p->text); }},
      {"token_ids", [](const Json& j, Prompt* p) { return Take(j, &p->token_ids); }},
      {"max_tokens", [](const Json& j, Prompt* p) { return Take(j, &p->max_tokens); }},
      {"temperature", [](const Json& j, Prompt* p) { return Take(j, &p->temperature); }},
      {"top_p", [](const Json& j, Prompt* p) { return Take(j, &p->top_p); }},
      {"top_k", [](const Json& j, Prompt* p) { return Take(j, &p->top_k); }},
      {"seed", [](const Json& j, Prompt* p) { return Take(j, &p->seed); }},
      {"stop", [](const Json& j, Prompt* p) { return Take(j, &p->stop); }},
      {"ignore_eos", [](const Json& j, Prompt* p) { return Take(j, &p->ignore_eos); }},
      {"adapter", [](const Json& j, Prompt* p) { return Take(j, &p->adapter); }},
      {"expect_text", [](const Json& j, Prompt* p) { return Take(j, &p->expect_text); }},
      {"expect_token_ids", [](const Json& j, Prompt* p) { return Take(j, &p->expect_token_ids); }},
  };
  const auto taker = takers->find(key);
  if (taker == takers->end()) {
    return absl::InvalidArgumentError(absl::StrFormat("unknown key \"%s\"", key));
  }
  const absl::Status status = taker->second(json, prompt);
  if (status.ok()) return status;
  return absl::InvalidArgumentError(absl::StrFormat("key \"%s\": %s", key, status.message()));
}

absl::StatusOr<Prompt> ParseObject(const std::string& line) {
  const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::InvalidArgumentError("begins with '{' but is not JSON");
  Prompt prompt;
  for (const auto& [key, value] : json.items()) {
    CONCLAVE_RETURN_IF_ERROR(TakeKey(key, value, &prompt));
  }
  if (json.contains("prompt") == json.contains("token_ids")) {
    return absl::InvalidArgumentError("want either \"prompt\" or \"token_ids\"");
  }
  if (json.contains("token_ids") && prompt.token_ids.empty()) {
    return absl::InvalidArgumentError("\"token_ids\" is empty");
  }
  return prompt;
}

}  // namespace

absl::StatusOr<Prompt> ParsePrompt(const std::string& line) {
  if (line.front() == '{') return ParseObject(line);
  if (!IsUtf8(line)) return absl::InvalidArgumentError("not UTF-8");
  Prompt prompt;
  prompt.text = line;
  return prompt;
}

absl::StatusOr<std::vector<Prompt>> ReadPrompts(const std::string& path,
                                                const PromptLimits& limits) {
  CONCLAVE_ASSIGN_OR_RETURN(const std::string text, ReadWhole(path, limits.file_bytes));
  std::vector<Prompt> prompts;
  CONCLAVE_RETURN_IF_ERROR(ForEachLine(path, text, [&](size_t number, const std::string& line) {
    if (prompts.size() == limits.prompts) {
      return absl::InvalidArgumentError(absl::StrFormat("more than %d prompts", limits.prompts));
    }
    absl::StatusOr<Prompt> prompt = ParsePrompt(line);
    if (!prompt.ok()) return prompt.status();
    prompt->line = number;
    prompts.push_back(*std::move(prompt));
    return absl::OkStatus();
  }));
  if (prompts.empty()) return absl::InvalidArgumentError(absl::StrFormat("%s: no prompts", path));
  return prompts;
}

}  // namespace conclave::loadtest

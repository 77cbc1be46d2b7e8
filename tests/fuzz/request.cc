// Whatever a client sends: not a message, refused with a reason, or inside every limit, and then no
// worker refuses what the router makes of it. The first byte chooses the message.

#include <google/protobuf/stubs/logging.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "router/request_limits.h"
#include "router/stop_strings.h"
#include "scheduler/check.h"
#include "services/convert_inference.h"
#include "services/convert_worker.h"
#include "worker/sequence_request.h"

namespace {

using conclave::router::Prompt;
using conclave::router::Request;

constexpr int32_t kVocab = 300;
constexpr int32_t kContext = 200;

// Small, so that their edges are near.
constexpr conclave::router::RequestLimits kLimits = {.prompt_bytes = 64,
                                                     .prompt_tokens = 50,
                                                     .max_tokens = 150,
                                                     .default_max_tokens = 20,
                                                     .stop_strings = 3,
                                                     .stop_string_bytes = 8,
                                                     .stop_token_ids = 4,
                                                     .logit_bias = 3,
                                                     .completions = 4,
                                                     .request_id_bytes = 16,
                                                     .name_bytes = 16,
                                                     .cache_salt_bytes = 16};

bool Within(float value, float low, float high) { return value >= low && value <= high; }

void CheckPrompt(const Prompt& prompt) {
  CONCLAVE_CHECK(prompt.kind != Prompt::Kind::kMissing);
  CONCLAVE_CHECK(static_cast<int64_t>(prompt.text.size()) <= kLimits.prompt_bytes);
  CONCLAVE_CHECK(static_cast<int32_t>(prompt.tokens.size()) <= kLimits.prompt_tokens);
  for (const uint32_t token : prompt.tokens) CONCLAVE_CHECK(token < kVocab);
}

void CheckSampling(const Request& request) {
  CONCLAVE_CHECK(!request.temperature ||
                 (std::isfinite(*request.temperature) && *request.temperature >= 0));
  CONCLAVE_CHECK(!request.top_p || (*request.top_p > 0 && *request.top_p <= 1));
  CONCLAVE_CHECK(!request.min_p || Within(*request.min_p, 0.0f, 1.0f));
  CONCLAVE_CHECK(!request.repetition_penalty ||
                 (std::isfinite(*request.repetition_penalty) && *request.repetition_penalty > 0));
  CONCLAVE_CHECK(Within(request.presence_penalty, -2.0f, 2.0f));
  CONCLAVE_CHECK(Within(request.frequency_penalty, -2.0f, 2.0f));
  CONCLAVE_CHECK(static_cast<int32_t>(request.logit_bias.size()) <= kLimits.logit_bias);
  for (size_t i = 0; i < request.logit_bias.size(); ++i) {
    const auto& [token, bias] = request.logit_bias[i];
    CONCLAVE_CHECK(token < kVocab && Within(bias, -100.0f, 100.0f));
    CONCLAVE_CHECK(i == 0 || request.logit_bias[i - 1].first < token);
  }
}

void CheckStopping(const Request& request) {
  CONCLAVE_CHECK(!request.max_tokens || (*request.max_tokens >= 1 && *request.max_tokens <= 150));
  CONCLAVE_CHECK(request.min_tokens <= request.max_tokens.value_or(20));
  CONCLAVE_CHECK(request.completions >= 1 && request.completions <= 4);
  CONCLAVE_CHECK(static_cast<int32_t>(request.stop.size()) <= kLimits.stop_strings);
  CONCLAVE_CHECK(static_cast<int32_t>(request.stop_tokens.size()) <= kLimits.stop_token_ids);
  for (const uint32_t token : request.stop_tokens) CONCLAVE_CHECK(token < kVocab);
  std::string error;
  CONCLAVE_CHECK(conclave::router::StopStrings::Create(
      request.stop, {.stops_max = 3, .stop_bytes_max = 8}, &error));
}

// What the router makes of the request, as a worker judges it.
void CheckSubmit(const Request& request) {
  // A text is not tokenised here: one token stands for it.
  std::vector<int32_t> prompt(std::max<size_t>(request.prompt.tokens.size(), 1));
  std::copy(request.prompt.tokens.begin(), request.prompt.tokens.end(), prompt.begin());
  const auto count = static_cast<int64_t>(prompt.size());
  const auto fit = conclave::router::FitToContext(request, kLimits, count, kContext);
  CONCLAVE_CHECK(fit.error.empty());
  conclave::v1::ModelInfo model;
  model.add_eos_token_ids(7);
  const auto assignment =
      conclave::services::Assign(request, std::move(prompt), fit.max_tokens, 1, model);
  const auto submitted = conclave::services::ToSequenceRequest(
      conclave::services::ToSubmit(request, assignment, {}, std::nullopt), {});
  CONCLAVE_CHECK(submitted.ok());
  conclave::worker::ModelSpec spec;
  spec.vocab = kVocab;
  const absl::Status taken =
      conclave::worker::CheckSequenceRequest(*submitted, spec, {.context_limit = kContext});
  CONCLAVE_CHECK(taken.ok() || (absl::IsNotFound(taken) && !request.adapter.empty()));
}

void CheckRequest(const Request& request) {
  const auto problem = conclave::router::CheckRequest(request, kLimits, kVocab);
  if (problem) {
    CONCLAVE_CHECK(!problem->empty());
    return;
  }
  CONCLAVE_CHECK(request.id.size() <= 16 && request.model.size() <= 16);
  CONCLAVE_CHECK(request.logprobs.value_or(0) <= 20);
  CONCLAVE_CHECK(request.cache_salt.size() <= 16);
  CheckPrompt(request.prompt);
  if (request.kind == Request::Kind::kGenerate) {
    CheckSampling(request);
    CheckStopping(request);
  }
  CheckSubmit(request);
}

template <typename Message>
void CheckMessage(const uint8_t* data, size_t size) {
  const grpc::Slice slice(data, size);
  auto message = conclave::services::ParseMessage<Message>(grpc::ByteBuffer(&slice, 1));
  if (message.ok()) CheckRequest(conclave::services::ToRequest(*std::move(message)));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // That a string is not UTF-8 is a finding of the converter's, not one to print.
  static const google::protobuf::LogSilencer quiet;
  if (size == 0) return 0;
  if (data[0] % 2 == 0) {
    CheckMessage<conclave::v1::GenerateRequest>(data + 1, size - 1);
  } else {
    CheckMessage<conclave::v1::ScoreRequest>(data + 1, size - 1);
  }
  return 0;
}

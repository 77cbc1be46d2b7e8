#include "services/refusals.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "services/live_request.h"
#include "services/pushback.h"

namespace conclave::services {

using router::Admission;
using Rejection = RouterMetrics::Rejection;

absl::Status NoWorker() { return absl::UnavailableError("no worker is ready; try again soon"); }

absl::Status NoTokenizer() {
  return absl::FailedPreconditionError(
      "this router has no tokenizer: there is no tokenizer.json in its --model directory (or it "
      "was given none); start it with --tokenizer, or send token ids");
}

absl::Status Draining() {
  return absl::UnavailableError("this router is shutting down; another one takes requests");
}

namespace {

// What was reached, and of whom.
std::string LimitOf(const Admission::Refusal& refusal) {
  const std::string whose = !refusal.adapter           ? "the router"
                            : refusal.adapter->empty() ? "the base model"
                                                       : "adapter '" + *refusal.adapter + "'";
  switch (refusal.reason) {
    case Admission::Reason::kDuplicateId:
      break;
    case Admission::Reason::kRequests:
      return absl::StrFormat("%s has %d requests, its limit", whose, refusal.limit);
    case Admission::Reason::kWaiting:
      return refusal.adapter
                 ? absl::StrFormat("%d requests of %s wait for a worker, its limit", refusal.limit,
                                   whose)
                 : absl::StrFormat("%d requests wait for a worker, the limit", refusal.limit);
    case Admission::Reason::kTokens:
      return absl::StrFormat(
          "all requests%s together (prompt + max_tokens) would have more than %d tokens, the limit",
          refusal.adapter ? " of " + whose : "", refusal.limit);
  }
  return "";
}

}  // namespace

absl::Status ToStatus(const Admission::Refusal& refusal) {
  if (refusal.reason == Admission::Reason::kDuplicateId) {
    return absl::AlreadyExistsError(
        "another request with this request_id is live; choose another id or leave it empty");
  }
  return WithPushback(absl::ResourceExhaustedError(LimitOf(refusal)), refusal.pushback);
}

Rejection RejectionOf(const Admission::Refusal& refusal) {
  if (refusal.adapter) return Rejection::kAdapterLimit;
  switch (refusal.reason) {
    case Admission::Reason::kDuplicateId:
      return Rejection::kDuplicate;
    case Admission::Reason::kRequests:
      return Rejection::kRequests;
    case Admission::Reason::kWaiting:
      return Rejection::kWaiting;
    case Admission::Reason::kTokens:
      return Rejection::kTokens;
  }
  return Rejection::kRequests;
}

Rejection RejectionOf(const absl::Status& status) {
  if (absl::IsNotFound(status)) return Rejection::kUnknown;
  return absl::IsUnavailable(status) ? Rejection::kAdapterNotNow : Rejection::kInvalid;
}

absl::Status JudgeRequest(const router::Request& request,
                          const std::optional<scheduler::Micros>& deadline,
                          const router::RequestLimits& limits, const ServedModel& served,
                          const TextCodec& codec) {
  if (deadline && Now() >= *deadline)
    return absl::DeadlineExceededError("the deadline was past on arrival");
  const router::RequestLimits of_model =
      router::LimitsFor(limits, static_cast<int32_t>(served.info.context_limit()));
  const auto vocab_size = static_cast<int32_t>(served.info.vocab_size());
  if (const auto problem = router::CheckRequest(request, of_model, vocab_size)) {
    return absl::InvalidArgumentError(*problem);
  }
  if (codec.tokenizer() == nullptr && !(request.prompt.text.empty() && request.stop.empty())) {
    return absl::InvalidArgumentError(
        "this router has no tokenizer: send prompt.tokens, and no stopping.stop");
  }
  if (request.prompt.kind == router::Prompt::Kind::kChat) {
    if (absl::Status status = codec.JudgeChat(*request.prompt.chat); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status JudgeResume(const router::Request& request, const v1::ModelInfo& model) {
  if (request.resume_from == 0 || request.seed) return absl::OkStatus();
  const float temperature = request.temperature.value_or(model.default_temperature());
  if (temperature == 0.0f) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "resume_from needs sampling.seed: send the one that the first message reported");
}

absl::StatusOr<router::StopStrings> JudgeStops(std::vector<std::string> stops,
                                               const router::RequestLimits& limits) {
  std::string error;
  const router::StopStrings::Options options = {
      .stops_max = static_cast<size_t>(limits.stop_strings),
      .stop_bytes_max = static_cast<size_t>(limits.stop_string_bytes)};
  auto made = router::StopStrings::Create(std::move(stops), options, &error);
  if (!made) return absl::InvalidArgumentError(absl::StrFormat("stopping.stop: %s", error));
  return *std::move(made);
}

absl::StatusOr<int32_t> JudgeTokens(const router::Request& request,
                                    const std::vector<scheduler::TokenId>& tokens,
                                    const router::RequestLimits& limits,
                                    const v1::ModelInfo& model) {
  const auto vocab_size = static_cast<int32_t>(model.vocab_size());
  const bool foreign =
      std::any_of(tokens.begin(), tokens.end(), [&](auto token) { return token >= vocab_size; });
  if (foreign) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "the prompt has a token of the tokenizer that the model's vocabulary of %d does not have",
        vocab_size));
  }
  const router::Fit fit = router::FitToContext(request, limits, static_cast<int64_t>(tokens.size()),
                                               static_cast<int32_t>(model.context_limit()));
  if (!fit.error.empty()) return absl::InvalidArgumentError(fit.error);
  if (request.resume_from > static_cast<uint32_t>(fit.max_tokens)) {
    return absl::InvalidArgumentError(absl::StrFormat("resume_from is %d, max_tokens is %d",
                                                      request.resume_from, fit.max_tokens));
  }
  return fit.max_tokens;
}

}  // namespace conclave::services

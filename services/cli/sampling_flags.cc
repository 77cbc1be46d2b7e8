#include "services/cli/sampling_flags.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "services/cli/input.h"
#include "worker/status.h"

namespace conclave::services::cli {

void SamplingFlags::AddTo(Flags& flags) {
  flags.AddOptional({"max-tokens", &max_tokens_, "N", "without it the server's default", 1, 1e9});
  flags.AddOptional({"temperature", &temperature_, "X",
                     "0 is greedy; without it the model's generation_config.json"});
  flags.AddOptional({"top-p", &top_p_, "P",
                     "keep the likeliest tokens of this mass, (0, 1]; without it the model's"});
  flags.AddOptional({"top-k", &top_k_, "K",
                     "keep so many of the likeliest tokens; 0: off; without it the model's"});
  flags.AddOptional(
      {"min-p", &min_p_, "P",
       "keep tokens at least P times as likely as the likeliest, [0, 1]; 0: off; without it the "
       "model's"});
  flags.AddOptional(
      {"repetition-penalty", &repetition_penalty_, "X",
       "of tokens in the prompt or the output, above 0; 1: off; without it the model's"});
  flags.AddOptional(
      {"presence-penalty", &presence_penalty_, "X", "of tokens in the output, -2 to 2"});
  flags.AddOptional({"frequency-penalty", &frequency_penalty_, "X",
                     "of tokens in the output, for each time they are there, -2 to 2"});
  flags.Add({"logit-bias", &logit_bias_, "ID=X",
             "add X, -100 to 100, to the logit of a token; may be repeated"});
  flags.AddOptional({"seed", &seed_, "S", "without it the router draws one and reports it"});
  flags.AddOptional({"min-tokens", &min_tokens_, "N", "nothing ends the first N tokens"});
  flags.Add({"stop", &stop_, "TEXT", "end before this text; may be repeated"});
  flags.AddOptional({"stop-token-ids", &stop_token_ids_, "1,2,3",
                     "tokens that end the output, besides the model's end-of-sequence tokens"});
  flags.Add({"ignore-eos", &ignore_eos_, "", "go on after an end-of-sequence token"});
}

absl::Status SamplingFlags::SetIn(v1::GenerateRequest& request, const Flags& flags) const {
  v1::Sampling& sampling = *request.mutable_sampling();
  if (flags.Given("temperature")) sampling.set_temperature(static_cast<float>(temperature_));
  if (flags.Given("top-p")) sampling.set_top_p(static_cast<float>(top_p_));
  if (flags.Given("top-k")) sampling.set_top_k(top_k_);
  if (flags.Given("seed")) sampling.set_seed(seed_);
  if (flags.Given("min-p")) sampling.set_min_p(static_cast<float>(min_p_));
  if (flags.Given("repetition-penalty")) {
    sampling.set_repetition_penalty(static_cast<float>(repetition_penalty_));
  }
  if (flags.Given("presence-penalty")) {
    sampling.set_presence_penalty(static_cast<float>(presence_penalty_));
  }
  if (flags.Given("frequency-penalty")) {
    sampling.set_frequency_penalty(static_cast<float>(frequency_penalty_));
  }
  CONCLAVE_RETURN_IF_ERROR(SetLogitBias(sampling));
  return SetStopping(*request.mutable_stopping(), flags);
}

absl::Status SamplingFlags::SetLogitBias(v1::Sampling& sampling) const {
  for (const std::string& flag : logit_bias_) {
    const size_t equals = std::min(flag.find('='), flag.size());
    uint32_t token = 0;
    float bias = 0;
    if (equals == flag.size() || !absl::SimpleAtoi(flag.substr(0, equals), &token) ||
        !absl::SimpleAtof(flag.substr(equals + 1), &bias)) {
      return absl::InvalidArgumentError(
          absl::StrFormat("--logit-bias \"%s\" is not ID=X, a token id and a number", flag));
    }
    (*sampling.mutable_logit_bias())[token] = bias;
  }
  return absl::OkStatus();
}

absl::Status SamplingFlags::SetStopping(v1::Stopping& stopping, const Flags& flags) const {
  if (flags.Given("max-tokens")) stopping.set_max_tokens(max_tokens_);
  if (flags.Given("min-tokens")) stopping.set_min_tokens(min_tokens_);
  stopping.mutable_stop()->Add(stop_.begin(), stop_.end());
  stopping.set_ignore_eos(ignore_eos_);
  const auto ids = ParseTokenIds(stop_token_ids_);
  if (!ids.ok()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("--stop-token-ids: %s", std::string(ids.status().message())));
  }
  stopping.mutable_stop_token_ids()->Add(ids->begin(), ids->end());
  return absl::OkStatus();
}

}  // namespace conclave::services::cli

#pragma once
// The flags of generate and chat that say how tokens are chosen and what ends the text.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "conclave/v1/inference.pb.h"
#include "services/flags.h"

namespace conclave::services::cli {

class SamplingFlags {
 public:
  void AddTo(Flags& flags);

  // Sets what the flags say; the rest is left to the server, and so is the judgement of values.
  // INVALID_ARGUMENT: one that is no value at all.
  absl::Status SetIn(v1::GenerateRequest& request, const Flags& flags) const;

 private:
  absl::Status SetLogitBias(v1::Sampling& sampling) const;
  absl::Status SetStopping(v1::Stopping& stopping, const Flags& flags) const;

  double temperature_ = 0, top_p_ = 0, min_p_ = 0;
  uint32_t top_k_ = 0;
  uint64_t seed_ = 0;
  double repetition_penalty_ = 0, presence_penalty_ = 0, frequency_penalty_ = 0;
  std::vector<std::string> logit_bias_;
  uint32_t max_tokens_ = 0, min_tokens_ = 0;
  std::vector<std::string> stop_;
  std::string stop_token_ids_;
  bool ignore_eos_ = false;
};

}  // namespace conclave::services::cli

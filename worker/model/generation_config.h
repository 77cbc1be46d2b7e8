#pragma once
// generation_config.json: how a model's authors want it sampled where a request does not say. Any
// thread.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/model/config.h"
#include "worker/model/spec.h"

namespace conclave::worker {

struct GenerationConfig {
  // Hugging Face's meaning: without do_sample it is greedy, whatever the temperature says.
  GenerationDefaults defaults;
  std::vector<int32_t> eos;
  // One for each setting that is there, would change what is generated, and is not applied.
  std::vector<std::string> remarks;
};

// `text` is the file's or nothing if there is none, `name` stands in messages for it. eos falls
// back to that of `config`; ids that the vocabulary does not have are passed over.
// INVALID_ARGUMENT, naming the setting, for one of a wrong type or out of range.
absl::StatusOr<GenerationConfig> ReadGenerationConfig(const std::optional<std::string>& text,
                                                      const std::string& name, Config& config,
                                                      int32_t vocab, const ModelLimits& limits);

}  // namespace conclave::worker

#pragma once
// expert_cfg.json: what an ESFT adapter replaces (arXiv:2407.01906; the format as deepseek-ai/ESFT
// releases it). {"experts": {"LAYER": [slot, ...], ...}, "shared_experts": bool,
// "non_expert_modules": bool}, where LAYER counts all layers of the model, dense ones too; the
// flags are false if they are not there. Untrusted. Any thread.

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/model/spec.h"

namespace conclave::worker {

struct AdapterConfig {
  std::map<int32_t, std::vector<int32_t>> experts;  // layer -> slots, each once, in their order
  bool shared_experts = false;                      // of every layer that has experts
  bool non_expert_modules = false;                  // attention, norms, gates, embeddings

  bool operator==(const AdapterConfig&) const = default;
};

struct AdapterConfigLimits {
  size_t bytes = size_t{1} << 20;
  int32_t layers = 4096;
  int32_t slots = 65536;               // of a layer
  size_t entries = size_t{256} << 10;  // slots that are listed, of all layers
};

// `name` stands in messages for where the bytes are from. INVALID_ARGUMENT, with the JSON pointer
// of what is wrong: another structure or key, a layer or slot that is no plain number below the
// limits, one that comes twice, too many. What is refused takes no memory.
absl::StatusOr<AdapterConfig> ParseAdapterConfig(std::string_view bytes, const std::string& name,
                                                 const AdapterConfigLimits& limits = {});

// Whether a model has what the config replaces. INVALID_ARGUMENT, likewise: a layer or slot it
// lacks, a layer without experts, no shared experts, nothing replaced at all, or
// non_expert_modules, which would change the gate that all adapters of a base share.
absl::Status CheckAdapterConfig(const AdapterConfig& config, const ModelSpec& base,
                                const std::string& name);

// As a file's content, which reads back as the same.
std::string AdapterConfigText(const AdapterConfig& config);

}  // namespace conclave::worker

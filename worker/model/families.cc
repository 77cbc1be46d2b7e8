#include "worker/model/families.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "worker/model/json.h"
#include "worker/status.h"

namespace conclave::worker {

Family MakeDeepSeekV1(Config& config, const FamilyOptions& options);
Family MakeDeepSeekV2(Config& config, const FamilyOptions& options);
Family MakeDeepSeekV3(Config& config, const FamilyOptions& options);
Family MakeGlm4Moe(Config& config, const FamilyOptions& options);
Family MakeGptOss(Config& config, const FamilyOptions& options);
Family MakeMixtral(Config& config, const FamilyOptions& options);
Family MakeOlmoe(Config& config, const FamilyOptions& options);
Family MakeQwen2Moe(Config& config, const FamilyOptions& options);
Family MakeQwen3Moe(Config& config, const FamilyOptions& options);

namespace {

struct Registered {
  const char* model_type;
  Family (*make)(Config& config, const FamilyOptions& options);
};
constexpr Registered kFamilies[] = {
    {"deepseek", MakeDeepSeekV1}, {"deepseek_v2", MakeDeepSeekV2}, {"deepseek_v3", MakeDeepSeekV3},
    {"glm4_moe", MakeGlm4Moe},    {"gpt_oss", MakeGptOss},         {"mixtral", MakeMixtral},
    {"olmoe", MakeOlmoe},         {"qwen2_moe", MakeQwen2Moe},     {"qwen3_moe", MakeQwen3Moe},
};

// What other families' settings change and none of ours computes.
constexpr const char* kForeign[] = {
    "attention_chunk_size",  "attention_multiplier",    "attn_logit_softcapping",
    "embedding_multiplier",  "final_logit_softcapping", "lm_head_multiplier",
    "logit_scale",           "logits_scaling",          "no_rope_layers",
    "query_pre_attn_scalar", "residual_multiplier",
};

std::string KnownFamilies() {
  std::string names;
  for (const Registered& known : kFamilies)
    names += (names.empty() ? "" : ", ") + std::string(known.model_type);
  return names;
}

}  // namespace

absl::StatusOr<Family> MakeFamily(Config& config, const FamilyOptions& options) {
  const std::string model_type = config.String("model_type");
  CONCLAVE_RETURN_IF_ERROR(config.status());
  for (const Registered& known : kFamilies) {
    if (model_type != known.model_type) continue;
    Family family = known.make(config, options);
    family.quantization = ReadQuantization(config, options.limits);
    CONCLAVE_RETURN_IF_ERROR(config.status());
    family.spec.family = model_type;
    return family;
  }
  config.Refuse(absl::StrFormat("model_type is \"%s\", supported: %s", Printable(model_type),
                                KnownFamilies()));
  return config.status();
}

ModelSpec ReadCommonSpec(Config& config, const FamilyOptions& options, bool may_have_bias) {
  const ModelLimits& limits = options.limits;
  config.RequireOneOf("hidden_act", "silu", {"silu", "swish"});  // two names of one function
  if (!may_have_bias) config.RequireFalse("mlp_bias");
  for (const char* key : kForeign) config.RequireAbsent(key);

  ModelSpec spec;
  spec.vocab = config.Int("vocab_size", {1, limits.vocab});
  spec.dim = config.Int("hidden_size", {1, limits.dim});
  spec.layers.resize(static_cast<size_t>(config.Int("num_hidden_layers", {1, limits.layers})));
  spec.context_limit = config.Int("max_position_embeddings", {1, limits.context});
  spec.norm_eps = static_cast<float>(config.Float("rms_norm_eps", {1e-12, 1.0}));
  spec.ffn_bias = config.BoolOr("mlp_bias", false);
  spec.tied_embeddings = config.BoolOr("tie_word_embeddings", false);
  spec.attention.heads = config.Int("num_attention_heads", {1, limits.heads});
  spec.gate.top_k = config.Int("num_experts_per_tok", {1, limits.top_k});
  return spec;
}

void ReadSlots(Config& config, const std::string& key, const FamilyOptions& options,
               ModelSpec& spec) {
  spec.gate.slots = config.Int(key, {1, options.limits.experts});
  if (spec.gate.top_k > spec.gate.slots) {
    config.Refuse(absl::StrFormat("num_experts_per_tok is %d, more than %s = %d", spec.gate.top_k,
                                  key, spec.gate.slots));
  }
}

void SetRope(Config& config, const RopeSettings& settings, int32_t dim, int32_t width,
             bool interleaved, const FamilyOptions& options, ModelSpec& spec) {
  const bool yarn = settings.scaling == RopeSettings::Scaling::kYarn;
  if (dim < 1 || (dim % 2 != 0 && (yarn || dim == width))) {
    config.Refuse(absl::StrFormat("rotary embedding of %d columns, expected an even number", dim));
    return;
  }
  const int64_t row_bytes = (dim + dim % 2) * static_cast<int64_t>(sizeof(float));
  const double longest = std::min<double>(
      options.limits.context, static_cast<double>(options.limits.rope_bytes / row_bytes));
  const double stretched = StretchedContext(settings, spec.context_limit);
  spec.context_limit =
      std::max(spec.context_limit, static_cast<int32_t>(std::min(stretched, longest)));
  if (options.context_limit > 0)
    spec.context_limit = std::min(spec.context_limit, options.context_limit);
  const int64_t bytes = spec.context_limit * row_bytes;
  if (bytes > options.limits.rope_bytes) {
    config.Refuse(absl::StrFormat(
        "max_position_embeddings %d needs a rotary table of %d bytes, the limit is %d: "
        "lower the context limit",
        spec.context_limit, bytes, options.limits.rope_bytes));
  }
  if (!config.status().ok()) return;
  spec.rope = MakeRopeTable(settings, dim, interleaved, spec.context_limit);
}

void IgnoreNextTokenLayers(Config& config, const FamilyOptions& options, Family& family) {
  const int32_t count = config.IntOr("num_nextn_predict_layers", 1, {0, options.limits.layers});
  for (size_t l = 0; l < static_cast<size_t>(count); ++l) {
    family.tensors.Ignore(absl::StrFormat("model.layers.%d.", family.spec.layers.size() + l));
  }
}

}  // namespace conclave::worker

#include "worker/model/generation_config.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "worker/model/json.h"
#include "worker/status.h"

namespace conclave::worker {
namespace {

using Json = nlohmann::json;

constexpr int32_t kMaxInt = std::numeric_limits<int32_t>::max();

constexpr std::string_view kApplied[] = {
    "do_sample", "temperature",        "top_p",          "top_k",
    "min_p",     "repetition_penalty", "max_new_tokens", "eos_token_id",
};

// What changes nothing of what a server generates: tokens that the tokenizer knows, caches, what
// Hugging Face's generate returns beside tokens, how it speculates or compiles, and beams' details.
constexpr std::string_view kIrrelevant[] = {
    "_from_model_config",
    "assistant_confidence_threshold",
    "assistant_early_exit",
    "assistant_ensemble_weight",
    "assistant_lookbehind",
    "bos_token_id",
    "cache_config",
    "cache_implementation",
    "compile_config",
    "continuous_batching_config",
    "decoder_start_token_id",
    "disable_compile",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "is_assistant",
    "length_penalty",
    "low_memory",
    "max_cache_len",
    "max_matching_ngram_size",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "output_scores",
    "pad_token_id",
    "prefill_chunk_size",
    "prompt_lookup_num_tokens",
    "return_dict_in_generate",
    "return_legacy_cache",
    "speculation_type",
    "target_lookbehind",
    "transformers_version",
    "use_cache",
    "use_mtp",
};

// What is not applied, and the values at which that makes no difference.
struct Unapplied {
  std::string_view key;
  std::vector<Json> off;
};
const std::vector<Unapplied>& UnappliedSettings() {
  static const auto* const settings = new std::vector<Unapplied>{
      {"bad_words_ids", {Json::array()}},
      {"begin_suppress_tokens", {Json::array()}},
      {"constraints", {Json::array()}},
      {"diversity_penalty", {0}},
      {"dola_layers", {}},
      {"epsilon_cutoff", {0}},
      {"eta_cutoff", {0}},
      {"exponential_decay_length_penalty", {}},
      {"force_words_ids", {Json::array()}},
      {"forced_bos_token_id", {}},
      {"forced_eos_token_id", {}},
      {"guidance_scale", {1}},
      {"max_length", {20}},
      {"max_time", {}},
      {"min_length", {0}},
      {"min_new_tokens", {0}},
      {"no_repeat_ngram_size", {0}},
      {"num_beam_groups", {1}},
      {"num_beams", {1}},
      {"penalty_alpha", {0}},
      {"remove_invalid_values", {false}},
      {"renormalize_logits", {false}},
      {"sequence_bias", {Json::array(), Json::object()}},
      {"stop_strings", {Json::array(), ""}},
      {"suppress_tokens", {Json::array()}},
      {"token_healing", {false}},
      {"top_h", {}},
      {"typical_p", {1}},
      {"watermarking_config", {}},
  };
  return *settings;
}

template <typename List, typename Value>
bool Contains(const List& list, const Value& value) {
  return std::find(std::begin(list), std::end(list), value) != std::end(list);
}

std::vector<std::string> Remarks(const Json& document, const std::string& name) {
  std::vector<std::string> remarks;
  for (const auto& [key, value] : document.items()) {
    if (value.is_null() || Contains(kApplied, key) || Contains(kIrrelevant, key)) continue;
    const auto& unapplied = UnappliedSettings();
    const auto known = std::find_if(unapplied.begin(), unapplied.end(),
                                    [&key = key](const auto& one) { return one.key == key; });
    if (known == unapplied.end()) {
      remarks.push_back(absl::StrCat(name, ": ", Printable(key), " is not known and not applied"));
    } else if (!Contains(known->off, value)) {
      remarks.push_back(
          absl::StrCat(name, ": ", key, " is ", Printable(value.dump()), ", which is not applied"));
    }
  }
  return remarks;
}

// Transformers writes ids that the vocabulary lacks (the family's default beside a smaller
// vocabulary, -1 for none): they can never be sampled and end nothing.
std::vector<int32_t> ReadEos(Config& config, int32_t vocab, const ModelLimits& limits) {
  std::vector<int32_t> ids =
      config.IntsOr("eos_token_id", {-1, kMaxInt}, static_cast<size_t>(limits.eos));
  std::erase_if(ids, [&](int32_t id) { return id < 0 || id >= vocab; });
  return ids;
}

GenerationDefaults ReadDefaults(Config& settings, const ModelLimits& limits) {
  GenerationDefaults sampled;
  const auto number = [&](const char* key, double otherwise, Config::FloatRange range) {
    return static_cast<float>(settings.FloatOr(key, otherwise, range));
  };
  sampled.temperature = number("temperature", 1.0, {0.0, 100.0});
  sampled.top_p = number("top_p", 1.0, {1e-6, 1.0});
  // 50 is what Hugging Face's generate uses when the file does not say.
  sampled.top_k = settings.IntOr("top_k", 50, {0, limits.vocab});
  sampled.min_p = number("min_p", 0.0, {0.0, 1.0});
  sampled.repetition_penalty = number("repetition_penalty", 1.0, {1e-6, 1e6});
  sampled.max_new_tokens = settings.IntOr("max_new_tokens", 0, {1, kMaxInt});
  if (settings.BoolOr("do_sample", false)) return sampled;
  return {.repetition_penalty = sampled.repetition_penalty,
          .max_new_tokens = sampled.max_new_tokens};
}

}  // namespace

absl::StatusOr<GenerationConfig> ReadGenerationConfig(const std::optional<std::string>& text,
                                                      const std::string& name, Config& config,
                                                      int32_t vocab, const ModelLimits& limits) {
  GenerationConfig generation;
  if (text) {
    CONCLAVE_ASSIGN_OR_RETURN(const Json document, ParseJson(*text, name));
    Config settings(document, name);
    generation.defaults = ReadDefaults(settings, limits);
    generation.eos = ReadEos(settings, vocab, limits);
    CONCLAVE_RETURN_IF_ERROR(settings.status());
    generation.remarks = Remarks(document, name);
  }
  if (generation.eos.empty()) generation.eos = ReadEos(config, vocab, limits);
  CONCLAVE_RETURN_IF_ERROR(config.status());
  return generation;
}

}  // namespace conclave::worker

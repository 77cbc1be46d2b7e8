#pragma once
// What a tokenizer.json says, checked. The file is untrusted; whatever this does not know how to
// honour is an error that names it, never ignored (but for truncation and padding: they are for
// training, and a prompt is never shortened). Format: Hugging Face's tokenizers, model BPE.

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "router/tokenizer_components.h"
#include "router/tokenizer_vocabulary.h"

namespace conclave::router {

struct TokenizerLimits {
  size_t file_bytes_max = size_t{40} << 20;
  int file_depth_max = 32;
  size_t decoded_bytes_max = size_t{160} << 20;  // that all tokens stand for
  size_t template_tokens_max = 64;
  VocabularyLimits vocabulary;
  ComponentLimits components;
};

struct TokenizerFile {
  Vocabulary vocabulary;
  std::vector<Normalizer::Step> normalizer;
  PreTokenizerParts pre_tokenizer;
  DecoderParts decoder;
  // The post_processor's template around one text, or add_bos_token and add_eos_token.
  std::vector<scheduler::TokenId> prefix;
  std::vector<scheduler::TokenId> suffix;
  std::optional<scheduler::TokenId> bos;
  std::optional<scheduler::TokenId> eos;
};

// config: tokenizer_config.json, or empty. nullopt and *error: what is wrong and where.
std::optional<TokenizerFile> ParseTokenizerFile(std::string_view tokenizer, std::string_view config,
                                                const TokenizerLimits& limits, std::string* error);

}  // namespace conclave::router

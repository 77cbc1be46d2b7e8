#pragma once
// What a tokenizer.json says, checked: every id in range and used once, every merge of known
// tokens. The file is untrusted; whatever this does not know how to honour is an error that names
// it, never ignored. Format: Hugging Face's tokenizers, byte-level BPE.

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "router/added_tokens.h"
#include "router/bpe.h"
#include "router/pre_tokenizer.h"
#include "scheduler/types.h"

namespace conclave::router {

struct TokenizerLimits {
  size_t file_bytes_max = size_t{40} << 20;
  size_t tokens_max = 1'000'000;
  size_t merges_max = 2'000'000;
  size_t added_tokens_max = 10'000;
  size_t added_token_bytes_max = 256;
  size_t pre_tokenizers_max = 16;
};

struct TokenizerFile {
  std::vector<std::string> token_bytes;  // by id; the vocabulary is decoded from the byte alphabet
  std::array<TokenId, 256> byte_tokens;  // the token of each single byte
  std::vector<Bpe::Merge> merges;        // by rank
  bool ignore_merges = false;            // a word that is a token is not built from merges
  std::vector<AddedToken> added_tokens;
  std::vector<PreTokenizer::Stage> pre_tokenizer;
  // The post_processor's template around one text, or add_bos_token and add_eos_token.
  std::vector<TokenId> prefix;
  std::vector<TokenId> suffix;
  std::optional<TokenId> bos;
  std::optional<TokenId> eos;
};

// config: tokenizer_config.json, or empty. nullopt and *error: what is wrong and where.
std::optional<TokenizerFile> ParseTokenizerFile(std::string_view tokenizer, std::string_view config,
                                                const TokenizerLimits& limits, std::string* error);

}  // namespace conclave::router

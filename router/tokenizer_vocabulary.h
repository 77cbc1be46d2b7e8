#pragma once
// Reads the tokens of a tokenizer.json: the model's vocabulary and merges, and the added tokens.
// Every id below their number is one token's, every merge is of known tokens; what is wrong or not
// supported is noted (json_node.h).

#include <cstddef>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "router/added_tokens.h"
#include "router/bpe.h"
#include "router/json_node.h"
#include "router/symbols.h"
#include "scheduler/types.h"

namespace conclave::router {

struct VocabularyLimits {
  size_t tokens_max = 1'000'000;
  size_t merges_max = 2'000'000;
  size_t added_tokens_max = 10'000;
  size_t added_token_bytes_max = 256;
};

struct Vocabulary {
  using Ids = std::unordered_map<std::string, scheduler::TokenId>;

  std::vector<std::string> tokens;  // by id, as they are written
  Ids ids;                          // of tokens
  std::optional<Symbols> symbols;
  std::vector<Bpe::Merge> merges;  // by rank
  Ids whole_words;                 // ignore_merges: words, as bytes, that are not built from merges
  std::vector<AddedToken> added_tokens;
};

// root: of tokenizer.json. byte_level: the vocabulary is written in GPT-2's alphabet.
Vocabulary ReadVocabulary(const JsonNode& root, bool byte_level, const VocabularyLimits& limits);

}  // namespace conclave::router

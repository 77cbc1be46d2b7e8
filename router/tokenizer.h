#pragma once
// Text to token ids and back: byte-pair encoding, byte-level or of characters as SentencePiece has
// it, read from a Hugging Face tokenizer.json. Immutable once loaded; any thread. The ids are those
// of Hugging Face's tokenizers, and any bytes can be encoded: a byte that is not UTF-8 becomes its
// byte token, or, where a vocabulary of characters has none, what an unknown character becomes.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "router/added_tokens.h"
#include "router/bpe.h"
#include "router/decoder.h"
#include "router/normalizer.h"
#include "router/pre_tokenizer.h"
#include "router/symbols.h"
#include "router/tokenizer_file.h"
#include "scheduler/types.h"

namespace conclave::router {

struct EncodeOptions {
  // The texts of special tokens become these tokens; otherwise they are text like any other. Only
  // for text that nobody from outside wrote, such as a chat template.
  bool parse_special = false;
  // The post_processor's tokens (a leading bos) are put around the text.
  bool add_special = false;
  // With parse_special, what somebody from outside wrote all the same: see Recognition.
  std::span<const ByteRange> outside = {};  // sorted, disjoint
  std::span<const TokenId> control = {};    // sorted
};

// What an Encode() did, for tests and metrics.
struct EncodeWork {
  uint64_t words = 0;
  uint64_t merge_candidates = 0;
};

class Tokenizer {
 public:
  // From the contents of tokenizer.json and of tokenizer_config.json, which may be empty.
  // nullopt and *error: what is wrong with the file, or which part of it is not supported.
  static std::optional<Tokenizer> Load(std::string_view tokenizer, std::string_view config,
                                       std::string* error, const TokenizerLimits& limits = {});
  // From a checkpoint directory; a missing tokenizer_config.json is not an error.
  static std::optional<Tokenizer> LoadDirectory(const std::string& directory, std::string* error,
                                                const TokenizerLimits& limits = {});

  // nullopt and *error: text has more than text_bytes_max() bytes, also once normalized, or a
  // pattern meets its match limit on it. work, if given, is added to.
  std::optional<std::vector<TokenId>> Encode(std::string_view text, const EncodeOptions& options,
                                             std::string* error, EncodeWork* work = nullptr) const;
  static constexpr size_t text_bytes_max() { return size_t{64} << 20; }

  // The text of tokens, as bytes: a character may be cut at either end (StreamingDetokenizer,
  // ReplaceInvalidUtf8). An id that is no token has no bytes.
  std::string Decode(std::span<const TokenId> ids, bool skip_special) const;
  // What a token stands for within a text; its beginning and its end may lose a space.
  std::string_view TokenBytes(TokenId id) const { return decoder_.TokenBytes(id); }
  const Decoder& decoder() const { return decoder_; }

  size_t vocab_size() const { return decoder_.size(); }
  bool is_special(TokenId id) const { return special_.contains(id); }
  std::optional<TokenId> bos() const { return bos_; }
  std::optional<TokenId> eos() const { return eos_; }
  // The added token with this text ("<|assistant|>").
  std::optional<TokenId> FindAddedToken(std::string_view content) const;
  // By their texts.
  const std::unordered_map<std::string, TokenId>& added_tokens() const { return added_ids_; }

 private:
  struct Encoding;  // one Encode()

  Tokenizer(TokenizerFile file, Normalizer normalizer, Decoder decoder);

  Normalizer normalizer_;
  AddedTokens added_tokens_;
  PreTokenizer pre_tokenizer_;
  Symbols symbols_;
  Bpe bpe_;
  Decoder decoder_;
  Vocabulary::Ids whole_words_;
  Vocabulary::Ids added_ids_;
  std::unordered_set<TokenId> special_;
  std::vector<TokenId> prefix_;
  std::vector<TokenId> suffix_;
  std::optional<TokenId> bos_;
  std::optional<TokenId> eos_;
};

}  // namespace conclave::router

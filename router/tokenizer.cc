#include "router/tokenizer.h"

#include <filesystem>
#include <fstream>
#include <system_error>
#include <utility>

namespace conclave::router {
namespace {

// False and *error: it cannot be read, or is larger than bytes_max.
bool ReadFile(const std::filesystem::path& path, size_t bytes_max, std::string* content,
              std::string* error) {
  std::error_code failure;
  const auto bytes = std::filesystem::file_size(path, failure);
  if (!failure && bytes > bytes_max) {
    *error = path.string() + " has " + std::to_string(bytes) + " bytes, the limit is " +
             std::to_string(bytes_max);
    return false;
  }
  std::ifstream file(path, std::ios::binary);
  if (!failure) content->resize(bytes);
  if (failure || !file.read(content->data(), static_cast<std::streamsize>(content->size()))) {
    *error = path.string() + " cannot be read";
    return false;
  }
  return true;
}

}  // namespace

std::optional<Tokenizer> Tokenizer::Load(std::string_view tokenizer, std::string_view config,
                                         std::string* error, const TokenizerLimits& limits) {
  std::optional<TokenizerFile> file = ParseTokenizerFile(tokenizer, config, limits, error);
  if (!file) return std::nullopt;
  std::optional<PreTokenizer> pre_tokenizer =
      PreTokenizer::Create(std::move(file->pre_tokenizer), error);
  if (!pre_tokenizer) return std::nullopt;
  return Tokenizer(std::move(*file), std::move(*pre_tokenizer));
}

std::optional<Tokenizer> Tokenizer::LoadDirectory(const std::string& directory, std::string* error,
                                                  const TokenizerLimits& limits) {
  const std::filesystem::path folder(directory);
  std::string tokenizer, config;
  if (!ReadFile(folder / "tokenizer.json", limits.file_bytes_max, &tokenizer, error)) {
    return std::nullopt;
  }
  std::error_code ignored;
  if (std::filesystem::exists(folder / "tokenizer_config.json", ignored) &&
      !ReadFile(folder / "tokenizer_config.json", limits.file_bytes_max, &config, error)) {
    return std::nullopt;
  }
  return Load(tokenizer, config, error, limits);
}

Tokenizer::Tokenizer(TokenizerFile file, PreTokenizer pre_tokenizer)
    : token_bytes_(std::move(file.token_bytes)),
      pre_tokenizer_(std::move(pre_tokenizer)),
      added_tokens_(file.added_tokens),
      bpe_(file.byte_tokens, file.merges),
      prefix_(std::move(file.prefix)),
      suffix_(std::move(file.suffix)),
      bos_(file.bos),
      eos_(file.eos) {
  for (const AddedToken& token : file.added_tokens) {
    added_ids_.emplace(token.content, token.id);
    if (token.special) special_.insert(token.id);
  }
  if (!file.ignore_merges) return;
  for (size_t id = 0; id < token_bytes_.size(); ++id) {
    whole_words_.emplace(token_bytes_[id], static_cast<TokenId>(id));
  }
  // A word never becomes an added token: those are found, or left as text, before there are words.
  for (const AddedToken& token : file.added_tokens) {
    const auto word = whole_words_.find(token_bytes_[static_cast<size_t>(token.id)]);
    if (word != whole_words_.end() && word->second == token.id) whole_words_.erase(word);
  }
}

std::optional<std::vector<TokenId>> Tokenizer::Encode(std::string_view text,
                                                      const EncodeOptions& options,
                                                      std::string* error, EncodeWork* work) const {
  if (text.size() > text_bytes_max()) {
    *error = "the text has " + std::to_string(text.size()) + " bytes, the limit is " +
             std::to_string(text_bytes_max());
    return std::nullopt;
  }
  std::vector<TokenId> ids;
  if (options.add_special) ids = prefix_;
  Bpe::Scratch scratch;
  uint64_t words = 0;
  const auto encode_word = [&](std::string_view word) {
    ++words;
    if (!whole_words_.empty()) {
      const auto whole = whole_words_.find(std::string(word));
      if (whole != whole_words_.end()) return ids.push_back(whole->second);
    }
    bpe_.Encode(word, scratch, &ids);
  };
  const bool good = added_tokens_.Split(
      text,
      {.special = options.parse_special, .outside = options.outside, .control = options.control},
      [&](std::string_view piece, std::optional<TokenId> added) {
        if (!added) return pre_tokenizer_.Split(piece, encode_word, error);
        ids.push_back(*added);
        return true;
      });
  if (work != nullptr) {
    work->words += words;
    work->merge_candidates += scratch.heap_pushes;
  }
  if (!good) return std::nullopt;
  if (options.add_special) ids.insert(ids.end(), suffix_.begin(), suffix_.end());
  return ids;
}

std::string_view Tokenizer::TokenBytes(TokenId id) const {
  if (id < 0 || static_cast<size_t>(id) >= token_bytes_.size()) return {};
  return token_bytes_[static_cast<size_t>(id)];
}

std::string Tokenizer::Decode(std::span<const TokenId> ids, bool skip_special) const {
  std::string bytes;
  for (TokenId id : ids) {
    if (!(skip_special && is_special(id))) bytes += TokenBytes(id);
  }
  return bytes;
}

std::optional<TokenId> Tokenizer::FindAddedToken(std::string_view content) const {
  const auto found = added_ids_.find(std::string(content));
  if (found == added_ids_.end()) return std::nullopt;
  return found->second;
}

}  // namespace conclave::router

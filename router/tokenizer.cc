#include "router/tokenizer.h"

#include <filesystem>
#include <utility>

#include "router/small_file.h"
#include "router/utf8.h"

namespace conclave::router {
namespace {

// Bytes of an added token's content, normalized.
constexpr size_t kNormalizedTokenMax = 4096;

// Works out what to look for in normalized text. False and *error: a content cannot be normalized.
bool NormalizeContents(const Normalizer& normalizer, std::vector<AddedToken>* tokens,
                       std::string* error) {
  TextPattern::Scratch scratch;
  for (AddedToken& token : *tokens) {
    if (!token.normalized) continue;
    std::string normalized;
    if (!normalizer.Apply(token.content, /*continues=*/false, kNormalizedTokenMax, scratch,
                          &normalized, error)) {
      *error = "tokenizer.json: the added token " + Quoted(token.content) + ": " + *error;
      return false;
    }
    if (normalized != token.content) token.normalized_content = std::move(normalized);
  }
  return true;
}

// Calls run(valid, part) for the maximal runs of valid characters and of other bytes.
template <typename Run>
bool SplitByValidity(std::string_view text, const Run& run) {
  size_t start = 0, at = 0;
  bool was_valid = true;
  while (at < text.size()) {
    const Utf8Char c = FirstChar(text.substr(at));
    const bool valid = c.kind == Utf8Char::Kind::kValid;
    if (at > start && valid != was_valid) {
      if (!run(was_valid, text.substr(start, at - start))) return false;
      start = at;
    }
    was_valid = valid;
    at += c.bytes;
  }
  return start == text.size() || run(was_valid, text.substr(start));
}

}  // namespace

std::optional<Tokenizer> Tokenizer::Load(std::string_view tokenizer, std::string_view config,
                                         std::string* error, const TokenizerLimits& limits) {
  std::optional<TokenizerFile> file = ParseTokenizerFile(tokenizer, config, limits, error);
  if (!file) return std::nullopt;
  Normalizer normalizer(std::move(file->normalizer));
  Vocabulary& vocabulary = file->vocabulary;
  if (!NormalizeContents(normalizer, &vocabulary.added_tokens, error)) return std::nullopt;
  for (const AddedToken& token : vocabulary.added_tokens) {
    // tokenizers gives a token back as it is found.
    if (!token.normalized_content) continue;
    vocabulary.tokens[static_cast<size_t>(token.id)] = *token.normalized_content;
  }
  std::optional<Decoder> decoder = Decoder::Create(
      file->decoder.steps, file->decoder.trim, vocabulary.tokens, limits.decoded_bytes_max, error);
  if (!decoder) return std::nullopt;
  return Tokenizer(*std::move(file), std::move(normalizer), *std::move(decoder));
}

std::optional<Tokenizer> Tokenizer::LoadDirectory(const std::string& directory, std::string* error,
                                                  const TokenizerLimits& limits) {
  const std::filesystem::path folder(directory);
  const auto tokenizer = ReadSmallFile(folder / "tokenizer.json", limits.file_bytes_max, error);
  if (!tokenizer) {
    if (error->empty()) *error = "there is no tokenizer.json";
    return std::nullopt;
  }
  const auto config = ReadSmallFile(folder / "tokenizer_config.json", limits.file_bytes_max, error);
  if (!error->empty()) return std::nullopt;
  return Load(*tokenizer, config.value_or(""), error, limits);
}

Tokenizer::Tokenizer(TokenizerFile file, Normalizer normalizer, Decoder decoder)
    : normalizer_(std::move(normalizer)),
      added_tokens_(file.vocabulary.added_tokens),
      pre_tokenizer_(std::move(file.pre_tokenizer.stages)),
      symbols_(*std::move(file.vocabulary.symbols)),
      bpe_(file.vocabulary.merges),
      decoder_(std::move(decoder)),
      whole_words_(std::move(file.vocabulary.whole_words)),
      prefix_(std::move(file.prefix)),
      suffix_(std::move(file.suffix)),
      bos_(file.bos),
      eos_(file.eos) {
  for (const AddedToken& token : file.vocabulary.added_tokens) {
    added_ids_.emplace(token.content, token.id);
    if (token.special) special_.insert(token.id);
  }
}

// Text to pieces between added tokens, to runs of UTF-8, to normalized text, to words, to ids.
struct Tokenizer::Encoding {
  const Tokenizer& tokenizer;
  const AddedTokens::Search& added_tokens;
  std::string* error;
  std::vector<TokenId> ids = {};
  std::vector<TokenId> symbols = {};
  TextPattern::Scratch pattern_scratch = {};
  Bpe::Scratch bpe_scratch = {};
  uint64_t words = 0;

  bool Text(std::string_view text) {
    return added_tokens.Raw([&](std::string_view piece, std::optional<TokenId> added) {
      if (!added) return Piece(piece, piece.data() == text.data());
      ids.push_back(*added);
      return true;
    });
  }

  bool Piece(std::string_view piece, bool begins_text) {
    PieceStart start = begins_text ? PieceStart::kText : PieceStart::kPiece;
    return SplitByValidity(piece, [&](bool valid, std::string_view run) {
      if (valid) return Run(run, start);
      start = PieceStart::kBroken;
      Word(run);
      return true;
    });
  }

  bool Run(std::string_view run, PieceStart start) {
    std::string normalized;
    if (!tokenizer.normalizer_.empty()) {
      if (!tokenizer.normalizer_.Apply(run, start == PieceStart::kBroken, text_bytes_max(),
                                       pattern_scratch, &normalized, error)) {
        return false;
      }
      run = normalized;
    }
    return added_tokens.Normalized(run, [&](std::string_view piece, std::optional<TokenId> added) {
      if (!added) return Words(piece, piece.data() == run.data() ? start : PieceStart::kPiece);
      ids.push_back(*added);
      return true;
    });
  }

  bool Words(std::string_view piece, PieceStart start) {
    return tokenizer.pre_tokenizer_.Split(
        piece, start, pattern_scratch, [this](std::string_view word) { Word(word); }, error);
  }

  void Word(std::string_view word) {
    ++words;
    if (!tokenizer.whole_words_.empty()) {
      const auto whole = tokenizer.whole_words_.find(std::string(word));
      if (whole != tokenizer.whole_words_.end()) return ids.push_back(whole->second);
    }
    symbols.clear();
    tokenizer.symbols_.Append(word, &symbols);
    tokenizer.bpe_.Encode(symbols, bpe_scratch, &ids);
  }
};

std::optional<std::vector<TokenId>> Tokenizer::Encode(std::string_view text,
                                                      const EncodeOptions& options,
                                                      std::string* error, EncodeWork* work) const {
  if (text.size() > text_bytes_max()) {
    *error = "the text has " + std::to_string(text.size()) + " bytes, the limit is " +
             std::to_string(text_bytes_max());
    return std::nullopt;
  }
  const Recognition recognition = {
      .special = options.parse_special, .outside = options.outside, .control = options.control};
  const AddedTokens::Search search(added_tokens_, text, recognition);
  Encoding encoding{*this, search, error};
  if (options.add_special) encoding.ids = prefix_;
  const bool good = encoding.Text(text);
  if (work != nullptr) {
    work->words += encoding.words;
    work->merge_candidates += encoding.bpe_scratch.heap_pushes;
  }
  if (!good) return std::nullopt;
  if (options.add_special) encoding.ids.insert(encoding.ids.end(), suffix_.begin(), suffix_.end());
  return std::move(encoding.ids);
}

std::string Tokenizer::Decode(std::span<const TokenId> ids, bool skip_special) const {
  std::string bytes;
  Decoder::Stream stream(decoder_);
  for (TokenId id : ids) {
    if (!(skip_special && is_special(id))) stream.Push(id, &bytes);
  }
  return bytes;
}

std::optional<TokenId> Tokenizer::FindAddedToken(std::string_view content) const {
  const auto found = added_ids_.find(std::string(content));
  if (found == added_ids_.end()) return std::nullopt;
  return found->second;
}

}  // namespace conclave::router

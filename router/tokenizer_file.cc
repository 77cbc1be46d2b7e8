#include "router/tokenizer_file.h"

#include <nlohmann/json.hpp>
#include <utility>

namespace conclave::router {
namespace {

using Json = nlohmann::json;
using scheduler::TokenId;

// The post_processor: what is put around a text.
class Template {
 public:
  Template(size_t vocab_size, const TokenizerLimits& limits)
      : vocab_size_(vocab_size), limits_(limits) {}

  void Read(const JsonNode& processor) {
    const std::string type = processor.String("type");
    if (type == "Sequence") {
      for (const JsonNode& part : processor.List("processors", limits_.components.parts_max)) {
        Read(part);
      }
    } else if (type == "TemplateProcessing") {
      if (std::exchange(found_, true)) processor.Unsupported("a second TemplateProcessing");
      ReadPieces(processor);
    } else if (type != "ByteLevel") {  // which only trims offsets
      processor.Unsupported(Quoted(type));
    }
  }

  bool found() const { return found_; }
  std::vector<TokenId>& prefix() { return prefix_; }
  std::vector<TokenId>& suffix() { return suffix_; }

 private:
  void ReadPieces(const JsonNode& processor) {
    int sequences = 0;
    for (const JsonNode& piece : processor.List("single", limits_.template_tokens_max)) {
      if (piece["Sequence"].exists()) {
        ++sequences;
      } else {
        ReadToken(processor, piece, sequences == 0 ? &prefix_ : &suffix_);
      }
    }
    if (sequences != 1) {
      processor.Unsupported("a template with " + std::to_string(sequences) + " sequences");
    }
  }

  void ReadToken(const JsonNode& processor, const JsonNode& piece, std::vector<TokenId>* ids) {
    const std::string name = piece["SpecialToken"].String("id");
    const JsonNode entry = processor["special_tokens"][name];
    if (!entry.exists()) {
      piece.Fail("names " + Quoted(name) + ", which special_tokens does not list");
    }
    for (const JsonNode& id : entry.List("ids", limits_.template_tokens_max)) {
      const Json* value = id.value();
      if (value == nullptr || !value->is_number_unsigned() ||
          value->get<uint64_t>() >= vocab_size_) {
        id.Fail("is not the id of a token");
        return;
      }
      ids->push_back(value->get<TokenId>());
    }
  }

  const size_t vocab_size_;
  const TokenizerLimits& limits_;
  bool found_ = false;
  std::vector<TokenId> prefix_;
  std::vector<TokenId> suffix_;
};

// "</s>" or {"content": "</s>", ...}, or nothing.
std::optional<TokenId> ReadNamedToken(const JsonNode& config, const char* key,
                                      const Vocabulary::Ids& ids) {
  const JsonNode value = config[key];
  if (!value.exists()) return std::nullopt;
  const std::string content = value.is_object() ? value.String("content") : value.AsString();
  const auto found = ids.find(content);
  if (found != ids.end()) return found->second;
  value.Fail(Quoted(content) + " is not in the vocabulary");
  return std::nullopt;
}

void ReadConfig(const JsonNode& config, bool has_template, TokenizerFile* file) {
  file->bos = ReadNamedToken(config, "bos_token", file->vocabulary.ids);
  file->eos = ReadNamedToken(config, "eos_token", file->vocabulary.ids);
  const bool add_bos = config.Bool("add_bos_token", false);
  const bool add_eos = config.Bool("add_eos_token", false);
  if (has_template) return;
  if (file->bos && add_bos) file->prefix = {*file->bos};
  if (file->eos && add_eos) file->suffix = {*file->eos};
}

}  // namespace

std::optional<TokenizerFile> ParseTokenizerFile(std::string_view tokenizer, std::string_view config,
                                                const TokenizerLimits& limits, std::string* error) {
  error->clear();
  JsonLimits json_limits = {limits.file_bytes_max, limits.file_depth_max};
  const auto document = ParseJsonObject(tokenizer, "tokenizer.json", json_limits, error);
  if (!document) return std::nullopt;
  json_limits.keys_twice = true;
  const auto config_document =
      ParseJsonObject(config.empty() ? "{}" : config, "tokenizer_config.json", json_limits, error);
  if (!config_document) return std::nullopt;

  TokenizerFile file;
  const JsonNode root(*document, "tokenizer.json", error);
  file.normalizer = ReadNormalizer(root["normalizer"], limits.components);
  file.pre_tokenizer = ReadPreTokenizer(root["pre_tokenizer"], limits.components);
  file.vocabulary = ReadVocabulary(root, file.pre_tokenizer.byte_level, limits.vocabulary);
  file.decoder = ReadDecoder(root["decoder"], limits.components);
  Template around(file.vocabulary.tokens.size(), limits);
  if (root["post_processor"].exists()) around.Read(root["post_processor"]);
  file.prefix = std::move(around.prefix());
  file.suffix = std::move(around.suffix());
  ReadConfig(JsonNode(*config_document, "tokenizer_config.json", error), around.found(), &file);
  if (!error->empty()) return std::nullopt;
  return file;
}

}  // namespace conclave::router

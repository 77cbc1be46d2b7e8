#include "router/tokenizer_file.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "router/utf8.h"

namespace conclave::router {
namespace {

using Json = nlohmann::json;
using Stage = PreTokenizer::Stage;

constexpr int32_t kNoByte = -1;
constexpr char32_t kByteAlphabetEnd = 0x144;

// GPT-2's alphabet: a printable byte is itself, the other 68 are U+0100 and on. By code point: the
// byte.
const std::array<int32_t, kByteAlphabetEnd>& ByteAlphabet() {
  static const std::array<int32_t, kByteAlphabetEnd> alphabet = [] {
    std::array<int32_t, kByteAlphabetEnd> bytes;
    bytes.fill(kNoByte);
    size_t next = 0x100;
    for (int32_t byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) ||
                             (byte >= 0xAE && byte <= 0xFF);
      bytes[printable ? static_cast<size_t>(byte) : next++] = byte;
    }
    return bytes;
  }();
  return alphabet;
}

// The bytes that a token of the vocabulary stands for; one that leaves the alphabet stands for
// itself.
std::string BytesOf(std::string_view token) {
  std::string bytes;
  for (std::string_view rest = token; !rest.empty();) {
    const Utf8Char c = FirstChar(rest);
    if (c.code_point >= kByteAlphabetEnd || ByteAlphabet()[c.code_point] == kNoByte) {
      return std::string(token);
    }
    bytes += static_cast<char>(ByteAlphabet()[c.code_point]);
    rest.remove_prefix(c.bytes);
  }
  return bytes;
}

const Json* Find(const Json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

std::string StringAt(const Json& object, const char* key) {
  const Json* value = Find(object, key);
  return value != nullptr && value->is_string() ? value->get<std::string>() : std::string();
}

bool BoolAt(const Json& object, const char* key, bool otherwise) {
  const Json* value = Find(object, key);
  return value != nullptr && value->is_boolean() ? value->get<bool>() : otherwise;
}

std::string Quoted(std::string_view text) {
  std::string quoted(text.substr(0, 64));
  if (quoted.size() < text.size()) quoted += "...";
  return '"' + ReplaceInvalidUtf8(quoted) + '"';
}

std::string TypeOf(const Json& component) {
  const std::string type = StringAt(component, "type");
  return type.empty() ? "of no type" : type;
}

class Parser {
 public:
  Parser(const TokenizerLimits& limits, std::string* error) : limits_(limits), error_(error) {}

  std::optional<TokenizerFile> Parse(std::string_view tokenizer, std::string_view config) {
    Json root, config_root = Json::object();
    if (!ReadJson(tokenizer, "tokenizer.json", &root)) return std::nullopt;
    if (!config.empty() && !ReadJson(config, "tokenizer_config.json", &config_root)) {
      return std::nullopt;
    }
    if (!ReadNormalizer(root) || !ReadModel(root) || !ReadAddedTokens(root) || !FillIds() ||
        !ReadMerges(root["model"]) || !FindByteTokens() || !ReadPreTokenizer(root) ||
        !ReadDecoder(root) || !ReadPostProcessor(root) || !ReadConfig(config_root)) {
      return std::nullopt;
    }
    return std::move(file_);
  }

 private:
  bool Fail(std::string message) {
    *error_ = std::move(message);
    return false;
  }

  bool ReadJson(std::string_view text, const std::string& name, Json* root) {
    if (text.size() > limits_.file_bytes_max) {
      return Fail(name + " has " + std::to_string(text.size()) + " bytes, the limit is " +
                  std::to_string(limits_.file_bytes_max));
    }
    *root = Json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!root->is_object()) return Fail(name + " is not a JSON object");
    return true;
  }

  bool Unsupported(const std::string& component, const std::string& what) {
    return Fail("tokenizer.json: " + component + " " + what + " is not supported");
  }

  bool ReadNormalizer(const Json& root) {
    const Json* normalizer = Find(root, "normalizer");
    if (normalizer == nullptr) return true;
    const Json* parts = Find(*normalizer, "normalizers");
    if (TypeOf(*normalizer) == "Sequence" && parts != nullptr && parts->empty()) return true;
    return Unsupported("normalizer", TypeOf(*normalizer));
  }

  bool ReadModel(const Json& root) {
    const Json* model = Find(root, "model");
    if (model == nullptr) return Fail("tokenizer.json has no model");
    const std::string type = StringAt(*model, "type");
    if (!type.empty() && type != "BPE") return Unsupported("model", Quoted(type));
    const Json* dropout = Find(*model, "dropout");
    if (dropout != nullptr && (!dropout->is_number() || dropout->get<double>() != 0)) {
      return Unsupported("model", "dropout");
    }
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      const Json* affix = Find(*model, key);
      if (affix != nullptr && *affix != "") return Unsupported("model", key);
    }
    if (BoolAt(*model, "byte_fallback", false)) return Unsupported("model", "byte_fallback");
    file_.ignore_merges = BoolAt(*model, "ignore_merges", false);

    const Json* vocab = Find(*model, "vocab");
    if (vocab == nullptr || !vocab->is_object()) return Fail("tokenizer.json: model has no vocab");
    for (const auto& [token, id] : vocab->items()) {
      if (!AddToken(token, id)) return false;
    }
    return true;
  }

  // Notes that token has id; whether the ids have gaps is seen when all are known.
  bool AddToken(const std::string& token, const Json& id) {
    if (!id.is_number_integer() || id < 0 || id >= limits_.tokens_max) {
      return Fail("tokenizer.json: token " + Quoted(token) + " has the id " +
                  id.dump(-1, ' ', false, Json::error_handler_t::replace) +
                  ", not a number below " + std::to_string(limits_.tokens_max));
    }
    const auto number = id.get<TokenId>();
    const auto [other, added] = token_of_.try_emplace(number, token);
    if (!added) {
      return Fail("tokenizer.json: the tokens " + Quoted(other->second) + " and " + Quoted(token) +
                  " both have the id " + std::to_string(number));
    }
    id_of_.emplace(token, number);
    return true;
  }

  bool ReadAddedTokens(const Json& root) {
    const Json* list = Find(root, "added_tokens");
    if (list == nullptr) return true;
    if (!list->is_array()) return Fail("tokenizer.json: added_tokens is not a list");
    if (list->size() > limits_.added_tokens_max) {
      return Fail("tokenizer.json has " + std::to_string(list->size()) +
                  " added tokens, the limit is " + std::to_string(limits_.added_tokens_max));
    }
    std::unordered_set<std::string> seen;
    for (const Json& entry : *list) {
      AddedToken token;
      token.content = StringAt(entry, "content");
      if (token.content.empty()) return Fail("tokenizer.json: an added token has no content");
      const std::string name = "tokenizer.json: the added token " + Quoted(token.content);
      if (token.content.size() > limits_.added_token_bytes_max) {
        return Fail(name + " has " + std::to_string(token.content.size()) +
                    " bytes, the limit is " + std::to_string(limits_.added_token_bytes_max));
      }
      if (!seen.insert(token.content).second) return Fail(name + " appears twice");
      const Json* id = Find(entry, "id");
      if (id == nullptr) return Fail(name + " has no id");
      const auto known = id_of_.find(token.content);
      if (known == id_of_.end() ? !AddToken(token.content, *id) : *id != known->second) {
        return known == id_of_.end() ? false
                                     : Fail(name + " has another id than in the vocabulary, " +
                                            std::to_string(known->second));
      }
      if (BoolAt(entry, "single_word", false)) return Fail(name + ": single_word is not supported");
      token.id = id->get<TokenId>();
      token.special = BoolAt(entry, "special", false);
      token.left_strip = BoolAt(entry, "lstrip", false);
      token.right_strip = BoolAt(entry, "rstrip", false);
      token.normalized = BoolAt(entry, "normalized", !token.special);
      file_.added_tokens.push_back(std::move(token));
    }
    return true;
  }

  bool FillIds() {
    file_.token_bytes.resize(token_of_.size());
    for (size_t id = 0; id < token_of_.size(); ++id) {
      const auto token = token_of_.find(static_cast<TokenId>(id));
      if (token == token_of_.end()) {
        return Fail("tokenizer.json: " + std::to_string(token_of_.size()) +
                    " tokens, but none has the id " + std::to_string(id));
      }
      file_.token_bytes[id] = BytesOf(token->second);
    }
    return true;
  }

  bool ReadMerges(const Json& model) {
    const Json* merges = Find(model, "merges");
    if (merges == nullptr || !merges->is_array()) {
      return Fail("tokenizer.json: model has no merges");
    }
    if (merges->size() > limits_.merges_max) {
      return Fail("tokenizer.json has " + std::to_string(merges->size()) +
                  " merges, the limit is " + std::to_string(limits_.merges_max));
    }
    std::unordered_set<uint64_t> seen;
    for (const Json& entry : *merges) {
      const std::string name = "tokenizer.json: merge " + std::to_string(file_.merges.size());
      std::string left, right;
      if (!ReadPair(entry, &left, &right)) return Fail(name + " is not two tokens");
      const std::string merged = left + right;
      for (const std::string& token : {left, right, merged}) {
        if (!id_of_.contains(token)) {
          return Fail(name + " names " + Quoted(token) + ", which is not in the vocabulary");
        }
      }
      const Bpe::Merge merge = {id_of_[left], id_of_[right], id_of_[merged]};
      if (!seen.insert(uint64_t{static_cast<uint32_t>(merge.left)} << 32 |
                       static_cast<uint32_t>(merge.right))
               .second) {
        return Fail(name + ", " + Quoted(left) + " and " + Quoted(right) + ", appears twice");
      }
      file_.merges.push_back(merge);
    }
    return true;
  }

  // "left right" as older files have it, or ["left", "right"].
  static bool ReadPair(const Json& entry, std::string* left, std::string* right) {
    if (entry.is_array()) {
      if (entry.size() != 2 || !entry[0].is_string() || !entry[1].is_string()) return false;
      *left = entry[0].get<std::string>();
      *right = entry[1].get<std::string>();
      return true;
    }
    if (!entry.is_string()) return false;
    const auto& both = entry.get_ref<const std::string&>();
    const size_t space = both.find(' ');
    if (space == std::string::npos || both.find(' ', space + 1) != std::string::npos) return false;
    *left = both.substr(0, space);
    *right = both.substr(space + 1);
    return true;
  }

  bool FindByteTokens() {
    file_.byte_tokens.fill(kNoByte);
    std::unordered_set<TokenId> added;
    for (const AddedToken& token : file_.added_tokens) added.insert(token.id);
    for (size_t id = 0; id < file_.token_bytes.size(); ++id) {
      const std::string& bytes = file_.token_bytes[id];
      if (bytes.size() != 1) continue;
      TokenId& token = file_.byte_tokens[static_cast<uint8_t>(bytes[0])];
      // " " as an added token is not the vocabulary's byte 0x20, "Ġ".
      if (token == kNoByte || added.contains(token)) token = static_cast<TokenId>(id);
    }
    for (size_t byte = 0; byte < 256; ++byte) {
      if (file_.byte_tokens[byte] == kNoByte) {
        return Fail("tokenizer.json: the vocabulary has no token for the byte " +
                    std::to_string(byte));
      }
    }
    return true;
  }

  bool ReadPreTokenizer(const Json& root) {
    const Json* pre_tokenizer = Find(root, "pre_tokenizer");
    if (pre_tokenizer == nullptr) return Unsupported("pre_tokenizer", "null");
    const Json* list = Find(*pre_tokenizer, "pretokenizers");
    if (TypeOf(*pre_tokenizer) != "Sequence") return ReadByteLevel(*pre_tokenizer);
    if (list == nullptr || !list->is_array() || list->empty() ||
        list->size() > limits_.pre_tokenizers_max) {
      return Fail("tokenizer.json: pre_tokenizer Sequence has not 1 to " +
                  std::to_string(limits_.pre_tokenizers_max) + " parts");
    }
    for (size_t i = 0; i + 1 < list->size(); ++i) {
      if (!ReadSplitter((*list)[i])) return false;
    }
    return ReadByteLevel(list->back());
  }

  bool ReadByteLevel(const Json& component) {
    if (TypeOf(component) != "ByteLevel") {
      return Unsupported("pre_tokenizer", TypeOf(component) + " in place of a last ByteLevel");
    }
    if (BoolAt(component, "add_prefix_space", true)) {
      file_.pre_tokenizer.push_back({Stage::Kind::kPrefixSpace, ""});
    }
    if (BoolAt(component, "use_regex", true)) {
      file_.pre_tokenizer.push_back({Stage::Kind::kGpt2, ""});
    }
    return true;
  }

  bool ReadSplitter(const Json& component) {
    const std::string type = TypeOf(component);
    if (type == "Digits") {
      file_.pre_tokenizer.push_back({BoolAt(component, "individual_digits", false)
                                         ? Stage::Kind::kEachDigit
                                         : Stage::Kind::kDigits,
                                     ""});
      return true;
    }
    if (type != "Split") return Unsupported("pre_tokenizer", type + " in a Sequence");
    if (StringAt(component, "behavior") != "Isolated") {
      return Unsupported("pre_tokenizer Split",
                         "behavior " + Quoted(StringAt(component, "behavior")));
    }
    const Json* pattern = Find(component, "pattern");
    const Json* regex = pattern == nullptr ? nullptr : Find(*pattern, "Regex");
    const Json* literal = pattern == nullptr ? nullptr : Find(*pattern, "String");
    const Json* text = regex != nullptr ? regex : literal;
    if (text == nullptr || !text->is_string()) {
      return Fail("tokenizer.json: pre_tokenizer Split has no pattern");
    }
    file_.pre_tokenizer.push_back({regex != nullptr ? Stage::Kind::kPattern : Stage::Kind::kLiteral,
                                   text->get<std::string>()});
    return true;
  }

  bool ReadDecoder(const Json& root) {
    const Json* decoder = Find(root, "decoder");
    if (decoder == nullptr) return Unsupported("decoder", "null");
    const Json* parts = Find(*decoder, "decoders");
    const Json& only = TypeOf(*decoder) == "Sequence" && parts != nullptr && parts->is_array() &&
                               parts->size() == 1
                           ? parts->front()
                           : *decoder;
    return TypeOf(only) == "ByteLevel" || Unsupported("decoder", TypeOf(only));
  }

  bool ReadPostProcessor(const Json& root) {
    const Json* processor = Find(root, "post_processor");
    if (processor == nullptr) return true;
    if (TypeOf(*processor) != "Sequence") return ReadProcessor(*processor);
    const Json* parts = Find(*processor, "processors");
    if (parts == nullptr || !parts->is_array()) {
      return Fail("tokenizer.json: post_processor Sequence has no processors");
    }
    return std::all_of(parts->begin(), parts->end(),
                       [this](const Json& part) { return ReadProcessor(part); });
  }

  bool ReadProcessor(const Json& processor) {
    const std::string type = TypeOf(processor);
    if (type == "ByteLevel") return true;  // it only trims offsets
    if (type != "TemplateProcessing") return Unsupported("post_processor", type);
    if (has_template_) return Unsupported("post_processor", "with two templates");
    has_template_ = true;
    const Json* single = Find(processor, "single");
    if (single == nullptr || !single->is_array()) {
      return Fail("tokenizer.json: post_processor TemplateProcessing has no single");
    }
    int sequences = 0;
    for (const Json& piece : *single) {
      if (Find(piece, "Sequence") != nullptr) {
        ++sequences;
      } else if (!ReadTemplateToken(processor, piece,
                                    sequences == 0 ? &file_.prefix : &file_.suffix)) {
        return false;
      }
    }
    return sequences == 1 || Unsupported("post_processor template",
                                         "with " + std::to_string(sequences) + " sequences");
  }

  bool ReadTemplateToken(const Json& processor, const Json& piece, std::vector<TokenId>* ids) {
    const Json* special = Find(piece, "SpecialToken");
    const std::string name = special == nullptr ? "" : StringAt(*special, "id");
    const Json* table = Find(processor, "special_tokens");
    const Json* entry = table == nullptr ? nullptr : Find(*table, name.c_str());
    const Json* list = entry == nullptr ? nullptr : Find(*entry, "ids");
    if (list == nullptr || !list->is_array()) {
      return Fail("tokenizer.json: the post_processor's template names " + Quoted(name) +
                  ", which its special_tokens do not list");
    }
    for (const Json& id : *list) {
      if (!id.is_number_integer() || id < 0 || id >= file_.token_bytes.size()) {
        return Fail("tokenizer.json: the post_processor's token " + Quoted(name) +
                    " has an id that no token has");
      }
      ids->push_back(id.get<TokenId>());
    }
    return true;
  }

  bool ReadConfig(const Json& config) {
    if (!ReadNamedToken(config, "bos_token", &file_.bos) ||
        !ReadNamedToken(config, "eos_token", &file_.eos)) {
      return false;
    }
    if (has_template_) return true;
    if (file_.bos && BoolAt(config, "add_bos_token", false)) file_.prefix = {*file_.bos};
    if (file_.eos && BoolAt(config, "add_eos_token", false)) file_.suffix = {*file_.eos};
    return true;
  }

  // "</s>" or {"content": "</s>", ...}
  bool ReadNamedToken(const Json& config, const char* key, std::optional<TokenId>* id) {
    const Json* value = Find(config, key);
    if (value == nullptr) return true;
    const std::string content =
        value->is_string() ? value->get<std::string>() : StringAt(*value, "content");
    const auto found = id_of_.find(content);
    if (found == id_of_.end()) {
      return Fail("tokenizer_config.json: the " + std::string(key) + " " + Quoted(content) +
                  " is not in the vocabulary");
    }
    *id = found->second;
    return true;
  }

  const TokenizerLimits& limits_;
  std::string* error_;
  TokenizerFile file_;
  bool has_template_ = false;
  std::unordered_map<std::string, TokenId> id_of_;
  std::unordered_map<TokenId, std::string> token_of_;
};

}  // namespace

std::optional<TokenizerFile> ParseTokenizerFile(std::string_view tokenizer, std::string_view config,
                                                const TokenizerLimits& limits, std::string* error) {
  return Parser(limits, error).Parse(tokenizer, config);
}

}  // namespace conclave::router

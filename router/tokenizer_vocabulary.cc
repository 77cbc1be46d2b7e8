#include "router/tokenizer_vocabulary.h"

#include <array>
#include <nlohmann/json.hpp>
#include <unordered_set>
#include <utility>

#include "router/byte_alphabet.h"
#include "router/utf8.h"

namespace conclave::router {
namespace {

using Json = nlohmann::json;
using scheduler::TokenId;

class Reader {
 public:
  Reader(const JsonNode& root, bool byte_level, const VocabularyLimits& limits)
      : root_(root), model_(root["model"]), byte_level_(byte_level), limits_(limits) {}

  Vocabulary Read() {
    if (!model_.is_object()) {
      root_.Fail("has no model");
      return {};
    }
    CheckModel();
    ReadTokens();
    if (root_.ok()) ReadSymbols();
    ReadMerges();
    if (root_.ok() && model_.Bool("ignore_merges", false)) FindWholeWords();
    ReadAddedTokens();
    LeaveOutAddedWords();
    FillTokens();
    return std::move(vocabulary_);
  }

 private:
  void CheckModel() {
    const std::string type = model_.String("type", "BPE");
    if (type != "BPE") model_["type"].Unsupported(Quoted(type));
    const JsonNode dropout = model_["dropout"];
    if (dropout.exists() && (!dropout.value()->is_number() || dropout.value()->get<double>() != 0))
      dropout.Unsupported("other than 0");
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      const std::string affix = model_.String(key, "");
      if (!affix.empty()) model_[key].Unsupported(Quoted(affix));
    }
  }

  void ReadTokens() {
    const JsonNode vocab = model_["vocab"];
    if (!vocab.is_object()) {
      vocab.Fail("is not an object of tokens");
      return;
    }
    if (vocab.value()->size() > limits_.tokens_max) {
      vocab.Fail("has " + std::to_string(vocab.value()->size()) + " tokens, the limit is " +
                 std::to_string(limits_.tokens_max));
      return;
    }
    for (const auto& [token, id] : vocab.value()->items()) {
      if (!AddToken(token, id)) return;
    }
  }

  // Notes that token has id; whether the ids have gaps is seen when all are known.
  bool AddToken(const std::string& token, const Json& id) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= limits_.tokens_max) {
      return root_.Fail("token " + Quoted(token) + " has the id " +
                        id.dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 64) +
                        ", not a number below " + std::to_string(limits_.tokens_max));
    }
    const auto number = id.get<TokenId>();
    const auto [other, added] = token_of_.try_emplace(number, token);
    if (!added) {
      return root_.Fail("the tokens " + Quoted(other->second) + " and " + Quoted(token) +
                        " both have the id " + std::to_string(number));
    }
    vocabulary_.ids.emplace(token, number);
    return true;
  }

  void ReadSymbols() {
    if (byte_level_) {
      ReadByteSymbols();
    } else {
      ReadCharacterSymbols();
    }
  }

  void ReadByteSymbols() {
    Symbols::ByteTokens bytes;
    bytes.fill(Symbols::kNone);
    for (const auto& [token, id] : vocabulary_.ids) {
      const auto single = FromByteAlphabet(token);
      if (single && single->size() == 1) bytes[static_cast<uint8_t>((*single)[0])] = id;
    }
    for (size_t byte = 0; byte < bytes.size(); ++byte) {
      if (bytes[byte] == Symbols::kNone) {
        root_.Fail("the vocabulary has no token for the byte " + std::to_string(byte));
        return;
      }
    }
    vocabulary_.symbols.emplace(bytes);
  }

  void ReadCharacterSymbols() {
    Symbols::Characters characters;
    Symbols::ByteTokens bytes;
    bytes.fill(Symbols::kNone);
    for (const auto& [token, id] : vocabulary_.ids) {
      if (token.empty()) continue;
      const Utf8Char first = FirstChar(token);
      if (first.bytes == token.size()) characters.tokens.emplace(first.code_point, id);
      if (const auto byte = FromByteFallback(token)) bytes[static_cast<uint8_t>(*byte)] = id;
    }
    if (model_.Bool("byte_fallback", false)) characters.byte_fallback = bytes;
    characters.fuse_unknown = model_.Bool("fuse_unk", false);
    if (const JsonNode unknown = model_["unk_token"]; unknown.exists()) {
      const auto found = vocabulary_.ids.find(unknown.AsString());
      if (found == vocabulary_.ids.end()) {
        unknown.Fail(Quoted(unknown.AsString()) + " is not in the vocabulary");
        return;
      }
      characters.unknown = found->second;
    }
    vocabulary_.symbols.emplace(std::move(characters));
  }

  void ReadMerges() {
    const JsonNode merges = model_["merges"];
    const size_t count = model_.ListSize("merges", limits_.merges_max);
    std::unordered_set<uint64_t> seen;
    for (size_t i = 0; i < count && root_.ok(); ++i) {
      const std::string problem = AddMerge((*merges.value())[i], &seen);
      if (!problem.empty()) merges[i].Fail(problem);
    }
  }

  // What is wrong with it; empty if nothing.
  std::string AddMerge(const Json& entry, std::unordered_set<uint64_t>* seen) {
    std::string left, right;
    if (!ReadPair(entry, &left, &right)) return "is not two tokens";
    const std::string merged = left + right;
    std::array<TokenId, 3> ids;
    for (size_t i = 0; i < ids.size(); ++i) {
      const std::string& token = i == 0 ? left : i == 1 ? right : merged;
      const auto found = vocabulary_.ids.find(token);
      if (found == vocabulary_.ids.end()) {
        return "names " + Quoted(token) + ", which is not in the vocabulary";
      }
      ids[i] = found->second;
    }
    const uint64_t pair =
        uint64_t{static_cast<uint32_t>(ids[0])} << 32 | static_cast<uint32_t>(ids[1]);
    if (!seen->insert(pair).second) {
      return "of " + Quoted(left) + " and " + Quoted(right) + " appears twice";
    }
    vocabulary_.merges.push_back({ids[0], ids[1], ids[2]});
    return {};
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

  void FindWholeWords() {
    for (const auto& [token, id] : vocabulary_.ids) {
      if (!byte_level_) {
        vocabulary_.whole_words.emplace(token, id);
      } else if (const auto bytes = FromByteAlphabet(token)) {
        vocabulary_.whole_words.emplace(*bytes, id);
      }
    }
  }

  void ReadAddedTokens() {
    if (!root_["added_tokens"].exists()) return;
    std::unordered_set<std::string> seen;
    for (const JsonNode& entry : root_.List("added_tokens", limits_.added_tokens_max)) {
      const AddedToken token = ReadAddedToken(entry);
      if (!root_.ok()) return;
      if (!seen.insert(token.content).second) {
        root_.Fail("the added token " + Quoted(token.content) + " appears twice");
        return;
      }
      vocabulary_.added_tokens.push_back(token);
    }
  }

  // A word never becomes an added token: those are found, or left as text, before there are words.
  void LeaveOutAddedWords() {
    std::unordered_set<TokenId> added;
    for (const AddedToken& token : vocabulary_.added_tokens) added.insert(token.id);
    std::erase_if(vocabulary_.whole_words,
                  [&added](const auto& word) { return added.contains(word.second); });
  }

  AddedToken ReadAddedToken(const JsonNode& entry) {
    AddedToken token;
    token.content = entry.String("content");
    if (token.content.empty()) {
      entry["content"].Fail("is empty");
      return token;
    }
    const std::string name = "the added token " + Quoted(token.content);
    if (token.content.size() > limits_.added_token_bytes_max) {
      root_.Fail(name + " has " + std::to_string(token.content.size()) + " bytes, the limit is " +
                 std::to_string(limits_.added_token_bytes_max));
      return token;
    }
    const JsonNode id = entry["id"];
    const auto known = vocabulary_.ids.find(token.content);
    if (!id.exists()) {
      root_.Fail(name + " has no id");
    } else if (known == vocabulary_.ids.end()) {
      if (AddToken(token.content, *id.value())) token.id = id.value()->get<TokenId>();
    } else if (*id.value() != known->second) {
      root_.Fail(name + " has another id than in the vocabulary, " + std::to_string(known->second));
    } else {
      token.id = known->second;
    }
    token.special = entry.Bool("special", false);
    token.left_strip = entry.Bool("lstrip", false);
    token.right_strip = entry.Bool("rstrip", false);
    token.single_word = entry.Bool("single_word", false);
    token.normalized = entry.Bool("normalized", !token.special);
    return token;
  }

  void FillTokens() {
    if (!root_.ok()) return;
    for (size_t id = 0; id < token_of_.size(); ++id) {
      const auto token = token_of_.find(static_cast<TokenId>(id));
      if (token == token_of_.end()) {
        root_.Fail("has " + std::to_string(token_of_.size()) + " tokens, but none has the id " +
                   std::to_string(id));
        return;
      }
      vocabulary_.tokens.push_back(token->second);
    }
  }

  const JsonNode& root_;
  const JsonNode model_;
  const bool byte_level_;
  const VocabularyLimits& limits_;
  Vocabulary vocabulary_;
  std::unordered_map<TokenId, std::string> token_of_;
};

}  // namespace

Vocabulary ReadVocabulary(const JsonNode& root, bool byte_level, const VocabularyLimits& limits) {
  return Reader(root, byte_level, limits).Read();
}

}  // namespace conclave::router

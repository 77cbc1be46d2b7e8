#include "router/chat/chat_templates.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "router/chat/characters.h"
#include "router/chat/json.h"
#include "router/json_node.h"
#include "router/small_file.h"
#include "router/utf8.h"

namespace conclave::router::chat {
namespace {

using Json = nlohmann::json;
using Sources = ChatTemplates::Sources;
namespace fs = std::filesystem;

// People edit these by hand: a key that is there twice is no reason to refuse.
constexpr JsonLimits kConfigLimits{
    .bytes_max = size_t{40} << 20, .depth_max = 32, .keys_twice = true};
constexpr std::array kSpecialTokens = {"bos_token", "eos_token", "unk_token", "sep_token",
                                       "pad_token", "cls_token", "mask_token"};

// chat_template.jinja and additional_chat_templates/NAME.jinja
void ReadTemplateFiles(const fs::path& folder, const ChatLimits& limits, Sources* sources) {
  std::string* const problem = &sources->problem;
  if (auto text = ReadSmallFile(folder / "chat_template.jinja", limits.template_bytes, problem)) {
    sources->templates["default"] = *std::move(text);
  }
  std::error_code failure;
  fs::directory_iterator entry(folder / "additional_chat_templates", failure);
  for (; !failure && entry != fs::directory_iterator(); entry.increment(failure)) {
    const fs::path& path = entry->path();
    if (path.extension() != ".jinja") continue;
    if (!problem->empty() || sources->templates.size() > limits.templates) return;
    const std::string name = path.stem().string();
    if (!IsUtf8(name)) {
      *problem = "additional_chat_templates: " + Quoted(name) + " is not a name in UTF-8";
    } else if (auto text = ReadSmallFile(path, limits.template_bytes, problem)) {
      sources->templates[name] = *std::move(text);
    }
  }
}

// "chat_template": one, or a list of {"name", "template"}.
void TakeTemplates(const std::string& file, const Json& document, Sources* sources) {
  const auto member = document.find("chat_template");
  if (member == document.end() || member->is_null()) return;
  if (member->is_string()) {
    sources->templates["default"] = member->get<std::string>();
    return;
  }
  if (!member->is_array()) {
    sources->problem = file + ": chat_template is neither a string nor a list";
    return;
  }
  for (const Json& named : *member) {
    const bool good = named.is_object() && named.contains("name") && named["name"].is_string() &&
                      named.contains("template") && named["template"].is_string();
    if (!good) {
      sources->problem = file + ": chat_template has an entry without a name and a template";
      return;
    }
    sources->templates[named["name"].get<std::string>()] = named["template"].get<std::string>();
  }
}

// Of the tokenizer's config, whose errors the tokenizer has told; an empty object if there is one.
Json ParseConfig(const std::string& text) {
  std::string ignored;
  return ParseJsonObject(text, "tokenizer_config.json", kConfigLimits, &ignored)
      .value_or(Json::object());
}

// "<s>", or {"content": "<s>", ...}
std::optional<std::string> ContentOf(const Json& token) {
  if (token.is_string()) return token.get<std::string>();
  if (!token.is_object() || !token.contains("content") || !token["content"].is_string()) {
    return std::nullopt;
  }
  return token["content"].get<std::string>();
}

Value Ours(const std::string& text) { return String{std::make_shared<const Text>(text)}; }

Variables SpecialTokens(const std::string& tokenizer_config) {
  Variables tokens;
  const Json config = ParseConfig(tokenizer_config);
  for (const char* const name : kSpecialTokens) {
    const auto token = config.contains(name) ? ContentOf(config[name]) : std::nullopt;
    if (token) tokens.emplace_back(name, Ours(*token));
  }
  if (!config.contains("extra_special_tokens")) return tokens;
  for (const auto& [name, value] : config["extra_special_tokens"].items()) {
    const auto token = ContentOf(value);
    if (config["extra_special_tokens"].is_object() && token)
      tokens.emplace_back(name, Ours(*token));
  }
  return tokens;
}

bool IsBlank(const std::string& text) {
  for (size_t at = 0; at < text.size();) {
    const Character c = CharacterAt(text, at);
    if (!IsSpace(c.code_point)) return false;
    at += c.bytes;
  }
  return true;
}

}  // namespace

Sources ChatTemplates::Read(const std::string& directory, const ChatLimits& limits) {
  Sources sources;
  const fs::path folder(directory);
  std::string ignored;  // the tokenizer has told
  sources.tokenizer_config =
      ReadSmallFile(folder / "tokenizer_config.json", kConfigLimits.bytes_max, &ignored)
          .value_or("");
  ReadTemplateFiles(folder, limits, &sources);
  if (sources.templates.empty() && sources.problem.empty()) {
    TakeTemplates("tokenizer_config.json", ParseConfig(sources.tokenizer_config), &sources);
  }
  if (sources.templates.empty() && sources.problem.empty()) {
    const std::string name = "chat_template.json";
    const auto text = ReadSmallFile(folder / name, kConfigLimits.bytes_max, &sources.problem);
    const auto document =
        text ? ParseJsonObject(*text, name, kConfigLimits, &sources.problem) : std::nullopt;
    if (document) TakeTemplates(name, *document, &sources);
  }
  return sources;
}

ChatTemplates::ChatTemplates(const Sources& sources, const Tokenizer& tokenizer,
                             const ChatLimits& limits)
    : limits_(limits),
      special_tokens_(SpecialTokens(sources.tokenizer_config)),
      problem_(sources.problem) {
  if (sources.templates.size() > limits.templates) {
    problem_ = "the model has " + std::to_string(sources.templates.size()) +
               " chat templates, the limit is " + std::to_string(limits.templates);
  }
  if (!problem_.empty()) return;
  for (const auto& [name, source] : sources.templates) {
    Entry& entry = entries_[name];
    entry.chat_template = ChatTemplate::Load(source, limits, &entry.problem);
    if (!entry.chat_template) continue;
    for (const auto& [content, id] : tokenizer.added_tokens()) {
      const bool written = entry.chat_template->literals().find(content) != std::string::npos;
      if (written && !IsBlank(content)) entry.control.push_back(id);
    }
    std::sort(entry.control.begin(), entry.control.end());
  }
}

const ChatTemplates::Entry* ChatTemplates::Find(const std::string& template_name,
                                                bool tools) const {
  auto entry = entries_.find(template_name);
  if (template_name.empty()) {
    if (tools) entry = entries_.find("tool_use");
    if (entry == entries_.end()) entry = entries_.find("default");
  }
  return entry == entries_.end() ? nullptr : &entry->second;
}

std::optional<std::string> ChatTemplates::Problem(const std::string& template_name,
                                                  bool tools) const {
  if (!problem_.empty()) return problem_;
  if (entries_.empty()) return "the model has no chat template; use Generate";
  const Entry* const entry = Find(template_name, tools);
  if (entry != nullptr) {
    return entry->chat_template ? std::nullopt : std::optional<std::string>(entry->problem);
  }
  std::string names;
  for (const auto& [name, ignored] : entries_) names += (names.empty() ? "" : ", ") + name;
  if (template_name.empty()) {
    return "the model has no default chat template; set template_name to one of " + names;
  }
  return "the model has no chat template '" + template_name + "'; it has " + names;
}

std::optional<ChatTemplates::Prompt> ChatTemplates::Render(const Conversation& conversation,
                                                           const ChatLimits& limits,
                                                           const std::tm& now,
                                                           std::string* error) const {
  const Entry* const entry = Find(conversation.template_name, !conversation.tools.empty());
  if (entry == nullptr || !entry->chat_template) {
    *error = "the model has no such chat template";
    return std::nullopt;
  }
  const std::optional<Text> text =
      RenderChat(*entry->chat_template, special_tokens_, conversation, limits, now, error);
  if (!text) return std::nullopt;
  return Prompt{text->bytes(), text->outside(), &entry->control};
}

}  // namespace conclave::router::chat

#pragma once
// The chat templates that a model brings, by name, each ready or with the reason why it is not: a
// template that is not supported is no reason not to serve the model. Immutable once loaded; any
// thread.

#include <ctime>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "router/chat/chat_prompt.h"
#include "router/chat/chat_template.h"
#include "router/chat/conversation.h"
#include "router/tokenizer.h"

namespace conclave::router::chat {

class ChatTemplates {
 public:
  struct Sources {
    std::map<std::string, std::string> templates;  // by name; "default" is the default
    std::string tokenizer_config;                  // contents of tokenizer_config.json, or empty
    std::string problem;  // why the templates could not be read; empty: they could
  };
  // What a checkpoint directory says: chat_template.jinja and additional_chat_templates/*.jinja,
  // else tokenizer_config.json, else chat_template.json. Never an error: see Sources::problem.
  static Sources Read(const std::string& directory, const ChatLimits& limits);

  // tokenizer: whose added tokens the templates may write. It is not kept.
  ChatTemplates(const Sources& sources, const Tokenizer& tokenizer, const ChatLimits& limits);

  // Why there can be no chat (with this template, and with tools or not); nullopt: there can.
  std::optional<std::string> Problem(const std::string& template_name, bool tools) const;

  // A prompt, and of what it consists.
  struct Prompt {
    std::string text;
    std::vector<ByteRange> outside;       // what the client wrote
    const std::vector<TokenId>* control;  // added tokens that the template writes
  };
  // nullopt and *error as RenderChat; there is no Problem with the template.
  std::optional<Prompt> Render(const Conversation& conversation, const ChatLimits& limits,
                               const std::tm& now, std::string* error) const;

  const ChatLimits& limits() const { return limits_; }

 private:
  struct Entry {
    std::optional<ChatTemplate> chat_template;
    std::string problem;
    std::vector<TokenId> control;  // sorted
  };

  // Null: there is none.
  const Entry* Find(const std::string& template_name, bool tools) const;

  const ChatLimits limits_;
  std::map<std::string, Entry> entries_;
  Variables special_tokens_;
  std::string problem_;
};

}  // namespace conclave::router::chat

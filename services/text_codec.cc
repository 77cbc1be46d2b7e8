#include "services/text_codec.h"

#include <ctime>
#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "router/chat/chat_templates.h"

namespace conclave::services {

TextCodec::TextCodec(const Options& options, std::shared_ptr<const router::Tokenizer> tokenizer,
                     Templates templates)
    : options_(options),
      tokenizer_(std::move(tokenizer)),
      templates_(std::move(templates)),
      pool_(std::make_unique<WorkPool>(options.threads, static_cast<size_t>(options.queue))) {}

void TextCodec::Finish() { pool_.reset(); }

bool TextCodec::Encode(router::Prompt prompt, const Done& done) {
  if (const std::optional<Tokens> tokens = EncodeNow(prompt)) {
    done(*tokens);
    return true;
  }
  return pool_->Post([this, prompt = std::move(prompt), done] { done(EncodeAll(prompt)); });
}

std::optional<TextCodec::Tokens> TextCodec::EncodeNow(const router::Prompt& prompt) const {
  if (!IsShort(prompt)) return std::nullopt;
  if (prompt.kind != router::Prompt::Kind::kChat || templates_ == nullptr) return EncodeAll(prompt);
  // However short a chat is, how much its template makes of it shows when it is rendered. What
  // fails here, whatever the reason, is told by the pool, which may use up all of the limits.
  Tokens tokens = EncodeChat(prompt, router::chat::BriefLimits(templates_->limits()));
  if (!tokens.ok()) return std::nullopt;
  return tokens;
}

TextCodec::Tokens TextCodec::EncodeAll(const router::Prompt& prompt) const {
  if (prompt.kind == router::Prompt::Kind::kTokens) {
    return std::vector<scheduler::TokenId>(prompt.tokens.begin(), prompt.tokens.end());
  }
  if (tokenizer_ == nullptr)
    return std::vector<scheduler::TokenId>();  // only an empty text came so far
  if (prompt.kind == router::Prompt::Kind::kChat) return EncodeChat(prompt, templates_->limits());
  std::string error;
  auto tokens = tokenizer_->Encode(
      prompt.text, {.parse_special = prompt.parse_special, .add_special = prompt.add_special},
      &error);
  if (!tokens) return absl::InvalidArgumentError(absl::StrFormat("prompt.text: %s", error));
  return *std::move(tokens);
}

TextCodec::Tokens TextCodec::EncodeChat(const router::Prompt& prompt,
                                        const router::chat::ChatLimits& limits) const {
  std::string error;
  const std::time_t now = std::time(nullptr);
  std::tm local = {};
  localtime_r(&now, &local);
  const auto chat = templates_->Render(*prompt.chat, limits, local, &error);
  if (!chat) return absl::InvalidArgumentError(error);
  router::EncodeOptions options{.parse_special = true};
  if (!prompt.parse_special) {
    options.outside = chat->outside;
    options.control = *chat->control;
  }
  auto tokens = tokenizer_->Encode(chat->text, options, &error);
  if (!tokens) return absl::InvalidArgumentError(absl::StrFormat("messages: %s", error));
  return *std::move(tokens);
}

bool TextCodec::IsShort(const router::Prompt& prompt) const {
  const bool chat = prompt.kind == router::Prompt::Kind::kChat;
  const int64_t bytes =
      chat ? router::chat::BytesOf(*prompt.chat) : static_cast<int64_t>(prompt.text.size());
  return bytes <= options_.inline_bytes;
}

absl::Status TextCodec::JudgeChat(const router::chat::Conversation& conversation) const {
  if (templates_ == nullptr)
    return absl::FailedPreconditionError("this router has no chat template");
  const auto problem = templates_->Problem(conversation.template_name, !conversation.tools.empty());
  return problem ? absl::FailedPreconditionError(*problem) : absl::OkStatus();
}

}  // namespace conclave::services

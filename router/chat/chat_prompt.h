#pragma once
// From a conversation to the text a model is prompted with: what transformers'
// apply_chat_template(tokenize=False) makes of it. Pure; any thread.

#include <ctime>
#include <optional>
#include <string>

#include "router/chat/chat_template.h"
#include "router/chat/conversation.h"

namespace conclave::router::chat {

// special_tokens: bos_token and its like, as the tokenizer has them. nullopt and *error: a field is
// no JSON, the template refuses the conversation or cannot render it, a limit is met.
std::optional<Text> RenderChat(const ChatTemplate& chat_template, const Variables& special_tokens,
                               const Conversation& conversation, const ChatLimits& limits,
                               const std::tm& now, std::string* error);

}  // namespace conclave::router::chat

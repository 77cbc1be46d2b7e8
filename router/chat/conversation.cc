#include "router/chat/conversation.h"

#include <algorithm>

namespace conclave::router::chat {
namespace {

using Problem = std::optional<std::string>;

bool IsRoleCharacter(char c) {
  return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' ||
         c == '_' || c == '-';
}

Problem CheckCount(const std::string& field, int64_t count, int64_t limit, const char* things) {
  if (count <= limit) return std::nullopt;
  return field + " has " + std::to_string(count) + " " + things + ", the limit is " +
         std::to_string(limit);
}

// A role is the one string of a message that templates make control tokens of ('<|' + role + '|>'),
// so it may only be a plain word.
Problem CheckRole(const std::string& field, const std::string& role, int32_t limit) {
  if (role.empty()) return field + ".role is missing";
  if (Problem problem = CheckCount(field + ".role", std::ssize(role), limit, "bytes"))
    return problem;
  if (std::all_of(role.begin(), role.end(), IsRoleCharacter)) return std::nullopt;
  return field + ".role has a character outside A-Z a-z 0-9 . _ -";
}

Problem CheckMessage(const std::string& field, const Message& message,
                     const ConversationLimits& limits) {
  if (Problem problem = CheckRole(field, message.role, limits.role_bytes)) return problem;
  if (message.content && !message.parts.empty()) {
    return field + " has content and parts; send one of them";
  }
  return CheckPartCounts(field, std::ssize(message.parts), std::ssize(message.tool_calls), limits);
}

int64_t BytesOf(const Message& message) {
  size_t bytes = message.role.size() + message.name.size() + message.tool_call_id.size() +
                 message.fields.size() + message.content.value_or("").size() +
                 message.reasoning.value_or("").size();
  for (const std::string& part : message.parts) bytes += part.size();
  for (const ToolCall& call : message.tool_calls) {
    bytes += call.id.size() + call.name.size() + call.arguments.size();
  }
  return static_cast<int64_t>(bytes);
}

}  // namespace

int64_t BytesOf(const Conversation& conversation) {
  auto bytes = static_cast<int64_t>(conversation.tools.size() + conversation.documents.size() +
                                    conversation.arguments.size());
  for (const Message& message : conversation.messages) bytes += BytesOf(message);
  return bytes;
}

Problem CheckMessageCount(int64_t count, const ConversationLimits& limits) {
  if (count == 0) return "messages is empty, it needs at least 1";
  return CheckCount("messages", count, limits.messages, "messages");
}

Problem CheckPartCounts(const std::string& field, int64_t parts, int64_t tool_calls,
                        const ConversationLimits& limits) {
  if (Problem problem = CheckCount(field + ".parts", parts, limits.parts, "parts")) return problem;
  return CheckCount(field + ".tool_calls", tool_calls, limits.tool_calls, "calls");
}

Problem CheckConversation(const Conversation& conversation, int64_t bytes_max,
                          const ConversationLimits& limits) {
  const std::vector<Message>& messages = conversation.messages;
  if (Problem problem = CheckMessageCount(std::ssize(messages), limits)) return problem;
  const int64_t bytes = BytesOf(conversation);
  if (bytes > bytes_max) {
    return "messages, tools, documents and template_arguments have " + std::to_string(bytes) +
           " bytes together, the limit is " + std::to_string(bytes_max);
  }
  if (Problem problem = CheckCount("template_name", std::ssize(conversation.template_name),
                                   limits.name_bytes, "bytes")) {
    return problem;
  }
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string field = "messages[" + std::to_string(i) + "]";
    if (Problem problem = CheckMessage(field, messages[i], limits)) return problem;
  }
  if (conversation.continue_final_message && conversation.add_generation_prompt.value_or(false)) {
    return "add_generation_prompt and continue_final_message exclude each other";
  }
  return std::nullopt;
}

}  // namespace conclave::router::chat

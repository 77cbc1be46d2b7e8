#pragma once
// A chat as a client sent it, before anything about it has been believed, and what it may hold.
// Pure; any thread.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace conclave::router::chat {

struct ToolCall {
  std::string id;
  std::string name;
  std::string arguments;  // JSON
};

struct Message {
  std::string role;
  std::optional<std::string> content;
  std::vector<std::string> parts;  // of text; instead of content
  std::string name;
  std::string tool_call_id;
  std::optional<std::string> reasoning;
  std::vector<ToolCall> tool_calls;
  std::string fields;  // further ones, a JSON object; empty: none
};

struct Conversation {
  std::vector<Message> messages;
  std::string tools;                          // a JSON list; empty: none
  std::string documents;                      // a JSON list; empty: none
  std::string arguments;                      // of the template, a JSON object; empty: none
  std::string template_name;                  // empty: the model's default
  std::optional<bool> add_generation_prompt;  // absent: unless the last message is continued
  bool continue_final_message = false;
};

struct ConversationLimits {
  int32_t messages = 4096;
  int32_t parts = 256;       // of a message
  int32_t tool_calls = 128;  // of a message
  int32_t role_bytes = 64;
  int32_t name_bytes = 256;  // of a template
};

// Of everything that the client wrote.
int64_t BytesOf(const Conversation& conversation);

// What is wrong with so many messages, and with a message `field` of so many parts and calls,
// before anything is made of them.
std::optional<std::string> CheckMessageCount(int64_t count, const ConversationLimits& limits);
std::optional<std::string> CheckPartCounts(const std::string& field, int64_t parts,
                                           int64_t tool_calls, const ConversationLimits& limits);

// What is wrong with it, naming the field and the way out. bytes_max: of all its texts together.
std::optional<std::string> CheckConversation(const Conversation& conversation, int64_t bytes_max,
                                             const ConversationLimits& limits);

}  // namespace conclave::router::chat

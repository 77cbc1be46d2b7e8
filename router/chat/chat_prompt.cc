#include "router/chat/chat_prompt.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>
#include <vector>

#include "router/chat/json.h"
#include "router/chat/strings.h"

namespace conclave::router::chat {
namespace {

// What is put behind a message that is to go on, so that its place in the text is found again.
// Templates trim; then the space at its end is gone.
constexpr std::string_view kMark = "CONTINUE_FINAL_MESSAGE_TAG ";
constexpr std::string_view kTrimmedMark = kMark.substr(0, kMark.size() - 1);

// What a message's reasoning is called; the first is the name of ours.
constexpr std::array<std::string_view, 3> kReasoning = {"reasoning_content", "thinking",
                                                        "reasoning"};

// Turns a conversation into values. After a failure *error is set, or work has failed.
class ConversationValues {
 public:
  ConversationValues(Work& work, std::string* error) : work_(work), error_(error) {}

  Variables Of(const Variables& special_tokens, const Conversation& conversation) {
    Variables variables = special_tokens;
    const auto set = [&](std::string_view name, Value value) {
      if (!work_.Scan(variables.size())) return;
      const auto found = std::find_if(variables.begin(), variables.end(),
                                      [&](const auto& entry) { return entry.first == name; });
      if (found != variables.end()) {
        found->second = std::move(value);
      } else {
        variables.emplace_back(name, std::move(value));
      }
    };
    // The template's arguments stand over special tokens, under what is the chat itself.
    if (const Value arguments = Json("template_arguments", conversation.arguments);
        Need<const Dict>(arguments.dict(), conversation.arguments, "template_arguments",
                         "an object")) {
      CheckCount("template_arguments", arguments.dict()->entries().size());
      for (const auto& [name, value] : arguments.dict()->entries()) {
        set(name.text()->bytes(), value);
      }
    }
    set("messages", Messages(conversation));
    set("tools", List("tools", conversation.tools));
    set("documents", List("documents", conversation.documents));
    set("add_generation_prompt",
        conversation.add_generation_prompt.value_or(!conversation.continue_final_message));
    return variables;
  }

 private:
  void Fail(const std::string& what) {
    if (error_->empty()) *error_ = what;
  }
  void CheckCount(const std::string& field, size_t names) {
    const size_t limit = work_.limits().template_arguments;
    if (names <= limit) return;
    Fail(field + " has " + std::to_string(names) + " members, the limit is " +
         std::to_string(limit));
  }
  Value Outside(std::string_view bytes) { return MakeString(work_, Text::FromOutside(bytes)); }

  Value Json(const std::string& field, const std::string& json) {
    if (json.empty()) return None();
    std::string problem;
    std::optional<Value> value = ParseJson(work_, json, &problem);
    if (value) return *std::move(value);
    Fail(field + ": " + problem);
    return None();
  }

  // Whether `given` JSON was what it has to be; false without an error if none was given.
  template <typename T>
  bool Need(T* value, const std::string& given, const std::string& field, const char* wanted) {
    if (value != nullptr) return true;
    if (!given.empty()) Fail(field + " is not " + wanted);
    return false;
  }

  Value List(const std::string& field, const std::string& json) {
    Value value = Json(field, json);
    Need(value.sequence(), json, field, "a list");
    return value;
  }

  Value Messages(const Conversation& conversation) {
    std::vector<Value> messages;
    for (size_t i = 0; i < conversation.messages.size(); ++i) {
      const bool last = i + 1 == conversation.messages.size();
      messages.push_back(OneMessage("messages[" + std::to_string(i) + "]", conversation.messages[i],
                                    last && conversation.continue_final_message));
      if (work_.failed() || !error_->empty()) break;
    }
    return MakeSequence(work_, std::move(messages));
  }

  void Set(Dict* dict, std::string_view name, Value value) {
    dict->Set(work_, MakeString(work_, name), std::move(value));
  }

  Value OneMessage(const std::string& field, const Message& from, bool continued) {
    Dict message;
    // Ours: it was checked to be a word.
    Set(&message, "role", MakeString(work_, from.role));
    const std::string mark(continued ? kMark : "");
    if (continued && !from.content && from.parts.empty()) {
      Fail("continue_final_message: the last message has no content to continue");
    }
    if (from.content) Set(&message, "content", Outside(*from.content + mark));
    if (!from.parts.empty()) Set(&message, "content", Parts(from.parts, mark));
    if (from.reasoning) Set(&message, std::string(kReasoning[0]), Outside(*from.reasoning));
    if (!from.name.empty()) Set(&message, "name", Outside(from.name));
    if (!from.tool_call_id.empty()) Set(&message, "tool_call_id", Outside(from.tool_call_id));
    if (!from.tool_calls.empty()) Set(&message, "tool_calls", ToolCalls(field, from.tool_calls));
    SetFields(field, from.fields, &message);
    return MakeDict(work_, WithReasoning(std::move(message)));
  }

  Value Parts(const std::vector<std::string>& parts, const std::string& mark) {
    std::vector<Value> values;
    for (size_t i = 0; i < parts.size(); ++i) {
      Dict part;
      Set(&part, "type", MakeString(work_, "text"));
      Set(&part, "text", Outside(i + 1 == parts.size() ? parts[i] + mark : parts[i]));
      values.push_back(MakeDict(work_, std::move(part)));
    }
    return MakeSequence(work_, std::move(values));
  }

  Value ToolCalls(const std::string& field, const std::vector<ToolCall>& calls) {
    std::vector<Value> values;
    for (size_t i = 0; i < calls.size(); ++i) {
      const std::string name = field + ".tool_calls[" + std::to_string(i) + "]";
      Dict function;
      Set(&function, "name", Outside(calls[i].name));
      Set(&function, "arguments",
          calls[i].arguments.empty() ? MakeDict(work_, {})
                                     : Json(name + ".arguments", calls[i].arguments));
      Dict call;
      if (!calls[i].id.empty()) Set(&call, "id", Outside(calls[i].id));
      Set(&call, "type", MakeString(work_, "function"));
      Set(&call, "function", MakeDict(work_, std::move(function)));
      values.push_back(MakeDict(work_, std::move(call)));
    }
    return MakeSequence(work_, std::move(values));
  }

  void SetFields(const std::string& field, const std::string& json, Dict* message) {
    const Value fields = Json(field + ".fields", json);
    if (!Need(fields.dict(), json, field + ".fields", "an object")) return;
    for (const auto& [name, value] : fields.dict()->entries()) {
      if (name.text()->bytes() == "role" || message->Find(work_, name) != nullptr) {
        Fail(field + ".fields says '" + name.text()->bytes() + "', which the message has");
      }
      // None is as good as not there, and templates ask whether it is there.
      if (!value.Is<None>()) message->Set(work_, name, value);
    }
  }

  // Under every name that templates know it by; the order is transformers'.
  Dict WithReasoning(Dict message) {
    const Value* reasoning = nullptr;
    for (const std::string_view name : kReasoning) {
      if (reasoning == nullptr) reasoning = message.Find(name);
    }
    if (reasoning == nullptr) return message;
    Dict all;
    Set(&all, "thinking", *reasoning);
    for (const auto& [name, value] : message.entries()) all.Set(work_, name, value);
    Set(&all, "reasoning_content", *reasoning);
    return all;
  }

  Work& work_;
  std::string* const error_;
};

// The text up to where the last message was marked.
std::optional<Text> CutAtMark(Work& work, const Text& rendered, const Conversation& conversation,
                              std::string* error) {
  const Message& last = conversation.messages.back();
  const Text content(last.parts.empty() ? last.content.value_or("") : last.parts.back());
  const std::optional<size_t> mark = FindLast(work, rendered, Text(kTrimmedMark));
  const bool shown = Contains(work, rendered, Strip(work, content, nullptr, Side::kBoth));
  if (work.failed()) {
    *error = work.error();
    return std::nullopt;
  }
  if (!mark || !shown) {
    *error = "continue_final_message: the chat template does not show the last message as it is";
    return std::nullopt;
  }
  const Text cut = rendered.Part(0, *mark);
  const bool whole = std::string_view(rendered.bytes()).substr(*mark).starts_with(kMark);
  return whole ? cut : Strip(work, cut, nullptr, Side::kRight);
}

}  // namespace

std::optional<Text> RenderChat(const ChatTemplate& chat_template, const Variables& special_tokens,
                               const Conversation& conversation, const ChatLimits& limits,
                               const std::tm& now, std::string* error) {
  error->clear();
  Work work(limits, now);
  const Variables variables = ConversationValues(work, error).Of(special_tokens, conversation);
  if (error->empty() && work.failed()) *error = work.error();
  if (!error->empty()) return std::nullopt;
  Text text = chat_template.Render(variables, work);
  if (work.failed()) {
    *error = work.error();
    return std::nullopt;
  }
  if (!conversation.continue_final_message) return text;
  return CutAtMark(work, text, conversation, error);
}

}  // namespace conclave::router::chat

// From a conversation to a prompt: what a template sees of it, and what is refused before it sees
// anything.

#include "router/chat/chat_prompt.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "tests/router/chat/rendered.h"

namespace conclave::router::chat {
namespace {

using ::testing::HasSubstr;

// Shows a conversation whole.
constexpr char kShow[] = "{{ messages | tojson }} {{ tools | tojson }} {{ add_generation_prompt }}";
constexpr char kPlain[] =
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}";

struct Result {
  std::string text;
  std::string error;
};

Result Render(const std::string& source, const Conversation& conversation,
              const Variables& special = {}) {
  Result result;
  const auto loaded = ChatTemplate::Load(source, {}, &result.error);
  EXPECT_TRUE(loaded) << result.error;
  const auto text =
      RenderChat(*loaded, special, conversation, {}, conclave::testing::Day(), &result.error);
  if (text) result.text = text->bytes();
  return result;
}

Message User(const std::string& content) { return {.role = "user", .content = content}; }
Message Assistant(const std::string& content) { return {.role = "assistant", .content = content}; }

TEST(ChatPrompt, ShowsATemplateOnlyTheFieldsThatAMessageHas) {
  EXPECT_EQ(Render(kShow, {.messages = {User("hi")}}).text,
            R"([{"role": "user", "content": "hi"}] null True)");
  EXPECT_EQ(Render(kShow, {.messages = {{.role = "assistant"}}}).text,
            R"([{"role": "assistant"}] null True)");
  EXPECT_EQ(Render(kShow, {.messages = {{.role = "user", .content = ""}}}).text,
            R"([{"role": "user", "content": ""}] null True)");
}

TEST(ChatPrompt, ShowsPartsNamesToolsAndCalls) {
  EXPECT_EQ(
      Render(kShow, {.messages = {{.role = "user", .parts = {"a", "b"}, .name = "Eve"}}}).text,
      R"([{"role": "user", "content": [{"type": "text", "text": "a"}, )"
      R"({"type": "text", "text": "b"}], "name": "Eve"}] null True)");
  const Message call = {.role = "assistant",
                        .tool_calls = {{"id1", "f", R"({"x": [1, 2.0, null]})"}, {"", "g", ""}}};
  const Message answer = {.role = "tool", .content = "7", .tool_call_id = "id1"};
  EXPECT_EQ(
      Render(kShow, {.messages = {call, answer}, .tools = R"([{"name": "f"}])"}).text,
      R"([{"role": "assistant", "tool_calls": [{"id": "id1", "type": "function", )"
      R"("function": {"name": "f", "arguments": {"x": [1, 2.0, null]}}}, {"type": "function", )"
      R"("function": {"name": "g", "arguments": {}}}]}, {"role": "tool", "content": "7", )"
      R"("tool_call_id": "id1"}] [{"name": "f"}] True)");
}

TEST(ChatPrompt, ShowsReasoningUnderEveryNameThatTemplatesKnow) {
  const std::string shown =
      R"([{"thinking": "hm", "role": "assistant", "content": "a", "reasoning_content": "hm"}] )"
      "null True";
  EXPECT_EQ(
      Render(kShow, {.messages = {{.role = "assistant", .content = "a", .reasoning = "hm"}}}).text,
      shown);
  const Message older = {
      .role = "assistant", .content = "a", .fields = R"({"thinking": "hm", "tool_calls": null})"};
  EXPECT_EQ(Render(kShow, {.messages = {older}}).text, shown);
}

TEST(ChatPrompt, GivesATemplateItsArgumentsOverSpecialTokens) {
  const auto own = [](const char* text) {
    return Value(String{std::make_shared<const Text>(std::string_view(text))});
  };
  const Variables special = {{"bos_token", own("<s>")}, {"eos_token", own("</s>")}};
  const Conversation conversation = {.messages = {User("hi")},
                                     .arguments = R"({"bos_token": "<b>", "deep": {"x": true}})"};
  EXPECT_EQ(Render("{{ bos_token }}{{ eos_token }}{{ deep.x }}{{ messages[0].content }}",
                   conversation, special)
                .text,
            "<b></s>Truehi");
}

TEST(ChatPrompt, AsksForAnAnswerUnlessTold) {
  EXPECT_EQ(Render(kPlain, {.messages = {User("hi")}}).text, "<user>hi</><assistant>");
  EXPECT_EQ(Render(kPlain, {.messages = {User("hi")}, .add_generation_prompt = false}).text,
            "<user>hi</>");
}

TEST(ChatPrompt, LeavesTheLastMessageOpenToGoOn) {
  Conversation conversation = {.messages = {User("hi"), Assistant("Well, ")},
                               .continue_final_message = true};
  EXPECT_EQ(Render(kPlain, conversation).text, "<user>hi</><assistant>Well, ");
  const std::string trims =
      "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</>{% endfor %}";
  EXPECT_EQ(Render(trims, conversation).text, "<user>hi</><assistant>Well,");
  conversation.messages[1] = {.role = "assistant", .parts = {"One.", "Two"}};
  EXPECT_EQ(Render("{% for m in messages %}{% for p in m.content %}{{ p.text }}|{% endfor %}"
                   "{% endfor %}",
                   {.messages = {conversation.messages[1]}, .continue_final_message = true})
                .text,
            "One.|Two");
  conversation.messages[1] = Assistant("gone");
  EXPECT_EQ(Render("{{ messages[0].content }}", conversation).error,
            "continue_final_message: the chat template does not show the last message as it is");
  conversation.messages[1] = {.role = "assistant"};
  EXPECT_EQ(Render(kPlain, conversation).error,
            "continue_final_message: the last message has no content to continue");
}

TEST(ChatPrompt, NamesTheFieldThatIsNotWhatItHasToBe) {
  const auto with = [](const std::function<void(Conversation&)>& change) {
    Conversation conversation = {.messages = {User("hi")}};
    change(conversation);
    return Render(kShow, conversation).error;
  };
  const auto calls = [](const std::string& arguments) {
    return Message{.role = "assistant", .tool_calls = {{"", "f", arguments}}};
  };
  EXPECT_EQ(with([](auto& c) { c.tools = "[1"; }), "tools: it is no JSON at byte 3");
  EXPECT_EQ(with([](auto& c) { c.tools = "{}"; }), "tools is not a list");
  EXPECT_EQ(with([](auto& c) { c.tools = "null"; }), "tools is not a list");
  EXPECT_EQ(with([](auto& c) { c.documents = "3"; }), "documents is not a list");
  EXPECT_EQ(with([](auto& c) { c.arguments = "[]"; }), "template_arguments is not an object");
  EXPECT_EQ(with([](auto& c) { c.arguments = "{\"a\": 1e}"; }),
            "template_arguments: it is no JSON at byte 9");
  EXPECT_EQ(with([](auto& c) { c.arguments = "{\"a\": 18446744073709551615}"; }),
            "template_arguments: the number 18446744073709551615 is beyond 64 bits");
  EXPECT_EQ(with([](auto& c) { c.arguments = "{\"a\": 1e400}"; }),
            "template_arguments: it is no JSON at byte 11");
  EXPECT_EQ(with([](auto& c) { c.messages[0].fields = "[]"; }),
            "messages[0].fields is not an object");
  EXPECT_EQ(with([](auto& c) { c.messages[0].fields = R"({"role": "system"})"; }),
            "messages[0].fields says 'role', which the message has");
  EXPECT_EQ(with([](auto& c) { c.messages[0].fields = R"({"content": "x"})"; }),
            "messages[0].fields says 'content', which the message has");
  EXPECT_EQ(with([&](auto& c) { c.messages[0] = calls("f(x)"); }),
            "messages[0].tool_calls[0].arguments: it is no JSON at byte 2");
  const auto members = [](int count) {
    std::string json = "{";
    for (int i = 0; i < count; ++i) json += (i == 0 ? "\"a" : ",\"a") + std::to_string(i) + "\":1";
    return json + "}";
  };
  EXPECT_EQ(with([&](auto& c) { c.arguments = members(256); }), "");
  EXPECT_EQ(with([&](auto& c) { c.arguments = members(257); }),
            "template_arguments has 257 members, the limit is 256");
  const std::string deep = std::string(60, '[') + std::string(60, ']');
  EXPECT_EQ(with([&](auto& c) { c.tools = deep; }),
            "tools: it is nested more than 49 deep, the limit");
  const std::string deepest = std::string(49, '[') + std::string(49, ']');
  EXPECT_EQ(with([&](auto& c) { c.tools = deepest; }), "");
}

TEST(ChatPrompt, TellsWhatTheTemplateRefuses) {
  EXPECT_EQ(Render("{{ raise_exception('only one turn') }}", {.messages = {User("hi")}}).error,
            "chat template: only one turn");
}

TEST(Conversation, IsCheckedBeforeAnythingIsMadeOfIt) {
  const ConversationLimits limits{
      .messages = 2, .parts = 2, .tool_calls = 1, .role_bytes = 9, .name_bytes = 4};
  const auto check = [&](const Conversation& conversation, int64_t bytes = 40) {
    return CheckConversation(conversation, bytes, limits).value_or("");
  };
  EXPECT_EQ(check({.messages = {User("hi"), Assistant("ho")}}), "");
  EXPECT_EQ(check({}), "messages is empty, it needs at least 1");
  EXPECT_EQ(check({.messages = {User(""), User(""), User("")}}),
            "messages has 3 messages, the limit is 2");
  EXPECT_EQ(check({.messages = {User(std::string(36, 'a'))}}), "");
  EXPECT_EQ(check({.messages = {User(std::string(37, 'a'))}}),
            "messages, tools, documents and template_arguments have 41 bytes together, the limit "
            "is 40");
  EXPECT_EQ(check({.messages = {{.role = ""}}}), "messages[0].role is missing");
  EXPECT_EQ(check({.messages = {{.role = "assistants"}}}),
            "messages[0].role has 10 bytes, the limit is 9");
  EXPECT_EQ(check({.messages = {User(""), {.role = "a|>b"}}}),
            "messages[1].role has a character outside A-Z a-z 0-9 . _ -");
  EXPECT_EQ(check({.messages = {{.role = "user", .parts = {"", "", ""}}}}),
            "messages[0].parts has 3 parts, the limit is 2");
  EXPECT_EQ(check({.messages = {{.role = "user", .content = "a", .parts = {"b"}}}}),
            "messages[0] has content and parts; send one of them");
  EXPECT_EQ(check({.messages = {{.role = "user", .tool_calls = {{}, {}}}}}),
            "messages[0].tool_calls has 2 calls, the limit is 1");
  EXPECT_EQ(check({.messages = {User("")}, .template_name = "abcde"}),
            "template_name has 5 bytes, the limit is 4");
  EXPECT_EQ(
      check(
          {.messages = {User("")}, .add_generation_prompt = true, .continue_final_message = true}),
      "add_generation_prompt and continue_final_message exclude each other");
}

}  // namespace
}  // namespace conclave::router::chat

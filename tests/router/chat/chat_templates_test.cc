// Where a model's chat templates are found, which of them is taken, and what is said of those that
// cannot be used.

#include "router/chat/chat_templates.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "tests/router/chat/rendered.h"
#include "tests/router/tiny_tokenizer.h"

namespace conclave::router::chat {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class Templates : public ::testing::Test {
 protected:
  Templates() {
    std::filesystem::remove_all(directory_);
    std::filesystem::create_directories(directory_);
  }

  void Write(const std::string& name, const std::string& content) {
    const std::filesystem::path path = directory_ / name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << content;
  }
  ChatTemplates Load(const ChatLimits& limits = {}) {
    return {ChatTemplates::Read(directory_.string(), limits), *tokenizer_, limits};
  }
  // What a message becomes, or why not.
  static std::string Show(const ChatTemplates& templates, const Conversation& conversation) {
    const bool tools = !conversation.tools.empty();
    if (const auto problem = templates.Problem(conversation.template_name, tools)) return *problem;
    std::string error;
    const auto prompt =
        templates.Render(conversation, templates.limits(), conclave::testing::Day(), &error);
    return prompt ? prompt->text : error;
  }
  std::string Show(const Conversation& conversation = kChat) { return Show(Load(), conversation); }

  static inline const Conversation kChat = {.messages = {{.role = "user", .content = "hi"}}};
  const std::filesystem::path directory_ =
      std::filesystem::path(::testing::TempDir()) /
      ::testing::UnitTest::GetInstance()->current_test_info()->name();
  const std::shared_ptr<const Tokenizer> tokenizer_ = conclave::testing::TinyTokenizer();
};

TEST_F(Templates, AreNotThereWithoutAnyFile) {
  EXPECT_EQ(Show(), "the model has no chat template; use Generate");
  Write("tokenizer_config.json", R"({"chat_template": null})");
  EXPECT_EQ(Show(), "the model has no chat template; use Generate");
}

TEST_F(Templates, AreFoundInEveryPlaceInTransformersOrder) {
  Write("chat_template.json", R"({"chat_template": "json {{ messages[0].content }}"})");
  EXPECT_EQ(Show(), "json hi");
  Write("tokenizer_config.json", R"({"chat_template": "config {{ messages[0].content }}"})");
  EXPECT_EQ(Show(), "config hi");
  Write("chat_template.jinja", "file {{ messages[0].content }}\n");
  EXPECT_EQ(Show(), "file hi");
}

TEST_F(Templates, AreChosenByNameByToolsAndByDefault) {
  Write("tokenizer_config.json", R"({"chat_template": [
      {"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"},
      {"name": "rag", "template": "r"}]})");
  EXPECT_EQ(Show(), "d");
  Conversation chat = kChat;
  chat.tools = "[]";
  EXPECT_EQ(Show(chat), "t");
  chat.template_name = "rag";
  EXPECT_EQ(Show(chat), "r");
  chat.template_name = "nope";
  EXPECT_EQ(Show(chat), "the model has no chat template 'nope'; it has default, rag, tool_use");
}

TEST_F(Templates, AreChosenAmongFiles) {
  Write("additional_chat_templates/rag.jinja", "r");
  Write("additional_chat_templates/notes.txt", "{{");
  EXPECT_EQ(Show(), "the model has no default chat template; set template_name to one of rag");
  Write("chat_template.jinja", "d");
  EXPECT_EQ(Show(), "d");
  Conversation chat = kChat;
  chat.template_name = "rag";
  EXPECT_EQ(Show(chat), "r");
}

TEST_F(Templates, SpoilNoOtherIfOneIsNotSupported) {
  Write("tokenizer_config.json", R"({"chat_template": [
      {"name": "default", "template": "{% include 'x' %}"}, {"name": "plain", "template": "p"}]})");
  EXPECT_EQ(Show(), "chat template, line 1: the tag 'include' is not supported");
  Conversation chat = kChat;
  chat.template_name = "plain";
  EXPECT_EQ(Show(chat), "p");
}

TEST_F(Templates, SayWhatIsWrongWithTheirFile) {
  Write("tokenizer_config.json", R"({"chat_template": 3})");
  EXPECT_EQ(Show(), "tokenizer_config.json: chat_template is neither a string nor a list");
  Write("tokenizer_config.json", R"({"chat_template": [{"name": "default"}]})");
  EXPECT_EQ(Show(),
            "tokenizer_config.json: chat_template has an entry without a name and a template");
  std::filesystem::remove(directory_ / "tokenizer_config.json");
  Write("chat_template.json", "[]");
  EXPECT_EQ(Show(), "chat_template.json is not a JSON object");
  Write("chat_template.json", std::string(1 << 20, '['));
  EXPECT_EQ(Show(), "chat_template.json is nested deeper than 32");
  Write("chat_template.jinja", std::string(101, 'a'));
  EXPECT_EQ(Show(Load({.template_bytes = 101}), kChat), std::string(101, 'a'));
  EXPECT_EQ(Show(Load({.template_bytes = 100}), kChat),
            "chat_template.jinja has 101 bytes, the limit is 100");
  Write("chat_template.jinja", "\xff");
  EXPECT_EQ(Show(), "chat template: it is not UTF-8");
}

TEST_F(Templates, KeepToTheirNumber) {
  Write("tokenizer_config.json", R"({"chat_template": [
      {"name": "default", "template": "d"}, {"name": "a", "template": "a"}]})");
  EXPECT_EQ(Show(Load({.templates = 2}), kChat), "d");
  EXPECT_EQ(Show(Load({.templates = 1}), kChat), "the model has 2 chat templates, the limit is 1");
}

TEST_F(Templates, NameSpecialTokensAsTheConfigSpellsThem) {
  Write("tokenizer_config.json", R"({"bos_token": "<s>", "eos_token": {"content": "</s>"},
      "pad_token": null, "unk_token": 3, "extra_special_tokens": {"image_token": "<img>"},
      "chat_template": "{{ bos_token }}{{ eos_token }}{{ pad_token is defined }}{{ image_token }}"})");
  EXPECT_EQ(Show(), "<s></s>False<img>");
}

TEST_F(Templates, KnowWhichAddedTokensTheyWrite) {
  Write("chat_template.jinja", "{{ messages[0].content }}<eos>");
  std::string error;
  const ChatTemplates templates = Load();
  const auto prompt = templates.Render(kChat, templates.limits(), conclave::testing::Day(), &error);
  ASSERT_TRUE(prompt) << error;
  EXPECT_EQ(prompt->text, "hi<eos>");
  EXPECT_THAT(prompt->outside, ElementsAre(ByteRange{0, 2}));
}

}  // namespace
}  // namespace conclave::router::chat

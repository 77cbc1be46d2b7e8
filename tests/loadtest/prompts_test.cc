#include "loadtest/prompts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "loadtest/expectation.h"
#include "loadtest/file.h"
#include "tests/loadtest/temporary_file.h"

namespace conclave::loadtest {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(Prompts, LinesArePlainOrJson) {
  const auto prompts = ReadPrompts(TemporaryFile(
      "Once upon\r\n\n"
      R"({"prompt": "x", "max_tokens": 5, "temperature": 0.5, "top_p": 0.9, "top_k": 3, "seed": 18446744073709551615, "stop": ["\n"], "ignore_eos": true, "adapter": "law", "expect_text": "y"})"
      "\n"
      R"({"token_ids": [1, 2], "expect_token_ids": [3]})"));
  ASSERT_TRUE(prompts.ok()) << prompts.status();
  ASSERT_EQ(prompts->size(), 3U);
  EXPECT_EQ((*prompts)[0].text, "Once upon");
  EXPECT_EQ((*prompts)[0].line, 1U);
  const Prompt& full = (*prompts)[1];
  EXPECT_EQ(full.line, 3U);
  EXPECT_EQ(full.text, "x");
  EXPECT_EQ(full.max_tokens, 5U);
  EXPECT_EQ(full.temperature, 0.5F);
  EXPECT_EQ(full.top_p, 0.9F);
  EXPECT_EQ(full.top_k, 3U);
  EXPECT_EQ(full.seed, UINT64_MAX);
  EXPECT_THAT(full.stop, ElementsAre("\n"));
  EXPECT_EQ(full.ignore_eos, true);
  EXPECT_EQ(full.adapter, "law");
  EXPECT_EQ(full.expect_text, "y");
  EXPECT_THAT((*prompts)[2].token_ids, ElementsAre(1, 2));
  EXPECT_THAT(*(*prompts)[2].expect_token_ids, ElementsAre(3));
}

TEST(Prompts, BadLinesAreNamed) {
  const struct {
    std::string line;
    std::string error;
  } cases[] = {
      {"h\xC3", "not UTF-8"},
      {"{\"prompt\": \"\xFF\"}", "not JSON"},
      {"{\"prompt\": \"x\"", "not JSON"},
      {R"({"prompt": "x", "expected_text": "y"})", "unknown key \"expected_text\""},
      {R"({"prompt": "x", "token_ids": [1]})", "either"},
      {R"({"max_tokens": 3})", "either"},
      {R"({"token_ids": []})", "empty"},
      {R"({"token_ids": [-1]})", "key \"token_ids\": want a whole number"},
      {R"({"token_ids": [4294967296]})", "below 2^32"},
      {R"({"prompt": "x", "max_tokens": 1.5})", "whole number"},
      {R"({"prompt": "x", "temperature": 1e999})", "JSON"},
      {R"({"prompt": "x", "temperature": 1e40})", "finite"},
      {R"({"prompt": "x", "ignore_eos": 1})", "true or false"},
      {R"({"prompt": 7})", "a string"},
      {R"({"prompt": "x", "stop": "y"})", "an array"},
  };
  for (const auto& [line, error] : cases) {
    SCOPED_TRACE(line);
    const auto prompts = ReadPrompts(TemporaryFile("good\n" + line + "\n"));
    ASSERT_FALSE(prompts.ok());
    EXPECT_THAT(std::string(prompts.status().message()), HasSubstr(":2: "));
    EXPECT_THAT(std::string(prompts.status().message()), HasSubstr(error));
  }
}

TEST(Prompts, FilesAreBounded) {
  EXPECT_TRUE(ReadPrompts(TemporaryFile("a\nb\n"), {.file_bytes = 4, .prompts = 2}).ok());
  EXPECT_FALSE(ReadPrompts(TemporaryFile("a\nb\n"), {.file_bytes = 3, .prompts = 2}).ok());
  EXPECT_FALSE(ReadPrompts(TemporaryFile("a\nb\n"), {.file_bytes = 4, .prompts = 1}).ok());
  EXPECT_FALSE(ReadPrompts(TemporaryFile("\n\n")).ok());
  EXPECT_EQ(ReadPrompts("/nonexistent/prompts").status().code(), absl::StatusCode::kNotFound);
}

TEST(Prompts, LinesAreBounded) {
  const auto error_of = [](size_t bytes) {
    const std::string line = R"({"prompt": ")" + std::string(bytes - 14, 'x') + R"("})";
    const auto prompts = ReadPrompts(TemporaryFile("good\n" + line + "\r\n"));
    return prompts.ok() ? "accepted" : std::string(prompts.status().message());
  };
  EXPECT_EQ(error_of(kMaxLineBytes), "accepted");
  EXPECT_THAT(error_of(kMaxLineBytes + 1), HasSubstr(":2: longer than 1048576 bytes"));
}

TEST(Expectation, AgreesHoweverTheStreamIsCut) {
  const Prompt prompt = {.expect_text = "héllo", .expect_token_ids = {{1, 2, 3}}};
  Expectation expectation(prompt);
  EXPECT_TRUE(expectation.any());
  expectation.Take("h", std::vector<uint32_t>{1});
  expectation.Take("", std::vector<uint32_t>{2});
  EXPECT_EQ(expectation.Difference(false), std::nullopt);  // right as far as it goes
  EXPECT_THAT(*expectation.Difference(true), HasSubstr("token 2 differs: got the end, want 3"));
  expectation.Take("éllo", std::vector<uint32_t>{3});
  EXPECT_EQ(expectation.Difference(true), std::nullopt);
}

TEST(Expectation, NamesTheFirstDifference) {
  const Prompt ids = {.expect_token_ids = {{1, 2}}};
  Expectation wrong_token(ids);
  wrong_token.Take("", std::vector<uint32_t>{1, 9, 8});
  EXPECT_THAT(*wrong_token.Difference(false), HasSubstr("token 1 differs: got 9, want 2"));
  Expectation too_many(ids);
  too_many.Take("", std::vector<uint32_t>{1, 2, 3});
  EXPECT_THAT(*too_many.Difference(false), HasSubstr("token 2 differs: got 3, want the end"));

  const Prompt text = {.expect_text = "abc"};
  Expectation wrong_text(text);
  wrong_text.Take("ab\n", {});
  EXPECT_THAT(*wrong_text.Difference(false), HasSubstr("byte 2: got \"\\n\", want \"c\""));
  Expectation too_short(text);
  too_short.Take("ab", {});
  EXPECT_THAT(*too_short.Difference(true), HasSubstr("ends at byte 2, want \"c\""));
}

TEST(Expectation, NoneAcceptsAnything) {
  const Prompt prompt = {.text = "x"};
  Expectation expectation(prompt);
  EXPECT_FALSE(expectation.any());
  expectation.Take("whatever", std::vector<uint32_t>{1});
  EXPECT_EQ(expectation.Difference(true), std::nullopt);
}

}  // namespace
}  // namespace conclave::loadtest

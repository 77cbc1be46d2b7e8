// What is wrong with a tokenizer.json is said by a message that names the thing, whatever the file
// says, and never costs more than the limits allow.

#include "router/tokenizer_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tests/router/tokenizer_fixtures.h"

namespace conclave::router {
namespace {

using conclave::testing::Change;
using conclave::testing::Changed;
using conclave::testing::FixtureDirectory;
using conclave::testing::FixtureText;
using conclave::testing::SplitBy;
using ::testing::HasSubstr;

std::string LoadError(const std::string& tokenizer, const std::string& config = "",
                      const TokenizerLimits& limits = {}) {
  std::string error;
  EXPECT_FALSE(Tokenizer::Load(tokenizer, config, &error, limits));
  return error;
}

struct Case {
  std::string fixture;
  std::vector<Change> changes;
  std::string error;  // behind "tokenizer.json: "
};

void Expect(const std::vector<Case>& cases) {
  for (const Case& one : cases) {
    EXPECT_EQ(LoadError(Changed(one.fixture, one.changes)), "tokenizer.json: " + one.error);
  }
}

std::string Repeated(const std::string& text, int times) {
  std::string repeated;
  for (int i = 0; i < times; ++i) repeated += text;
  return repeated;
}

// {"type": "Sequence", "KEY": [PARTS]}
std::string SequenceOf(const std::string& key, const std::string& parts) {
  return R"({"type": "Sequence", ")" + key + R"(": [)" + parts + "]}";
}

TEST(TokenizerFile, NamesWhatIsWrongWithItsJson) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "tokenizer.json is not JSON in UTF-8: see byte 1"},
      {"[", "tokenizer.json is not JSON in UTF-8: see byte 2"},
      {"[]", "tokenizer.json is not a JSON object"},
      {"7", "tokenizer.json is not a JSON object"},
      {R"({"model": {}} x)", "tokenizer.json is not JSON in UTF-8: see byte 15"},
      {"{\"model\": \"\xFF\"}", "tokenizer.json is not JSON in UTF-8: see byte 12"},
      {R"({"model": "\ud800"})", "tokenizer.json is not JSON in UTF-8: see byte 18"},
      {R"({"version": 1e999})", "tokenizer.json has a number that is out of range"},
      {R"({"model": {"vocab": {"a": 0, "a": 1}}})", "tokenizer.json has the key \"a\" twice"},
      {R"({"x": )" + Repeated("[", 33), "tokenizer.json is nested deeper than 32"},
      {Repeated("[", 1'000'000), "tokenizer.json is nested deeper than 32"},
      {Repeated(R"({"a":)", 1'000'000), "tokenizer.json is nested deeper than 32"},
  };
  for (const auto& [text, error] : cases) EXPECT_EQ(LoadError(text), error);
}

TEST(TokenizerFile, NamesWhatIsWrongWithItsVocabulary) {
  Expect({
      {"gpt2", {{"/model", ""}}, "has no model"},
      {"gpt2", {{"/model", "[]"}}, "has no model"},
      {"gpt2", {{"/model/type", "7"}}, "model.type is not a string"},
      {"gpt2", {{"/model/vocab", "1"}}, "model.vocab is not an object of tokens"},
      {"gpt2", {{"/model/vocab", R"(["a"])"}}, "model.vocab is not an object of tokens"},
      {"gpt2",
       {{"/model/vocab/odd", "-3"}},
       "token \"odd\" has the id -3, not a number below 1000000"},
      {"gpt2",
       {{"/model/vocab/odd", "1000000"}},
       "token \"odd\" has the id 1000000, not a number below 1000000"},
      {"gpt2",
       {{"/model/vocab/odd", "99999999999999999999"}},
       "token \"odd\" has the id 1e+20, not a number below 1000000"},
      {"gpt2",
       {{"/model/vocab/odd", "\"3\""}},
       "token \"odd\" has the id \"3\", not a number below 1000000"},
      {"gpt2",
       {{"/model/vocab/odd", "3.0"}},
       "token \"odd\" has the id 3.0, not a number below 1000000"},
      {"gpt2", {{"/model/vocab/!", "4"}}, "the tokens \"!\" and \"\"\" both have the id 4"},
      {"gpt2", {{"/model/vocab/odd", "2000"}}, "has 1001 tokens, but none has the id 1000"},
      {"gpt2",
       {{"/model/vocab/!", ""}, {"/model/vocab/odd", "3"}, {"/model/merges", "[]"}},
       "the vocabulary has no token for the byte 33"},
      {"llama2",
       {{"/model/unk_token", R"("<none>")"}},
       "model.unk_token \"<none>\" is not in the vocabulary"},
      {"llama2", {{"/model/unk_token", "0"}}, "model.unk_token is not a string"},
      {"llama2", {{"/model/byte_fallback", "1"}}, "model.byte_fallback is not true or false"},
      {"llama2", {{"/model/fuse_unk", "\"yes\""}}, "model.fuse_unk is not true or false"},
      {"gpt2", {{"/model/ignore_merges", "0"}}, "model.ignore_merges is not true or false"},
  });
}

TEST(TokenizerFile, NamesWhatIsWrongWithItsMerges) {
  Expect({
      {"gpt2", {{"/model/merges", ""}}, "model.merges is not a list"},
      {"gpt2", {{"/model/merges", "{}"}}, "model.merges is not a list"},
      {"gpt2",
       {{"/model/merges/7", R"(["zq", "!"])"}},
       "model.merges[7] names \"zq\", which is not in the vocabulary"},
      {"gpt2",
       {{"/model/merges/7", R"(["z", "!"])"}},
       "model.merges[7] names \"z!\", which is not in the vocabulary"},
      {"gpt2", {{"/model/merges/7", R"("a b c")"}}, "model.merges[7] is not two tokens"},
      {"gpt2", {{"/model/merges/7", R"("ab")"}}, "model.merges[7] is not two tokens"},
      {"gpt2", {{"/model/merges/7", R"(["a"])"}}, "model.merges[7] is not two tokens"},
      {"gpt2", {{"/model/merges/7", R"([1, 2])"}}, "model.merges[7] is not two tokens"},
      {"gpt2", {{"/model/merges/7", "null"}}, "model.merges[7] is not two tokens"},
      {"gpt2",
       {{"/model/merges", R"(["Ġ t", ["Ġ", "t"]])"}},
       "model.merges[1] of \"Ġ\" and \"t\" appears twice"},
      {"gpt2",
       {{"/model/merges/7/0", '"' + Repeated("long", 100) + '"'}},
       "model.merges[7] names \"" + Repeated("long", 16) + "...\", which is not in the vocabulary"},
  });
}

TEST(TokenizerFile, NamesWhatIsWrongWithItsAddedTokens) {
  Expect({
      {"gpt2", {{"/added_tokens", "{}"}}, "added_tokens is not a list"},
      {"gpt2", {{"/added_tokens/0", "7"}}, "added_tokens[0].content is missing"},
      {"gpt2", {{"/added_tokens/0", "null"}}, "added_tokens[0].content is missing"},
      {"gpt2", {{"/added_tokens/0/content", "\"\""}}, "added_tokens[0].content is empty"},
      {"gpt2", {{"/added_tokens/0/content", "5"}}, "added_tokens[0].content is not a string"},
      {"gpt2", {{"/added_tokens/0/id", ""}}, "the added token \"<|endoftext|>\" has no id"},
      {"gpt2",
       {{"/added_tokens/0/id", "5"}},
       "the added token \"<|endoftext|>\" has another id than in the vocabulary, 0"},
      {"gpt2",
       {{"/added_tokens/0/id", "\"0\""}},
       "the added token \"<|endoftext|>\" has another id than in the vocabulary, 0"},
      {"gpt2",
       {{"/added_tokens/0/content", "\"<new>\""}, {"/added_tokens/0/id", "5"}},
       "the tokens \"#\" and \"<new>\" both have the id 5"},
      {"gpt2",
       {{"/added_tokens/1/content", "\"<|endoftext|>\""}, {"/added_tokens/1/id", "0"}},
       "the added token \"<|endoftext|>\" appears twice"},
      {"gpt2", {{"/added_tokens/0/special", "1"}}, "added_tokens[0].special is not true or false"},
      {"gpt2",
       {{"/added_tokens/0/lstrip", "\"no\""}},
       "added_tokens[0].lstrip is not true or false"},
      {"gpt2",
       {{"/added_tokens/2/single_word", "{}"}},
       "added_tokens[2].single_word is not true or false"},
  });
}

TEST(TokenizerFile, NamesWhatIsWrongWithItsNormalizer) {
  Expect({
      {"gpt2", {{"/normalizer", "7"}}, "normalizer.type is missing"},
      {"gpt2", {{"/normalizer", R"({"type": 7})"}}, "normalizer.type is not a string"},
      {"gpt2",
       {{"/normalizer", R"({"type": "Sequence"})"}},
       "normalizer.normalizers is not a list"},
      {"gpt2",
       {{"/normalizer", SequenceOf("normalizers", "null")}},
       "normalizer.normalizers[0].type is missing"},
      {"gpt2", {{"/normalizer", R"({"type": "Prepend"})"}}, "normalizer.prepend is missing"},
      {"gpt2",
       {{"/normalizer", R"({"type": "Prepend", "prepend": ")" + Repeated("_", 257) + R"("})"}},
       "normalizer.prepend has 257 bytes, the limit is 256"},
      {"gpt2",
       {{"/normalizer", R"({"type": "Replace", "content": "a"})"}},
       "normalizer.pattern is neither a String nor a Regex"},
      {"gpt2",
       {{"/normalizer", R"({"type": "Replace", "content": "a", "pattern": "b"})"}},
       "normalizer.pattern is neither a String nor a Regex"},
      {"gpt2",
       {{"/normalizer", R"({"type": "Replace", "content": "a", "pattern": {"String": ""}})"}},
       "normalizer.pattern is not usable: the pattern is empty"},
      {"gpt2",
       {{"/normalizer",
         SequenceOf("normalizers", R"({"type": "NFC"}, {"type": "Strip", "strip_left": "x"})")}},
       "normalizer.normalizers[1].strip_left is not true or false"},
  });
}

TEST(TokenizerFile, NamesWhatIsWrongWithItsPatterns) {
  const std::string at = "pre_tokenizer.pretokenizers[0].pattern is not usable: the pattern ";
  Expect({
      {"gpt2", {SplitBy("(a")}, at + "\"(a\" does not compile: missing closing parenthesis"},
      {"gpt2", {SplitBy("a)")}, at + "\"a)\" does not compile: unmatched closing parenthesis"},
      {"gpt2",
       {SplitBy("*")},
       at + "\"*\" does not compile: quantifier does not follow a repeatable item"},
      {"gpt2",
       {SplitBy("[z-a]")},
       at + "\"[z-a]\" does not compile: range out of order in character class"},
      {"gpt2", {SplitBy("\\\\")}, at + "\"\\\" does not compile: \\ at end of pattern"},
      {"gpt2",
       {SplitBy("\\\\p{Nothing}")},
       at + "\"\\p{Nothing}\" does not compile: unknown property after \\P or \\p"},
      {"gpt2",
       {SplitBy("[a&&[b]]")},
       at + "\"[a&&[b]]\" nests or intersects character classes, which is not supported"},
      {"gpt2",
       {SplitBy("(?:(?:(?:a{1,999}){1,999}){1,999})")},
       at + "\"(?:(?:(?:a{1,999}){1,999}){1,999})\" does not compile: regular expression is too "
            "large"},
      {"gpt2",
       {SplitBy(Repeated("(", 300) + Repeated(")", 300))},
       at + "\"" + Repeated("(", 64) + "...\" does not compile: parentheses are too deeply nested"},
      {"gpt2",
       {SplitBy(Repeated("a", 65537))},
       "pre_tokenizer.pretokenizers[0].pattern.Regex has 65537 bytes, the limit is 65536"},
      {"gpt2",
       {SplitBy("a", "Explode")},
       "pre_tokenizer.pretokenizers[0].behavior \"Explode\" is not supported"},
  });
}

TEST(TokenizerFile, NamesWhatIsWrongWithItsPreTokenizer) {
  Expect({
      {"gpt2", {{"/pre_tokenizer", "[]"}}, "pre_tokenizer.type is missing"},
      {"gpt2", {{"/pre_tokenizer/use_regex", "1"}}, "pre_tokenizer.use_regex is not true or false"},
      {"gpt2",
       {{"/pre_tokenizer",
         SequenceOf("pretokenizers", R"({"type": "ByteLevel"}, {"type": "Digits"})")}},
       "pre_tokenizer.pretokenizers[1] behind a ByteLevel is not supported"},
      {"llama2",
       {{"/pre_tokenizer", R"({"type": "Metaspace", "replacement": "ab"})"}},
       "pre_tokenizer.replacement \"ab\" is not one character"},
      {"llama2",
       {{"/pre_tokenizer", R"({"type": "Metaspace", "replacement": ""})"}},
       "pre_tokenizer.replacement \"\" is not one character"},
      {"llama2",
       {{"/pre_tokenizer", R"({"type": "Metaspace", "prepend_scheme": "often"})"}},
       "pre_tokenizer.prepend_scheme \"often\" is not supported"},
      {"llama2",
       {{"/pre_tokenizer",
         R"({"type": "Metaspace", "add_prefix_space": false, "prepend_scheme": "first"})"}},
       "pre_tokenizer.prepend_scheme \"first\" contradicts add_prefix_space false"},
      {"gpt2",
       {{"/pre_tokenizer", SequenceOf("pretokenizers", Repeated(R"({"type": "Digits"},)", 16) +
                                                           R"({"type": "ByteLevel"})")}},
       "pre_tokenizer.pretokenizers has 17 entries, the limit is 16"},
  });
}

TEST(TokenizerFile, NamesWhatIsWrongWithItsDecoderAndTemplate) {
  const auto post_processor = [](const std::string& single, const std::string& tokens) {
    return Change{"/post_processor", R"({"type": "TemplateProcessing", "single": [)" + single +
                                         R"(], "special_tokens": {)" + tokens + "}}"};
  };
  const std::string sequence = R"({"Sequence": {"id": "A", "type_id": 0}})";
  const std::string bos = R"({"SpecialToken": {"id": "<s>", "type_id": 0}})";
  Expect({
      {"llama2",
       {{"/decoder/decoders/0/pattern", "{}"}},
       "decoder.decoders[0].pattern is neither a String nor a Regex"},
      {"llama2",
       {{"/decoder/decoders/0/content", "3"}},
       "decoder.decoders[0].content is not a string"},
      {"llama2",
       {{"/decoder/decoders/3/start", "-1"}},
       "decoder.decoders[3].start is not a number from 0 to 1000000"},
      {"llama2",
       {{"/decoder/decoders/3/content", "\"\""}},
       "decoder.decoders[3].content \"\" is not one character"},
      {"gpt2",
       {{"/post_processor", R"({"type": "TemplateProcessing"})"}},
       "post_processor.single is not a list"},
      {"gpt2",
       {post_processor(bos + "," + sequence, "")},
       "post_processor.single[0] names \"<s>\", which special_tokens does not list"},
      {"gpt2",
       {post_processor(bos + "," + sequence, R"("<s>": {"ids": 0})")},
       "post_processor.special_tokens.<s>.ids is not a list"},
      {"gpt2",
       {post_processor(bos + "," + sequence, R"("<s>": {"ids": [4000]})")},
       "post_processor.special_tokens.<s>.ids[0] is not the id of a token"},
      {"gpt2",
       {post_processor(bos + "," + sequence, R"("<s>": {"ids": [-1]})")},
       "post_processor.special_tokens.<s>.ids[0] is not the id of a token"},
      {"gpt2",
       {post_processor(R"({"Other": 1})", "")},
       "post_processor.single[0].SpecialToken.id is missing"},
      {"gpt2",
       {post_processor("", "")},
       "post_processor a template with 0 sequences is not supported"},
      {"gpt2",
       {post_processor(sequence + "," + sequence, "")},
       "post_processor a template with 2 sequences is not supported"},
      {"gpt2",
       {{"/post_processor", R"({"type": "Sequence"})"}},
       "post_processor.processors is not a list"},
  });
}

TEST(TokenizerFile, NamesWhatItDoesNotSupport) {
  const std::vector<std::pair<Change, std::string>> cases = {
      {{"/normalizer", R"({"type": "Precompiled"})"}, "normalizer \"Precompiled\""},
      {{"/normalizer", SequenceOf("normalizers", R"({"type": "NFC"}, {"type": "ByteLevel"})")},
       "normalizer.normalizers[1] \"ByteLevel\""},
      {{"/model/type", R"("Unigram")"}, "model.type \"Unigram\""},
      {{"/model/end_of_word_suffix", R"("</w>")"}, "model.end_of_word_suffix \"</w>\""},
      {{"/model/continuing_subword_prefix", R"("##")"}, "model.continuing_subword_prefix \"##\""},
      {{"/model/dropout", "0.1"}, "model.dropout other than 0"},
      {{"/model/dropout", "\"0\""}, "model.dropout other than 0"},
      {{"/pre_tokenizer", R"({"type": "UnicodeScripts"})"}, "pre_tokenizer \"UnicodeScripts\""},
      {{"/pre_tokenizer", SequenceOf("pretokenizers", R"({"type": "Punctuation"})")},
       "pre_tokenizer.pretokenizers[0] \"Punctuation\""},
      {{"/decoder", "null"}, "decoder null"},
      {{"/decoder", R"({"type": "WordPiece"})"}, "decoder \"WordPiece\""},
      {{"/decoder", SequenceOf("decoders", R"({"type": "ByteFallback"}, {"type": "Metaspace"})")},
       "decoder.decoders[1] \"Metaspace\" behind a ByteFallback"},
      {{"/decoder", SequenceOf("decoders", R"({"type": "ByteLevel"}, {"type": "Metaspace"})")},
       "decoder.decoders[1] \"Metaspace\" of the whole text"},
      {{"/decoder", SequenceOf("decoders", R"({"type": "Fuse"},
          {"type": "Strip", "content": "é", "start": 1, "stop": 0})")},
       "decoder.decoders[1].content \"é\" of the whole text"},
      {{"/decoder", SequenceOf("decoders", R"({"type": "Fuse"},
          {"type": "Strip", "content": " ", "start": 1, "stop": 0},
          {"type": "Strip", "content": " ", "start": 1, "stop": 0})")},
       "decoder.decoders[2] a second Strip of the whole text"},
      {{"/post_processor", R"({"type": "BertProcessing"})"}, "post_processor \"BertProcessing\""},
  };
  for (const auto& [change, what] : cases) {
    EXPECT_EQ(LoadError(Changed("gpt2", {change})),
              "tokenizer.json: " + what + " is not supported");
  }
}

TEST(TokenizerFile, NamesWhatIsWrongWithItsConfig) {
  const std::string good = FixtureText("gpt2");
  EXPECT_EQ(LoadError(good, "7"), "tokenizer_config.json is not a JSON object");
  EXPECT_EQ(LoadError(good, R"({"eos_token": "</none>"})"),
            "tokenizer_config.json: eos_token \"</none>\" is not in the vocabulary");
  EXPECT_EQ(LoadError(good, R"({"bos_token": 3})"),
            "tokenizer_config.json: bos_token is not a string");
  EXPECT_EQ(LoadError(good, R"({"bos_token": {"lstrip": true}})"),
            "tokenizer_config.json: bos_token.content is missing");
  EXPECT_EQ(LoadError(good, R"({"add_bos_token": "yes"})"),
            "tokenizer_config.json: add_bos_token is not true or false");
}

// People edit this file, and the authors' readers let the last of two count.
TEST(TokenizerFile, TakesTheLastOfTwoKeysInItsConfig) {
  std::string error;
  const auto tokenizer = Tokenizer::Load(FixtureText("gpt2"),
                                         R"({"eos_token": "!", "eos_token": "<|user|>"})", &error);
  ASSERT_TRUE(tokenizer) << error;
  EXPECT_EQ(tokenizer->eos(), tokenizer->FindAddedToken("<|user|>"));
}

TEST(TokenizerFile, KeepsToItsLimits) {
  const std::string good = FixtureText("gpt2");
  EXPECT_THAT(LoadError(good, "", {.file_bytes_max = 1000}), HasSubstr("bytes, the limit is 1000"));
  EXPECT_EQ(LoadError(good, "", {.decoded_bytes_max = 100}),
            "tokenizer.json: the tokens stand for more than 100 bytes");
  EXPECT_EQ(LoadError(good, "", {.vocabulary = {.tokens_max = 999}}),
            "tokenizer.json: model.vocab has 1000 tokens, the limit is 999");
  EXPECT_THAT(LoadError(good, "", {.vocabulary = {.merges_max = 3}}),
              HasSubstr("tokenizer.json: model.merges has 741 entries, the limit is 3"));
  EXPECT_EQ(LoadError(good, "", {.vocabulary = {.added_tokens_max = 2}}),
            "tokenizer.json: added_tokens has 3 entries, the limit is 2");
  EXPECT_EQ(LoadError(good, "", {.vocabulary = {.added_token_bytes_max = 12}}),
            "tokenizer.json: the added token \"<|endoftext|>\" has 13 bytes, the limit is 12");
  std::string error;
  EXPECT_FALSE(
      Tokenizer::LoadDirectory(FixtureDirectory("gpt2"), &error, {.file_bytes_max = 1000}));
  EXPECT_THAT(error, HasSubstr("the limit is 1000"));
  EXPECT_TRUE(Tokenizer::Load(good, "", &error,
                              {.file_bytes_max = good.size(),
                               .vocabulary = {.tokens_max = 1000,
                                              .merges_max = 741,
                                              .added_tokens_max = 3,
                                              .added_token_bytes_max = 13}}))
      << error;
}

// Sixteen steps of which each makes 256 of every character of one.
TEST(TokenizerFile, EndsAnExplosionOfReplacements) {
  const std::string content = Repeated("a", 256);
  const std::string replace =
      R"({"type": "Replace", "pattern": {"String": "a"}, "content": ")" + content + R"("})";
  std::string steps = replace;
  for (int i = 1; i < 16; ++i) steps += "," + replace;
  EXPECT_EQ(LoadError(Changed("llama2", {{"/decoder", SequenceOf("decoders", steps)}}), "",
                      {.decoded_bytes_max = 1'000'000}),
            "tokenizer.json: the tokens stand for more than 1000000 bytes");
  std::string error;
  const auto tokenizer = Tokenizer::Load(
      Changed("gpt2", {{"/normalizer", SequenceOf("normalizers", steps)}}), "", &error);
  ASSERT_TRUE(tokenizer) << error;
  EXPECT_FALSE(tokenizer->Encode("a", {}, &error));
  EXPECT_EQ(error, "the text has, once normalized, more than 67108864 bytes");
}

TEST(TokenizerFile, SaysWhichFileCannotBeRead) {
  std::string error;
  EXPECT_FALSE(Tokenizer::LoadDirectory("/nonexistent", &error));
  EXPECT_EQ(error, "there is no tokenizer.json");
}

TEST(TokenizerFile, SurvivesDamage) {
  for (const char* fixture : {"split", "llama2"}) {
    const std::string text = FixtureText(fixture);
    for (unsigned seed = 0; seed < 200; ++seed) {
      SCOPED_TRACE(seed);
      std::mt19937 random(seed);
      std::string damaged = text;
      if (seed % 4 == 0) damaged.resize(random() % damaged.size());
      for (unsigned i = 0; i < 1 + seed % 5; ++i) {
        // Mostly characters that keep it JSON, so that the damage gets past the parser.
        damaged[random() % damaged.size()] = "0123456789ae\"{}[],:x"[random() % 20];
      }
      std::string error;
      const auto tokenizer = Tokenizer::Load(damaged, "", &error);
      if (!tokenizer) {
        EXPECT_NE(error, "");
      } else {
        EXPECT_TRUE(tokenizer->Encode("some text, 123 <tool>", {.parse_special = true}, &error));
      }
    }
  }
}

}  // namespace
}  // namespace conclave::router

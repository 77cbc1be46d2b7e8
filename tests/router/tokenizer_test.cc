#include "router/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "router/streaming_detokenizer.h"
#include "router/utf8.h"
#include "tests/router/tokenizer_fixtures.h"

namespace conclave::router {
namespace {

using Json = nlohmann::json;
using conclave::testing::Fixture;
using conclave::testing::FixtureText;
using conclave::testing::LoadedAfter;
using conclave::testing::SplitBy;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr size_t kMillion = 1'000'000;

std::vector<TokenId> Encode(const Tokenizer& tokenizer, std::string_view text,
                            EncodeOptions options = {}, EncodeWork* work = nullptr) {
  std::string error;
  const auto ids = tokenizer.Encode(text, options, &error, work);
  EXPECT_TRUE(ids) << error;
  return ids.value_or(std::vector<TokenId>());
}

std::string RandomBytes(size_t length, unsigned seed) {
  std::mt19937 random(seed);
  std::string bytes(length, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

TEST(Tokenizer, TakesTheTextOfASpecialTokenForTextUnlessAsked) {
  const Tokenizer tokenizer = Fixture("gpt2");
  const TokenId end = *tokenizer.FindAddedToken("<|endoftext|>");
  const std::string text = "a<|endoftext|>b";
  for (TokenId id : Encode(tokenizer, text)) EXPECT_FALSE(tokenizer.is_special(id));
  EXPECT_EQ(tokenizer.Decode(Encode(tokenizer, text), false), text);
  const auto parsed = Encode(tokenizer, text, {.parse_special = true});
  ASSERT_EQ(parsed.size(), 3u);
  EXPECT_EQ(parsed[1], end);
  EXPECT_EQ(tokenizer.Decode(parsed, false), text);
  EXPECT_EQ(tokenizer.Decode(parsed, true), "ab");
}

TEST(Tokenizer, TakesASpecialTokenFromOutsideForTextWithoutCuttingItThere) {
  const Tokenizer tokenizer = Fixture("gpt2");
  const TokenId user = *tokenizer.FindAddedToken("<|user|>");
  const std::string text = "<|user|>say <|user|> twice<|user|>";
  const std::vector<ByteRange> outside = {{8, 26}};
  std::vector<TokenId> expected = Encode(tokenizer, "say <|user|> twice");
  expected.insert(expected.begin(), user);
  expected.push_back(user);
  EXPECT_EQ(Encode(tokenizer, text, {.parse_special = true, .outside = outside}), expected);
}

TEST(Tokenizer, PutsItsTemplateAroundATextOnlyIfAsked) {
  const Tokenizer tokenizer = Fixture("split");
  const auto plain = Encode(tokenizer, "hello");
  auto expected = plain;
  expected.insert(expected.begin(), *tokenizer.bos());
  EXPECT_EQ(Encode(tokenizer, "hello", {.add_special = true}), expected);
  EXPECT_THAT(Encode(tokenizer, "", {.add_special = true}), ElementsAre(*tokenizer.bos()));
  EXPECT_THAT(Encode(tokenizer, ""), ElementsAre());
}

TEST(Tokenizer, AddsBosAndEosThatOnlyItsConfigAsksFor) {
  std::string error;
  const auto tokenizer = Tokenizer::Load(FixtureText("gpt2"), R"({"bos_token": "<|user|>",
      "eos_token": {"content": "<|assistant|>"}, "add_bos_token": true, "add_eos_token": true})",
                                         &error);
  ASSERT_TRUE(tokenizer) << error;
  EXPECT_EQ(Encode(*tokenizer, "", {.add_special = true}),
            (std::vector<TokenId>{*tokenizer->bos(), *tokenizer->eos()}));
  EXPECT_EQ(tokenizer->bos(), tokenizer->FindAddedToken("<|user|>"));
  EXPECT_EQ(tokenizer->eos(), tokenizer->FindAddedToken("<|assistant|>"));
}

TEST(Tokenizer, StripsWhiteSpaceAroundTokensThatAskForIt) {
  const Tokenizer tokenizer = Fixture("split");
  const auto both = tokenizer.FindAddedToken("<both>");
  ASSERT_TRUE(both);
  const auto ids = Encode(tokenizer, "a \n<both>\t b", {.parse_special = true});
  EXPECT_EQ(tokenizer.Decode(ids, false), "a<both>b");
}

TEST(Tokenizer, TakesTheLongerOfTwoAddedTokens) {
  const Tokenizer tokenizer = Fixture("split");
  EXPECT_THAT(Encode(tokenizer, "<tools><tool>"), ElementsAre(*tokenizer.FindAddedToken("<tools>"),
                                                              *tokenizer.FindAddedToken("<tool>")));
}

TEST(Tokenizer, AcceptsAnyBytesAndGivesThemBack) {
  for (const char* name : {"gpt2", "split", "llama2"}) {
    const Tokenizer tokenizer = Fixture(name);
    for (unsigned seed = 0; seed < 50; ++seed) {
      SCOPED_TRACE(seed);
      const std::string bytes = RandomBytes(seed * 7, seed);
      EXPECT_EQ(tokenizer.Decode(Encode(tokenizer, bytes), false), bytes);
    }
  }
}

TEST(Tokenizer, MakesTheByteTokensOfWhatIsNotUtf8) {
  const Tokenizer tokenizer = Fixture("gpt2");
  const auto ids = Encode(tokenizer,
                          "a\xFF"
                          "b\xE4\xBD");
  ASSERT_EQ(ids.size(), 5u);
  EXPECT_EQ(tokenizer.TokenBytes(ids[1]), "\xFF");
  EXPECT_EQ(tokenizer.TokenBytes(ids[3]), "\xE4");
  EXPECT_EQ(tokenizer.TokenBytes(ids[4]), "\xBD");
}

std::string Repeated(const std::string& text, size_t bytes) {
  std::string repeated;
  while (repeated.size() < bytes) repeated += text;
  return repeated;
}

// Every symbol is a candidate once, and each merge makes at most two more; there are no more
// symbols than bytes. In the last two fixtures the whole text is one word.
TEST(Tokenizer, TakesAMillionOfAnythingInLinearWork) {
  std::mt19937 random(1);
  std::string letters;
  while (letters.size() < kMillion) letters += static_cast<char>('a' + random() % 4);
  std::vector<std::string> texts = {Repeated(" ", kMillion) + "a", letters,
                                    RandomBytes(kMillion, 2)};
  for (const char* unit :
       {"a", " ", "\n", "1", "\xFF", "<", "\u0301", "\u2581", "\U0001F600", " a"}) {
    texts.push_back(Repeated(unit, kMillion));
  }
  for (const char* name : {"gpt2", "split", "llama2", "metaspace"}) {
    const Tokenizer tokenizer = Fixture(name);
    const bool of_bytes = name == std::string("gpt2") || name == std::string("split");
    for (const std::string& text : texts) {
      SCOPED_TRACE(::testing::Message()
                   << name << " " << Json(ReplaceInvalidUtf8(text.substr(0, 8))));
      EncodeWork work;
      const auto ids = Encode(tokenizer, text, {}, &work);
      EXPECT_LE(work.merge_candidates, 3 * (text.size() + 1));  // a space may be put before it
      EXPECT_LE(work.words, text.size() + 1);
      EXPECT_TRUE(!of_bytes || tokenizer.Decode(ids, false) == text);
    }
  }
}

TEST(Tokenizer, GivesBackWhatIsNotUtf8FromByteFallback) {
  const Tokenizer tokenizer = Fixture("llama2");
  for (const char* text : {"\xFF", "a\xFF b", "\xE4\xBD\xE4\xBD\xA0 \x80", "\xFF\xFE a"}) {
    const auto ids = Encode(tokenizer, text);
    EXPECT_EQ(tokenizer.Decode(ids, false), text);
  }
}

TEST(Tokenizer, RefusesATextBeyondItsLimit) {
  const Tokenizer tokenizer = Fixture("gpt2");
  std::string error;
  EXPECT_FALSE(tokenizer.Encode(std::string(Tokenizer::text_bytes_max() + 1, 'a'), {}, &error));
  EXPECT_EQ(error, "the text has 67108865 bytes, the limit is 67108864");
}

TEST(Tokenizer, EndsAPatternThatBacktracksWithoutEnd) {
  const Tokenizer tokenizer = LoadedAfter("gpt2", {SplitBy("^(?:a|a|aa)+$")});
  std::string error;
  EXPECT_FALSE(tokenizer.Encode(std::string(200, 'a') + "b", {}, &error));
  EXPECT_THAT(error, HasSubstr("cannot be matched in this text: match limit exceeded"));
}

TEST(Tokenizer, KeepsWhatAPatternMatchesAndWhatItDoesNot) {
  const Tokenizer tokenizer = LoadedAfter("gpt2", {SplitBy("[0-9]*")});
  for (const char* text : {"", "12", "ab12cd", "é1ü"}) {
    EXPECT_EQ(tokenizer.Decode(Encode(tokenizer, text), false), text);
  }
}

TEST(Tokenizer, PutsASpaceBeforeTheFirstWordIfItsFileSaysSo) {
  const Tokenizer tokenizer = LoadedAfter("gpt2", {{"/pre_tokenizer/add_prefix_space", "true"}});
  EXPECT_EQ(Encode(tokenizer, "the gate"), Encode(Fixture("gpt2"), " the gate"));
  EXPECT_EQ(Encode(tokenizer, " the gate"), Encode(tokenizer, "the gate"));
}

TEST(Tokenizer, ReadsBothFormsOfMerges) {
  Json root = Json::parse(FixtureText("gpt2"));
  for (Json& merge : root["model"]["merges"]) {
    merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  }
  std::string error;
  const auto tokenizer = Tokenizer::Load(root.dump(), "", &error);
  ASSERT_TRUE(tokenizer) << error;
  const std::string text = "the expert routing step of a worker";
  EXPECT_EQ(Encode(*tokenizer, text), Encode(Fixture("gpt2"), text));
}

TEST(Tokenizer, HasNoBytesForAnIdThatIsNoToken) {
  const Tokenizer tokenizer = Fixture("gpt2");
  EXPECT_EQ(tokenizer.TokenBytes(-1), "");
  EXPECT_EQ(tokenizer.TokenBytes(static_cast<TokenId>(tokenizer.vocab_size())), "");
  EXPECT_EQ(tokenizer.Decode(std::vector<TokenId>{-1, 1'000'000}, false), "");
}

TEST(StreamingDetokenizer, GivesOutACharacterWhenItsLastTokenCame) {
  const Tokenizer tokenizer = Fixture("gpt2");
  StreamingDetokenizer detokenizer(tokenizer);
  const auto ids = Encode(tokenizer, "\xF0\x9F");  // of U+1F600
  const auto rest = Encode(tokenizer, "\x98\x80");
  std::string text;
  for (TokenId id : ids) text += detokenizer.Push(id);
  EXPECT_EQ(text, "");
  for (TokenId id : rest) text += detokenizer.Push(id);
  EXPECT_EQ(text, "\xF0\x9F\x98\x80");
  EXPECT_EQ(detokenizer.Flush(), "");
}

TEST(StreamingDetokenizer, ReplacesACharacterThatTheEndCuts) {
  const Tokenizer tokenizer = Fixture("gpt2");
  StreamingDetokenizer detokenizer(tokenizer);
  std::string text;
  for (TokenId id : Encode(tokenizer, "a\xE4\xBD")) text += detokenizer.Push(id);
  EXPECT_EQ(text, "a");
  EXPECT_EQ(detokenizer.Flush(), kReplacementCharacter);
  EXPECT_EQ(detokenizer.Flush(), "");
}

TEST(StreamingDetokenizer, HoldsBackCharactersOfByteTokensToo) {
  const Tokenizer tokenizer = Fixture("llama2");
  const auto byte = [](int value) { return static_cast<TokenId>(3 + value); };  // <0x00> is 3
  StreamingDetokenizer detokenizer(tokenizer);
  EXPECT_EQ(detokenizer.Push(byte(' ')), "");  // the first space is the one that was put there
  EXPECT_EQ(detokenizer.Push(byte('\n')), "\n");
  EXPECT_EQ(detokenizer.Push(byte(0xE4)), "");
  EXPECT_EQ(detokenizer.Push(byte(0xBD)), "");
  EXPECT_EQ(detokenizer.Push(byte(0xA0)), "\u4F60");
  EXPECT_EQ(detokenizer.Push(byte(0xE4)), "");
  EXPECT_EQ(detokenizer.Push(byte(0x0A)), "\uFFFD\n");
}

TEST(StreamingDetokenizer, IsAlwaysValidAndJoinsToTheWholeText) {
  for (unsigned seed = 0; seed < 400; ++seed) {
    SCOPED_TRACE(seed);
    static const Tokenizer tokenizers[] = {Fixture("gpt2"), Fixture("llama2")};
    const Tokenizer& tokenizer = tokenizers[seed % 2];
    std::mt19937 random(seed);
    std::vector<TokenId> ids;
    // Half of the ids are single bytes, so characters are cut everywhere.
    for (unsigned i = 0; i < 60; ++i) {
      const auto all = static_cast<unsigned>(tokenizer.vocab_size());
      ids.push_back(static_cast<TokenId>(random() % (random() % 2 == 0 ? 259 : all)));
    }
    for (bool skip_special : {false, true}) {
      StreamingDetokenizer detokenizer(tokenizer, skip_special);
      std::string text;
      for (TokenId id : ids) {
        const std::string piece = detokenizer.Push(id);
        EXPECT_TRUE(IsUtf8(piece));
        text += piece;
      }
      text += detokenizer.Flush();
      EXPECT_EQ(text, ReplaceInvalidUtf8(tokenizer.Decode(ids, skip_special)));
    }
  }
}

}  // namespace
}  // namespace conclave::router

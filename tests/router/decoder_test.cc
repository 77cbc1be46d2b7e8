#include "router/decoder.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace conclave::router {
namespace {

using Step = Decoder::Step;
using Kind = Decoder::Step::Kind;

// What the tokens decode to, one after another.
std::string Decoded(const std::vector<std::string>& tokens, const std::vector<Step>& steps,
                    const Decoder::Trim& trim = {}) {
  std::string error, bytes;
  const auto decoder = Decoder::Create(steps, trim, tokens, 1000, &error);
  if (!decoder) return error;
  Decoder::Stream stream(*decoder);
  for (size_t id = 0; id < tokens.size(); ++id) {
    stream.Push(static_cast<scheduler::TokenId>(id), &bytes);
  }
  return bytes;
}

Step Replace(const std::string& literal, const std::string& content) {
  std::string error;
  return {.kind = Kind::kReplace,
          .pattern = {*TextPattern::Literal(literal, &error)},
          .content = content};
}

TEST(Decoder, TakesItsStepsInOrder) {
  const Step strip = {.kind = Kind::kStrip, .content = "_", .left = 1};
  EXPECT_EQ(Decoded({"_a_", "__b"}, {Replace("_", " ")}), " a   b");
  EXPECT_EQ(Decoded({"_a_", "__b"}, {strip, Replace("_", " ")}), "a  b");
}

TEST(Decoder, StripsEachTokenByItself) {
  EXPECT_EQ(Decoded({"éééa", "éb"}, {{.kind = Kind::kStrip, .content = "é", .left = 2}}), "éab");
  EXPECT_EQ(Decoded({"aéé", "éé", "é"}, {{.kind = Kind::kStrip, .content = "é", .right = 2}}), "a");
}

TEST(Decoder, MakesBytesOfByteTokensOnly) {
  const Step bytes = {.kind = Kind::kByteFallback};
  EXPECT_EQ(Decoded({"<0xE4>", "<0xBD>", "<0xa0>", "<0xZZ>", "<0x1>"}, {bytes}), "你<0xZZ><0x1>");
  EXPECT_EQ(Decoded({"Ġa", "Ċ", "你"}, {{.kind = Kind::kByteLevel}}), " a\n你");
}

TEST(Decoder, DropsMetaspacesOfTheFirstTokenOnly) {
  const Step drops = {.kind = Kind::kMetaspace, .content = "▁", .drop_first = true};
  EXPECT_EQ(Decoded({"▁a▁b", "▁c"}, {drops}), "ab c");
  EXPECT_EQ(Decoded({"▁", "▁c"}, {drops}), " c");
  EXPECT_EQ(Decoded({"▁a", "▁c"}, {{.kind = Kind::kMetaspace, .content = "▁"}}), " a c");
}

TEST(Decoder, TrimsTheTextsBeginningOverTokens) {
  EXPECT_EQ(Decoded({" ", "  a", " b"}, {}, {.left = 1}), "  a b");
  EXPECT_EQ(Decoded({" ", "  a", " b"}, {}, {.left = 2}), " a b");
  EXPECT_EQ(Decoded({" ", "  a", " b"}, {}, {.left = 9}), "a b");
  EXPECT_EQ(Decoded({"a", " b"}, {}, {.left = 9}), "a b");
}

TEST(Decoder, TrimsTheTextsEndOverTokens) {
  EXPECT_EQ(Decoded({"a ", " ", "b", " ", " "}, {}, {.right = 1}), "a  b ");
  EXPECT_EQ(Decoded({"a ", " ", "b", " ", " "}, {}, {.right = 3}), "a  b");
  EXPECT_EQ(Decoded({"   "}, {}, {.left = 1, .right = 1}), " ");
  EXPECT_EQ(Decoded({"  "}, {}, {.left = 9, .right = 9}), "");
}

TEST(Decoder, KnowsNoBytesOfWhatIsNoToken) {
  std::string error, bytes;
  const auto decoder = Decoder::Create({}, {}, {"a"}, 1, &error);
  ASSERT_TRUE(decoder) << error;
  Decoder::Stream stream(*decoder);
  for (scheduler::TokenId id : {-1, 1, 0}) stream.Push(id, &bytes);
  EXPECT_EQ(bytes, "a");
  EXPECT_EQ(decoder->TokenBytes(-1), "");
}

TEST(Decoder, EndsBeyondItsLimit) {
  EXPECT_EQ(Decoded({std::string(400, 'a'), "a"}, {Replace("a", "bbb")}),
            "tokenizer.json: the tokens stand for more than 1000 bytes");
}

}  // namespace
}  // namespace conclave::router

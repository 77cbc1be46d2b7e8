// Settings from outside: JSON that is none, keys of the wrong type or range.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/worker/testing/tiny_checkpoint.h"
#include "worker/model/config.h"
#include "worker/model/json.h"

namespace conclave::worker {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::string JsonError(std::string_view bytes, const JsonLimits& limits = {}) {
  const auto document = ParseJson(bytes, "c.json", limits);
  return document.ok() ? "" : std::string(document.status().message());
}

TEST(Json, SaysWhereItIsWrong) {
  EXPECT_EQ(JsonError(R"({"a": [1, 2.5, "x", null, true, {"b": -1}]})"), "");
  EXPECT_THAT(JsonError(""), HasSubstr("c.json: not JSON at byte 1"));
  EXPECT_THAT(JsonError("{\"a\": }"), HasSubstr("not JSON at byte 7"));
  EXPECT_THAT(JsonError("{} x"), HasSubstr("not JSON at byte 4"));
  EXPECT_THAT(JsonError(R"({"a": NaN})"), HasSubstr("not JSON at byte 7"));
  EXPECT_THAT(JsonError(R"({"a": Infinity})"), HasSubstr("not JSON"));
  EXPECT_THAT(JsonError(R"({"a": 1e999})"), HasSubstr("not JSON"));
  EXPECT_THAT(JsonError("{\"a\": \"\xff\"}"), HasSubstr("not JSON"));
  EXPECT_THAT(JsonError(std::string("{}\0{", 4)), HasSubstr("not JSON at byte 2: a zero byte"));
}

TEST(Json, RefusesAKeyTwiceInOneObjectOnly) {
  EXPECT_THAT(JsonError(R"({"a": 1, "b": {"c": 1, "c": 2}})"),
              HasSubstr("key \"c\" appears twice"));
  EXPECT_THAT(JsonError(R"({"a": 1, "\u0061": 2})"), HasSubstr("key \"a\" appears twice"));
  EXPECT_EQ(JsonError(R"({"a": {"c": 1}, "b": {"c": 1}, "c": [{"c": 1}, {"c": 2}]})"), "");
}

TEST(Json, KeepsItsLimitsExactly) {
  EXPECT_EQ(JsonError("[[[]]]", {.depth = 3}), "");
  EXPECT_THAT(JsonError("[[[]]]", {.depth = 2}), HasSubstr("nested deeper than 2 levels"));
  EXPECT_THAT(JsonError(std::string(1'000'000, '[')), HasSubstr("nested deeper than 32 levels"));
  EXPECT_EQ(JsonError("[1]", {.bytes = 3}), "");
  EXPECT_THAT(JsonError("[1]", {.bytes = 2}), HasSubstr("has 3 bytes, the limit is 2"));
}

TEST(Json, ReadsOnlyRegularFilesThatAreSmall) {
  const testing::TempDir dir;
  testing::WriteFileOrDie(dir.File("a"), "12345");
  EXPECT_EQ(*ReadSmallFile(dir.File("a"), 5), "12345");
  EXPECT_THAT(std::string(ReadSmallFile(dir.File("a"), 4).status().message()),
              HasSubstr("has 5 bytes, the limit is 4"));
  EXPECT_EQ(ReadSmallFile(dir.File("b"), 5).status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(ReadSmallFile(dir.path(), 5).status().message()),
              HasSubstr("is not a regular file"));
  EXPECT_THAT(std::string(ReadSmallFile("/dev/zero", 5).status().message()),
              HasSubstr("is not a regular file"));
}

Config Make(const std::string& json) { return {nlohmann::json::parse(json), "c.json"}; }

TEST(Config, ReadsWhatIsThereAndItsDefaults) {
  Config config =
      Make(R"({"i": 7, "f": 0.5, "s": "x", "b": true, "n": null, "list": [1, 2], "o": {"k": 3}})");
  EXPECT_EQ(config.Int("i", {0, 7}), 7);
  EXPECT_EQ(config.Float("f", {0, 1}), 0.5);
  EXPECT_EQ(config.Float("i", {0, 10}), 7.0);
  EXPECT_EQ(config.String("s"), "x");
  EXPECT_TRUE(config.BoolOr("b", false));
  EXPECT_EQ(config.IntOr("n", 9, {0, 1}), 9);
  EXPECT_EQ(config.FloatOr("absent", 2.0, {0, 1}), 2.0);
  EXPECT_EQ(config.StringOr("n", "y"), "y");
  EXPECT_FALSE(config.BoolOr("absent", false));
  EXPECT_THAT(config.IntsOr("list", {0, 9}, 2), ElementsAre(1, 2));
  EXPECT_THAT(config.IntsOr("i", {0, 9}, 2), ElementsAre(7));
  EXPECT_THAT(config.IntsOr("n", {0, 9}, 2), IsEmpty());
  EXPECT_EQ(config.Object("o").Int("k", {0, 9}), 3);
  EXPECT_FALSE(config.Object("n").Has("k"));
  EXPECT_TRUE(config.status().ok()) << config.status();
}

struct BadSetting {
  const char* name;
  std::function<void(Config&)> read;
  const char* message;
};
void PrintTo(const BadSetting& bad, std::ostream* out) { *out << bad.name; }

class ConfigRefuses : public ::testing::TestWithParam<BadSetting> {};

TEST_P(ConfigRefuses, ByKey) {
  Config config =
      Make(R"({"i": 7, "f": 0.5, "s": "x", "b": true, "n": null, "list": [1, 2], "neg": -1,
                           "big": 18446744073709551615, "o": {"k": 3}})");
  GetParam().read(config);
  EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(config.status().message(), GetParam().message);
}

INSTANTIATE_TEST_SUITE_P(
    All, ConfigRefuses,
    ::testing::Values(BadSetting{"Missing",
                                 [](Config& c) {
                                   EXPECT_EQ(c.Int("x", {3, 9}), 3);
                                 },
                                 "c.json: x is missing"},
                      BadSetting{"Null",
                                 [](Config& c) {
                                   EXPECT_EQ(c.Float("n", {3, 9}), 3);
                                 },
                                 "c.json: n is missing"},
                      BadSetting{"MissingText", [](Config& c) { EXPECT_EQ(c.String("x"), ""); },
                                 "c.json: x is missing"},
                      BadSetting{"FloatForInt",
                                 [](Config& c) {
                                   c.Int("f", {0, 9});
                                 },
                                 "c.json: f is number, expected an integer"},
                      BadSetting{"BoolForInt",
                                 [](Config& c) {
                                   c.Int("b", {0, 9});
                                 },
                                 "c.json: b is boolean, expected an integer"},
                      BadSetting{"TextForInt",
                                 [](Config& c) {
                                   c.IntOr("s", 1, {0, 9});
                                 },
                                 "c.json: s is string, expected an integer"},
                      BadSetting{"TooLarge",
                                 [](Config& c) {
                                   EXPECT_EQ(c.Int("i", {1, 6}), 1);
                                 },
                                 "c.json: i is 7, expected 1 to 6"},
                      BadSetting{"TooSmall",
                                 [](Config& c) {
                                   c.Int("i", {8, 9});
                                 },
                                 "c.json: i is 7, expected 8 to 9"},
                      BadSetting{"Negative",
                                 [](Config& c) {
                                   c.Int("neg", {0, 9});
                                 },
                                 "c.json: neg is -1, expected 0 to 9"},
                      BadSetting{"BeyondInt64",
                                 [](Config& c) {
                                   c.Int("big", {0, 9});
                                 },
                                 "c.json: big is 18446744073709551615, expected 0 to 9"},
                      BadSetting{"TextForFloat",
                                 [](Config& c) {
                                   c.Float("s", {0, 9});
                                 },
                                 "c.json: s is string, expected a number"},
                      BadSetting{"FloatRange",
                                 [](Config& c) {
                                   c.FloatOr("f", 1, {1, 2});
                                 },
                                 "c.json: f is 0.5, expected 1 to 2"},
                      BadSetting{"IntForBool", [](Config& c) { c.BoolOr("i", true); },
                                 "c.json: i is number, expected true or false"},
                      BadSetting{"IntForText", [](Config& c) { c.StringOr("i", ""); },
                                 "c.json: i is number, expected a string"},
                      BadSetting{"LongList",
                                 [](Config& c) {
                                   c.IntsOr("list", {0, 9}, 1);
                                 },
                                 "c.json: list has 2 numbers, the limit is 1"},
                      BadSetting{"ListRange",
                                 [](Config& c) {
                                   c.IntsOr("list", {0, 1}, 2);
                                 },
                                 "c.json: list is 2, expected 0 to 1"},
                      BadSetting{"NoObject",
                                 [](Config& c) {
                                   const Config inner = c.Object("i");
                                   c.Take(inner);
                                 },
                                 "c.json: i: is number, expected an object"},
                      BadSetting{"Absent", [](Config& c) { c.RequireAbsent("o"); },
                                 "c.json: o is set, which is not supported"},
                      BadSetting{"False", [](Config& c) { c.RequireFalse("b"); },
                                 "c.json: b is true, which is not supported"},
                      BadSetting{"OneOf",
                                 [](Config& c) {
                                   c.RequireOneOf("s", "y", {"y", "z"});
                                 },
                                 "c.json: s is \"x\", supported: y, z"},
                      BadSetting{"OnlyTheFirst",
                                 [](Config& c) {
                                   c.Int("x", {0, 1});
                                   c.Int("y", {0, 1});
                                 },
                                 "c.json: x is missing"}),
    [](const auto& one) { return one.param.name; });

}  // namespace
}  // namespace conclave::worker

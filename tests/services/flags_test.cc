#include "services/flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace conclave::services {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class FlagsTest : public ::testing::Test {
 protected:
  FlagsTest() : path_(::testing::TempDir() + "flags_test." + std::to_string(getpid()) + ".json") {
    flags_.Add({"listen", &listen_, "HOST:PORT", "where to listen"});
    flags_.Add(
        {.name = "threads", .target = &threads_, .help = "compute threads", .min = 1, .max = 64});
    flags_.Add({"seed", &seed_, "", "of the noise"});
    flags_.Add({"ratio", &ratio_, "", "a share"});
    flags_.AddOptional({"share", &share_, "", "without it all", 0, 1});
    flags_.Add({"insecure", &insecure_, "", "no TLS"});
    flags_.Add({"stop", &stop_, "TEXT", "stop strings"});
  }
  ~FlagsTest() override { std::filesystem::remove(path_); }

  std::string Config(const std::string& text) {
    std::ofstream(path_) << text;
    return "--config=" + path_;
  }
  std::string Error(const std::vector<std::string>& arguments) {
    const absl::Status status = flags_.Parse(arguments);
    EXPECT_FALSE(status.ok());
    return std::string(status.message());
  }

  std::string path_;
  std::string listen_ = "127.0.0.1:0";
  int32_t threads_ = 2;
  uint64_t seed_ = 0;
  double ratio_ = 0.5;
  double share_ = 0.25;
  bool insecure_ = false;
  std::vector<std::string> stop_ = {"default"};
  Flags flags_{"test", "A test."};
};

TEST_F(FlagsTest, KeepsDefaultsWhereNothingIsSaid) {
  ASSERT_TRUE(flags_.Parse({}).ok());
  EXPECT_EQ(listen_, "127.0.0.1:0");
  EXPECT_THAT(stop_, ElementsAre("default"));
  EXPECT_FALSE(flags_.Given("listen"));
}

TEST_F(FlagsTest, TakesBothSpellingsAndEveryType) {
  ASSERT_TRUE(flags_
                  .Parse({"--listen=a:1", "--threads", "7", "--seed", "18446744073709551615",
                          "--ratio", "-1.5e3", "--insecure", "--stop", "--x", "--stop=y"})
                  .ok());
  EXPECT_EQ(listen_, "a:1");
  EXPECT_EQ(threads_, 7);
  EXPECT_EQ(seed_, 18446744073709551615u);
  EXPECT_EQ(ratio_, -1500.0);
  EXPECT_TRUE(insecure_);
  EXPECT_THAT(stop_, ElementsAre("--x", "y"));
  EXPECT_TRUE(flags_.Given("stop"));
}

TEST_F(FlagsTest, LetsTheCommandLineWinOverTheFile) {
  const std::string config =
      Config(R"({"threads": 3, "listen": "file:1", "stop": ["a", "b"], "insecure": true})");
  ASSERT_TRUE(flags_.Parse({"--threads=5", config, "--stop", "c", "--insecure=false"}).ok());
  EXPECT_EQ(threads_, 5);
  EXPECT_EQ(listen_, "file:1");
  EXPECT_THAT(stop_, ElementsAre("c"));
  EXPECT_FALSE(insecure_);
  EXPECT_TRUE(flags_.Given("listen"));
}

TEST_F(FlagsTest, NamesTheUnknownFlagOrKey) {
  EXPECT_THAT(Error({"--lisen", "x"}), HasSubstr("--lisen"));
  EXPECT_THAT(Error({Config(R"({"lisen": "x"})")}), HasSubstr("\"lisen\""));
}

TEST_F(FlagsTest, RefusesValuesOfTheWrongKindOrRange) {
  EXPECT_THAT(Error({"--threads", "two"}), HasSubstr("--threads"));
  EXPECT_THAT(Error({"--threads", "two"}), HasSubstr("not a number"));
  for (const char* const fraction : {"3.5", "1e1", "nan"}) {
    EXPECT_THAT(Error({"--threads", fraction}), HasSubstr("not a whole number"));
  }
  for (const char* const beyond : {"0", "65", "-1", "99999999999", "99999999999999999999999"}) {
    EXPECT_THAT(Error({"--threads", beyond}), HasSubstr("out of range [1, 64]"));
  }
  EXPECT_EQ(Error({"--seed", "-1"}), "--seed: \"-1\": out of range [0, 18446744073709551615]");
  for (const char* const endless : {"nan", "inf", "-inf", "1e999"}) {
    EXPECT_THAT(Error({"--ratio", endless}), HasSubstr("want a finite number"));
  }
  EXPECT_THAT(Error({"--share", "1.5"}), HasSubstr("out of range [0, 1]"));
  EXPECT_THAT(Error({"--share", "nan"}), HasSubstr("out of range [0, 1]"));
  EXPECT_THAT(Error({"--insecure=yes"}), HasSubstr("true or false"));
  EXPECT_THAT(Error({"--listen"}), HasSubstr("no value"));
  EXPECT_THAT(Error({"stray"}), HasSubstr("stray"));
  EXPECT_THAT(Error({Config(R"({"threads": "2"})")}), HasSubstr("want a number"));
  EXPECT_THAT(Error({Config(R"({"threads": 2.5})")}), HasSubstr("not a whole number"));
  EXPECT_THAT(Error({Config(R"({"stop": "x"})")}), HasSubstr("array of strings"));
}

TEST_F(FlagsTest, RefusesAFileThatIsAbsentMalformedOrTooLarge) {
  EXPECT_THAT(Error({"--config", "/nonexistent/x.json"}), HasSubstr("/nonexistent/x.json"));
  EXPECT_THAT(Error({Config("{\"threads\": 2")}), HasSubstr("not a JSON object"));
  EXPECT_THAT(Error({Config("[1]")}), HasSubstr("not a JSON object"));
  EXPECT_THAT(Error({Config("{\"listen\": \"" + std::string(1 << 20, 'x') + "\"}")}),
              HasSubstr("larger"));
}

TEST_F(FlagsTest, TakesPositionalArgumentsUpToTheirLimit) {
  std::vector<std::string> names;
  flags_.AddPositional(&names, 2, "NAME...");
  ASSERT_TRUE(flags_.Parse({"a", "--threads=3", "--", "--b"}).ok());
  EXPECT_THAT(names, ElementsAre("a", "--b"));
  names.clear();
  EXPECT_THAT(Error({"a", "b", "c"}), HasSubstr("\"c\""));
}

TEST_F(FlagsTest, ShowsEveryFlagWithItsDefaultIfItHasOneInTheHelp) {
  ASSERT_TRUE(flags_.Parse({"--help"}).ok());
  EXPECT_EQ(flags_.request(), Flags::Request::kHelp);
  EXPECT_THAT(flags_.Help(),
              HasSubstr("--listen HOST:PORT\n      where to listen (default 127.0.0.1:0)"));
  EXPECT_THAT(flags_.Help(), HasSubstr("(default 0.5)"));
  EXPECT_THAT(flags_.Help(), HasSubstr("--share\n      without it all\n"));
  EXPECT_THAT(Version(), Not(IsEmpty()));
}

}  // namespace
}  // namespace conclave::services

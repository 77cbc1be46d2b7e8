#include "router/stop_strings.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

namespace conclave::router {
namespace {

struct Outcome {
  std::string text;
  std::optional<std::string> stopped_by;
  friend bool operator==(const Outcome&, const Outcome&) = default;
};

// What goes out if text comes in pieces of piece_bytes.
Outcome Stream(std::vector<std::string> stops, std::string_view text, size_t piece_bytes,
               bool include = false) {
  std::string error;
  auto matcher = StopStrings::Create(std::move(stops), {.include_in_output = include}, &error);
  EXPECT_TRUE(matcher) << error;
  std::string out;
  for (size_t i = 0; i < text.size(); i += piece_bytes) {
    out += matcher->Push(text.substr(i, piece_bytes));
  }
  out += matcher->Flush();
  return {out, matcher->stopped_by()};
}

// The same by its definition: the match that ends first, then the longest.
Outcome Naive(const std::vector<std::string>& stops, std::string_view text, bool include) {
  for (size_t end = 1; end <= text.size(); ++end) {
    const std::string* found = nullptr;
    for (const std::string& stop : stops) {
      if (text.substr(0, end).ends_with(stop) && (!found || stop.size() > found->size())) {
        found = &stop;
      }
    }
    if (found) return {std::string(text.substr(0, include ? end : end - found->size())), *found};
  }
  return {std::string(text), std::nullopt};
}

TEST(StopStrings, EndTheTextBeforeTheFirstMatch) {
  EXPECT_EQ(Stream({"\n\n"}, "one\ntwo\n\nthree", 100), (Outcome{"one\ntwo", "\n\n"}));
  EXPECT_EQ(Stream({"z", "cd"}, "abcdez", 1), (Outcome{"ab", "cd"}));
  EXPECT_EQ(Stream({"abcd", "bc"}, "abcd", 2), (Outcome{"a", "bc"}));
  EXPECT_EQ(Stream({"c", "abc"}, "xabc", 3), (Outcome{"x", "abc"}));
  EXPECT_EQ(Stream({}, "anything", 3), (Outcome{"anything", std::nullopt}));
}

TEST(StopStrings, AreTextWhereTheyMayNotStopYet) {
  std::string error;
  auto matcher = StopStrings::Create({"aba", "END"}, {}, &error);
  EXPECT_EQ(matcher->Push("xEND", false) + matcher->Push("y", false), "xENDy");
  EXPECT_EQ(matcher->Push("ab", false), "");
  EXPECT_EQ(matcher->Push("a", false), "ab") << "its end may begin another";
  EXPECT_EQ(matcher->Push("ba", true), "") << "and here one ends that began before";
  EXPECT_EQ(matcher->stopped_by(), "aba");
}

TEST(StopStrings, GiveOutTheStopStringIfAsked) {
  EXPECT_EQ(Stream({"END"}, "the END is near", 4, true), (Outcome{"the END", "END"}));
}

TEST(StopStrings, HoldBackOnlyWhatMayBeginOne) {
  std::string error;
  auto matcher = StopStrings::Create({"STOP", "\n--"}, {}, &error);
  ASSERT_TRUE(matcher) << error;
  EXPECT_EQ(matcher->Push("a ST"), "a ");
  EXPECT_EQ(matcher->Push(""), "");
  EXPECT_EQ(matcher->Push("ST"), "ST");
  EXPECT_EQ(matcher->Push("x\n-"), "STx");
  EXPECT_EQ(matcher->Push("\n"), "\n-");
  EXPECT_EQ(matcher->Flush(), "\n");
  EXPECT_EQ(matcher->stopped_by(), std::nullopt);
}

TEST(StopStrings, GiveNothingOutOnceStopped) {
  std::string error;
  auto matcher = StopStrings::Create({"."}, {}, &error);
  ASSERT_TRUE(matcher) << error;
  EXPECT_EQ(matcher->Push("a.b"), "a");
  EXPECT_EQ(matcher->Push("c"), "");
  EXPECT_EQ(matcher->Flush(), "");
}

TEST(StopStrings, FindAMatchThatOverlapsItsOwnBeginning) {
  EXPECT_EQ(Stream({"aab"}, "aaaab!", 1), (Outcome{"aa", "aab"}));
  EXPECT_EQ(Stream({"abab c"}, "ababab c", 1), (Outcome{"ab", "abab c"}));
}

TEST(StopStrings, DoNotDependOnHowTheTextIsCut) {
  for (unsigned seed = 0; seed < 500; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    const auto letters = [&random](size_t length) {
      std::string text;
      while (text.size() < length) text += static_cast<char>('a' + random() % 3);
      return text;
    };
    std::vector<std::string> stops;
    for (unsigned i = 0; i < 1 + seed % 3; ++i) stops.push_back(letters(1 + random() % 6));
    const std::string text = letters(random() % 60);
    const bool include = random() % 2 == 0;
    for (size_t piece_bytes : {1, 2, 3, 7, 100}) {
      EXPECT_EQ(Stream(stops, text, piece_bytes, include), Naive(stops, text, include));
    }
  }
}

TEST(StopStrings, RefuseWhatCannotBeMatched) {
  const auto refusal = [](std::vector<std::string> stops) {
    std::string error;
    EXPECT_FALSE(
        StopStrings::Create(std::move(stops), {.stops_max = 2, .stop_bytes_max = 4}, &error));
    return error;
  };
  EXPECT_EQ(refusal({""}), "a stop string is empty");
  EXPECT_EQ(refusal({"\xFF"}), "a stop string is not UTF-8");
  EXPECT_EQ(refusal({"12345"}), "a stop string has 5 bytes, the limit is 4");
  EXPECT_EQ(refusal({"a", "b", "c"}), "3 stop strings, the limit is 2");
}

}  // namespace
}  // namespace conclave::router

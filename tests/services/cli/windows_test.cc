#include <gtest/gtest.h>

#include <set>
#include <vector>

#include "services/cli/input.h"
#include "services/cli/scoring.h"

namespace conclave::services::cli {
namespace {

TEST(Windows, EveryTokenIsScoredOnceExceptFirstOnesWithoutContext) {
  for (size_t tokens = 1; tokens <= 12; ++tokens) {
    for (size_t size = 1; size <= 6; ++size) {
      for (size_t stride = 1; stride <= size; ++stride) {
        SCOPED_TRACE(::testing::Message() << tokens << " by " << size << " every " << stride);
        std::vector<int> scored(tokens, 0);
        std::set<size_t> first;
        for (const Window& window : Windows(tokens, size, stride)) {
          EXPECT_LE(window.end - window.begin, size);
          EXPECT_EQ(window.begin % stride, 0U);
          EXPECT_GT(window.score_from, window.begin);
          first.insert(window.begin);
          for (size_t i = window.score_from; i < window.end; ++i) ++scored[i];
        }
        for (size_t i = 0; i < tokens; ++i) {
          const bool no_context = stride == size ? first.count(i) > 0 : i == 0;
          EXPECT_EQ(scored[i], no_context ? 0 : 1) << i;
        }
      }
    }
  }
}

TEST(Windows, OverlapIsContext) {
  const std::vector<Window> windows = Windows(10, 6, 2);
  ASSERT_EQ(windows.size(), 3U);
  EXPECT_EQ(windows[1].begin, 2U);
  EXPECT_EQ(windows[1].score_from, 6U);  // four tokens of context
  EXPECT_EQ(windows[1].end, 8U);
  EXPECT_EQ(windows[2].end, 10U);
}

TEST(Windows, NoTokensNoWindows) { EXPECT_TRUE(Windows(0, 4, 4).empty()); }

TEST(PieceOf, EndsAfterALineOrElseBetweenCharacters) {
  EXPECT_EQ(PieceOf("abc", 3), 3U);
  EXPECT_EQ(PieceOf("a\nb\ncd", 5), 4U);
  EXPECT_EQ(PieceOf("a\nb\ncd", 4), 4U);
  EXPECT_EQ(PieceOf("a\nb\ncd", 3), 2U);
  EXPECT_EQ(PieceOf("abcd", 3), 3U);
  EXPECT_EQ(PieceOf("a€b", 2), 1U);
  EXPECT_EQ(PieceOf("a€b", 4), 4U);
  EXPECT_EQ(PieceOf("\x80\x80\x80\x80", 2), 1U);  // never nothing
  EXPECT_EQ(PieceOf("", 2), 0U);
}

TEST(ParseTokenIds, TakesCommasAndSpaces) {
  EXPECT_EQ(*ParseTokenIds("1,2,3"), (std::vector<uint32_t>{1, 2, 3}));
  EXPECT_EQ(*ParseTokenIds(" 4 5,\n4294967295\n"), (std::vector<uint32_t>{4, 5, UINT32_MAX}));
  EXPECT_TRUE(ParseTokenIds("")->empty());
  for (const char* const bad : {"x", "1,-2", "1;2", "4294967296", "1.5"}) {
    EXPECT_EQ(ParseTokenIds(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

}  // namespace
}  // namespace conclave::services::cli

#include "services/cli/terminal.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <string>

#include "services/cli/json.h"

namespace conclave::services::cli {
namespace {

TEST(TerminalText, KeepsWholeCharactersHoweverTheyAreCut) {
  const std::string text = "aß€𝄞\n\tz";
  for (size_t cut = 0; cut <= text.size(); ++cut) {
    for (size_t second = cut; second <= text.size(); ++second) {
      TerminalText terminal;
      std::string shown = terminal.Add(text.substr(0, cut));
      shown += terminal.Add(text.substr(cut, second - cut));
      shown += terminal.Add(text.substr(second));
      shown += terminal.End();
      ASSERT_EQ(shown, text) << cut << " " << second;
    }
  }
}

TEST(TerminalText, SpellsOutWhatSteersATerminal) {
  EXPECT_EQ(Printable("\x1b[2J\r\x07\x7f"), "\\x1b[2J\\x0d\\x07\\x7f");
  EXPECT_EQ(Printable("\xC2\x9B"
                      "31m"),
            "\\x9b31m");  // the one-character form of ESC [
  EXPECT_EQ(Printable("a\tb\nc"), "a\tb\nc");
}

TEST(TerminalText, ReplacesWhatIsNotUtf8) {
  EXPECT_EQ(Printable("a\xFF"
                      "b"),
            "a\xEF\xBF\xBD"
            "b");
  EXPECT_EQ(Printable("\xE2\x82"), "\xEF\xBF\xBD");              // cut at the end
  EXPECT_EQ(Printable("\xE2\x82x"), "\xEF\xBF\xBDx");            // cut in the middle
  EXPECT_EQ(Printable("\xC0\x80"), "\xEF\xBF\xBD\xEF\xBF\xBD");  // overlong
}

TEST(Json, FloatsReadBackExactly) {
  std::mt19937 random(4);
  for (int i = 0; i < 20'000; ++i) {
    const auto bits = static_cast<uint32_t>(random());
    float value = 0;
    std::memcpy(&value, &bits, sizeof(value));
    if (!std::isfinite(value)) continue;
    const std::string text = Number(value).dump();
    EXPECT_EQ(std::strtof(text.c_str(), nullptr), value) << text;
  }
}

TEST(Json, WhatIsNotFiniteIsNull) {
  EXPECT_TRUE(Number(NAN).is_null());
  EXPECT_TRUE(Number(-HUGE_VALF).is_null());
  EXPECT_TRUE(Number(HUGE_VAL).is_null());
}

}  // namespace
}  // namespace conclave::services::cli

#pragma once
// Renders a template for tests: with JSON variables, all of whose strings are from outside.

#include <ctime>
#include <nlohmann/json.hpp>
#include <string>

#include "router/chat/chat_template.h"
#include "router/chat/json.h"

namespace conclave::testing {

// 21 January 2025, 13:45:59, a Tuesday; chat_oracle.py lets it be that day too.
inline std::tm Day() {
  std::tm day = {};
  day.tm_year = 125;
  day.tm_mday = 21;
  day.tm_hour = 13;
  day.tm_min = 45;
  day.tm_sec = 59;
  day.tm_wday = 2;
  day.tm_yday = 20;
  return day;
}

struct Rendered {
  std::string text;
  std::string error;   // of loading or rendering; then there is no text
  std::string marked;  // the text with [ ] around what came from outside
};

inline Rendered Render(const std::string& source, const nlohmann::ordered_json& variables = {},
                       const router::chat::ChatLimits& limits = {}) {
  using namespace router::chat;
  Rendered rendered;
  const auto loaded = ChatTemplate::Load(source, limits, &rendered.error);
  if (!loaded) return rendered;
  Work work(limits, Day());
  Variables values;
  for (const auto& [name, value] : variables.items()) {
    const auto parsed = ParseJson(work, value.dump(), &rendered.error);
    if (!parsed) return rendered;
    values.emplace_back(name, *parsed);
  }
  const Text text = loaded->Render(values, work);
  rendered.error = work.error();
  if (work.failed()) return rendered;
  rendered.text = text.bytes();
  size_t done = 0;
  for (const auto& range : text.outside()) {
    rendered.marked += text.bytes().substr(done, range.begin - done) + "[" +
                       text.bytes().substr(range.begin, range.end - range.begin) + "]";
    done = range.end;
  }
  rendered.marked += text.bytes().substr(done);
  return rendered;
}

}  // namespace conclave::testing

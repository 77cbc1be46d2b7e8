// chat_compare LINES...: renders every line of files that tests/reference/chat_oracle.py wrote,
// prints each difference and exits 1 if there was one, 2 if something cannot be read. A line:
// {"template", "variables", "text": what Python's Jinja makes of them; absent: it refuses}.

#include <cstdio>
#include <ctime>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "router/chat/chat_template.h"
#include "router/chat/json.h"

namespace {

using Json = nlohmann::ordered_json;
namespace chat = conclave::router::chat;

int Broken(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  return 2;
}

// What our renderer makes of a line: its text, or "refused: ..." .
struct Outcome {
  bool rendered = false;
  std::string text;  // or the error
};

Outcome Render(const Json& line) {
  Outcome outcome;
  const auto loaded = chat::ChatTemplate::Load(line.at("template").get_ref<const std::string&>(),
                                               {}, &outcome.text);
  if (!loaded) return outcome;
  // 21 January 2025, 13:45:59, a Tuesday: the day the oracle lets it be.
  std::tm now = {};
  now.tm_year = 125;
  now.tm_mday = 21;
  now.tm_hour = 13;
  now.tm_min = 45;
  now.tm_sec = 59;
  now.tm_wday = 2;
  now.tm_yday = 20;
  chat::Work work({}, now);
  chat::Variables variables;
  for (const auto& [name, value] : line.at("variables").items()) {
    const auto parsed = chat::ParseJson(work, value.dump(), &outcome.text);
    if (!parsed) return outcome;
    variables.emplace_back(name, *parsed);
  }
  const chat::Text text = loaded->Render(variables, work);
  outcome.rendered = !work.failed();
  outcome.text = outcome.rendered ? text.bytes() : work.error();
  return outcome;
}

std::string Difference(const Json& line) {
  const Outcome outcome = Render(line);
  const bool expected = line.contains("text");
  if (!expected) return outcome.rendered ? "rendered as " + Json(outcome.text).dump() : "";
  if (!outcome.rendered) return "refused: " + outcome.text;
  const auto& text = line.at("text").get_ref<const std::string&>();
  if (outcome.text == text) return "";
  return "rendered as " + Json(outcome.text).dump() + "\n  expected    " + Json(text).dump();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return Broken("usage: chat_compare LINES...");
  int compared = 0, differing = 0;
  for (int i = 1; i < argc; ++i) {
    std::ifstream lines(argv[i]);
    if (!lines) return Broken(std::string(argv[i]) + " cannot be read");
    std::string source;  // a line without a template has the one before it
    for (std::string text; std::getline(lines, text);) {
      Json line = Json::parse(text, nullptr, false);
      if (!line.is_object()) return Broken("a line is no JSON: " + text.substr(0, 100));
      if (line.contains("template")) source = line["template"];
      line["template"] = source;
      ++compared;
      const std::string difference = Difference(line);
      if (difference.empty()) continue;
      ++differing;
      std::printf("%s\n  %s\n  %s\n", Json(source.substr(0, 200)).dump().c_str(),
                  line.at("variables").dump().substr(0, 300).c_str(), difference.c_str());
    }
  }
  std::printf("%d renderings compared, %d differ\n", compared, differing);
  return differing == 0 && compared > 0 ? 0 : 1;
}

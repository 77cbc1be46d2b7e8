// chat_compare LINES...: renders every line of files that tests/reference/chat_oracle.py wrote,
// prints each difference and exits 1 if there was one, 2 if something cannot be read. A line:
// {"template", "variables", "text": what Python's Jinja makes of them; absent: it refuses}.

#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/router/chat/rendered.h"

namespace {

using Json = nlohmann::ordered_json;

int Broken(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  return 2;
}

std::string Difference(const Json& line) {
  const conclave::testing::Rendered rendered = conclave::testing::Render(
      line.at("template").get_ref<const std::string&>(), line.at("variables"));
  const bool refused = !rendered.error.empty();
  if (!line.contains("text")) return refused ? "" : "rendered as " + Json(rendered.text).dump();
  if (refused) return "refused: " + rendered.error;
  const auto& text = line.at("text").get_ref<const std::string&>();
  if (rendered.text == text) return "";
  return "rendered as " + Json(rendered.text).dump() + "\n  expected    " + Json(text).dump();
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

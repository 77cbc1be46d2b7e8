#include "router/normalizer.h"

#include <utility>

#include "router/white_space.h"

namespace conclave::router {
namespace {

using Step = Normalizer::Step;

std::string Stripped(std::string_view text, const Step& step) {
  if (step.left) text.remove_prefix(LeadingSpace(text));
  if (step.right) text.remove_suffix(TrailingSpace(text));
  return std::string(text);
}

// False and *error: a pattern's limit. Stops where the result exceeds bytes_max.
bool Replace(const Step& step, size_t bytes_max, TextPattern::Scratch& scratch, std::string* text,
             std::string* error) {
  std::string replaced;
  const bool good = step.pattern.front().Cut(
      *text, scratch,
      [&](size_t begin, size_t end, bool matched) {
        replaced += matched ? std::string_view(step.content)
                            : std::string_view(*text).substr(begin, end - begin);
        return replaced.size() <= bytes_max;
      },
      error);
  *text = std::move(replaced);
  return good || text->size() > bytes_max;
}

}  // namespace

bool Normalizer::Apply(std::string_view text, bool continues, size_t bytes_max,
                       TextPattern::Scratch& scratch, std::string* result,
                       std::string* error) const {
  *result = text;
  for (const Step& step : steps_) {
    switch (step.kind) {
      case Step::Kind::kUnicode:
        *result = NormalizeUnicode(*result, step.form);
        break;
      case Step::Kind::kLowercase:
        *result = LowerCase(*result);
        break;
      case Step::Kind::kStrip:
        *result = Stripped(*result, step);
        break;
      case Step::Kind::kPrepend:
        if (!result->empty() && !continues) result->insert(0, step.content);
        break;
      case Step::Kind::kReplace:
        if (!Replace(step, bytes_max, scratch, result, error)) return false;
        break;
    }
    if (result->size() > bytes_max) {
      *error = "the text has, once normalized, more than " + std::to_string(bytes_max) + " bytes";
      return false;
    }
  }
  return true;
}

}  // namespace conclave::router

#pragma once
// Rewrites text before it is cut into words: the normalizer of a tokenizer.json. Immutable once
// made; any thread, one Scratch each.

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "router/text_pattern.h"
#include "router/unicode_normalization.h"

namespace conclave::router {

class Normalizer {
 public:
  struct Step {
    enum class Kind {
      kUnicode,  // NFC, NFD, NFKC, NFKD: form
      kLowercase,
      kStrip,    // white space at the left, the right or both
      kPrepend,  // content before a text that is not empty
      kReplace,  // each match of pattern by content
    };
    Kind kind;
    UnicodeForm form = UnicodeForm::kNfc;
    bool left = false;
    bool right = false;
    std::string content;
    std::vector<TextPattern> pattern;  // exactly one if kReplace
  };

  Normalizer() = default;
  explicit Normalizer(std::vector<Step> steps) : steps_(std::move(steps)) {}

  bool empty() const { return steps_.empty(); }

  // text is UTF-8. continues: it goes on behind bytes that are not UTF-8, so that nothing is
  // prepended to it. False and *error: the result would exceed bytes_max, or a pattern met its
  // limit on this text.
  bool Apply(std::string_view text, bool continues, size_t bytes_max, TextPattern::Scratch& scratch,
             std::string* result, std::string* error) const;

 private:
  std::vector<Step> steps_;
};

}  // namespace conclave::router

#include "router/unicode_normalization.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <optional>
#include <vector>

#include "router/utf8.h"
#include "scheduler/check.h"

namespace conclave::router {
namespace {

struct Range {
  char32_t first;
  char32_t last;  // inclusive
};

// Characters that utf8proc decomposes or reorders and Unicode 9 does not know.
constexpr Range kYounger[] = {
#include "router/unicode_younger.inc"
};

struct LowerRange {
  char32_t first;
  char32_t last;   // inclusive
  int32_t offset;  // to the lower case
};
constexpr LowerRange kLower[] = {
#include "router/unicode_lower.inc"
};

// U+FDFA has 18 characters in compatibility form.
constexpr size_t kDecompositionMax = 32;

template <typename Entry, size_t count>
const Entry* FindRange(const Entry (&ranges)[count], char32_t c) {
  const Entry* after =
      std::upper_bound(std::begin(ranges), std::end(ranges), c,
                       [](char32_t code, const Entry& entry) { return code < entry.first; });
  if (after == std::begin(ranges) || c > std::prev(after)->last) return nullptr;
  return std::prev(after);
}

// Whether c may be the second part of a composition: a mark, or a Hangul vowel or end of syllable.
bool MayCompose(char32_t c) {
  if (c >= 0x1161 && c <= 0x11C2) return true;
  const auto category = utf8proc_get_property(static_cast<utf8proc_int32_t>(c))->category;
  return category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_MC;
}

// What the two characters compose to.
std::optional<char32_t> Compose(char32_t first, char32_t second) {
  if (!MayCompose(second)) return std::nullopt;
  std::array<utf8proc_int32_t, 2> pair = {static_cast<utf8proc_int32_t>(first),
                                          static_cast<utf8proc_int32_t>(second)};
  constexpr auto kOptions = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
  if (utf8proc_normalize_utf32(pair.data(), 2, kOptions) != 1) return std::nullopt;
  const auto composed = static_cast<char32_t>(pair[0]);
  if (FindRange(kYounger, composed) != nullptr) return std::nullopt;
  return composed;
}

// Takes decomposed characters and gives out the form: each starter with its marks in order.
class Composer {
 public:
  explicit Composer(bool compose) : compose_(compose) {}

  void Add(char32_t c, uint8_t combining_class) {
    if (combining_class != 0) return marks_.push_back({c, combining_class});
    if (marks_.size() > 1) SortMarks();
    if (compose_ && starter_) {
      ComposeMarks();
      const auto composed = marks_.empty() ? Compose(*starter_, c) : std::nullopt;
      if (composed) {
        starter_ = composed;
        return;
      }
    }
    Flush();
    starter_ = c;
  }

  std::string Finish() {
    if (marks_.size() > 1) SortMarks();
    if (compose_ && starter_) ComposeMarks();
    Flush();
    return std::move(text_);
  }

 private:
  struct Mark {
    char32_t c;
    uint8_t combining_class;
  };

  void SortMarks() {
    std::stable_sort(marks_.begin(), marks_.end(), [](const Mark& a, const Mark& b) {
      return a.combining_class < b.combining_class;
    });
  }

  // Joins to the starter each mark that none of its class or a higher one stands before.
  void ComposeMarks() {
    size_t kept = 0;
    for (const Mark& mark : marks_) {
      const bool blocked = kept > 0 && marks_[kept - 1].combining_class >= mark.combining_class;
      const auto composed = blocked ? std::nullopt : Compose(*starter_, mark.c);
      if (composed) {
        starter_ = composed;
      } else {
        marks_[kept++] = mark;
      }
    }
    marks_.resize(kept);
  }

  void Flush() {
    if (starter_) AppendUtf8(*starter_, &text_);
    for (const Mark& mark : marks_) AppendUtf8(mark.c, &text_);
    starter_.reset();
    marks_.clear();
  }

  const bool compose_;
  std::string text_;
  std::optional<char32_t> starter_;
  std::vector<Mark> marks_;
};

void AddDecomposed(char32_t c, utf8proc_option_t options, Composer& composer) {
  if (c < 0x80 || FindRange(kYounger, c) != nullptr) return composer.Add(c, 0);
  std::array<utf8proc_int32_t, kDecompositionMax> parts;
  const auto count =
      utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), parts.data(),
                              static_cast<utf8proc_ssize_t>(parts.size()), options, nullptr);
  CONCLAVE_CHECK(count >= 0 && static_cast<size_t>(count) <= parts.size());
  for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
    composer.Add(static_cast<char32_t>(parts[i]),
                 static_cast<uint8_t>(utf8proc_get_property(parts[i])->combining_class));
  }
}

bool IsAscii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return (c & 0x80) == 0; });
}

}  // namespace

std::string NormalizeUnicode(std::string_view text, UnicodeForm form) {
  if (IsAscii(text)) return std::string(text);
  const bool compatible = form == UnicodeForm::kNfkc || form == UnicodeForm::kNfkd;
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE |
                                                      (compatible ? UTF8PROC_COMPAT : 0));
  Composer composer(form == UnicodeForm::kNfc || form == UnicodeForm::kNfkc);
  while (!text.empty()) {
    const Utf8Char c = FirstChar(text);
    AddDecomposed(c.code_point, options, composer);
    text.remove_prefix(c.bytes);
  }
  return composer.Finish();
}

std::string LowerCase(std::string_view text) {
  constexpr char32_t kCapitalIWithDot = 0x130;
  std::string lower;
  lower.reserve(text.size());
  while (!text.empty()) {
    const Utf8Char c = FirstChar(text);
    if (c.code_point == kCapitalIWithDot) {
      lower += "i\xCC\x87";  // the one character whose lower case is two
    } else if (const LowerRange* range = FindRange(kLower, c.code_point)) {
      lower += ToUtf8(static_cast<char32_t>(static_cast<int32_t>(c.code_point) + range->offset));
    } else {
      lower += ToUtf8(
          static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c.code_point))));
    }
    text.remove_prefix(c.bytes);
  }
  return lower;
}

}  // namespace conclave::router

#include "router/pattern_dialect.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <vector>

#include "router/unicode_class.h"
#include "router/utf8.h"

namespace conclave::router {
namespace {

// White_Space, and every other character.
constexpr std::string_view kSpaces = R"(\t-\r\x{85}\p{Z})";
constexpr std::string_view kNoSpaces =
    R"(\x{0}-\x{8}\x{e}-\x{1f}!-\x{84}\x{86}-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff})"
    R"(\x{200b}-\x{2027}\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{10ffff})";
// Beside letters, marks, digits and connectors: fractions and powers of Latin-1, circled letters.
constexpr std::string_view kOtherWord =
    R"(\p{Nl}\p{Pc}\x{b2}\x{b3}\x{b9}\x{bc}-\x{be}\x{24b6}-\x{24e9}\x{1f130}-\x{1f149})"
    R"(\x{1f150}-\x{1f169}\x{1f170}-\x{1f189})";

constexpr std::string_view kCategories[] = {
    "L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M", "Mn", "Mc", "Me", "N",  "Nd", "Nl", "No", "P", "Pc",
    "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "S", "Sm", "Sc", "Sk", "So", "Z",  "Zs", "Zl", "Zp"};

// Members of a class: the characters of a general category.
std::string CategoryMembers(std::string_view category) {
  std::string members = "\\p{" + std::string(category) + "}";
  for (const RecentRange& range : RecentCategories()) {
    if (!std::string_view(range.category).starts_with(category)) continue;
    std::array<char, 32> buffer;
    std::snprintf(buffer.data(), buffer.size(), "\\x{%x}-\\x{%x}",
                  static_cast<unsigned>(range.first), static_cast<unsigned>(range.last));
    members += buffer.data();
  }
  return members;
}

std::string WordMembers() {
  return CategoryMembers("L") + CategoryMembers("M") + CategoryMembers("Nd") +
         std::string(kOtherWord);
}

// An escape, and what it stands for.
struct Escape {
  size_t length = 0;         // of the escape in the pattern
  std::string members;       // as members of a class; empty: it is taken over as it is
  bool negated = false;      // it matches what is not among members
  std::string_view inverse;  // if negated: what it matches, as members; empty: not known
};

size_t HexDigits(std::string_view text, size_t most) {
  const size_t end = text.find_first_not_of("0123456789abcdefABCDEF");
  return std::min({end == std::string_view::npos ? text.size() : end, text.size(), most});
}

// \p{..} or \P{..} of a general category; anything else has no members.
Escape PropertyAt(std::string_view text) {
  const size_t close = text.find('}');
  if (!text.substr(2).starts_with('{') || close == std::string_view::npos) return {2};
  std::string_view name = text.substr(3, close - 3);
  bool negated = text[1] == 'P';
  if (name.starts_with('^')) {
    negated = !negated;
    name.remove_prefix(1);
  }
  if (std::find(std::begin(kCategories), std::end(kCategories), name) == std::end(kCategories)) {
    return {close + 1};
  }
  return {close + 1, CategoryMembers(name), negated};
}

// The escape that text begins with; text[0] is a backslash.
Escape EscapeAt(std::string_view text) {
  constexpr std::string_view kNoHex = R"(\x{0}-/:-@G-`g-\x{10ffff})";
  if (text.size() < 2) return {1};
  switch (text[1]) {
    case 'p':
    case 'P':
      return PropertyAt(text);
    case 's':
      return {2, std::string(kSpaces)};
    case 'S':
      return {2, std::string(kSpaces), true, kNoSpaces};
    case 'w':
    case 'W':
      return {2, WordMembers(), text[1] == 'W'};
    case 'd':
    case 'D':
      return {2, CategoryMembers("Nd"), text[1] == 'D'};
    case 'h':
      return {2, "0-9a-fA-F"};
    case 'H':
      return {2, "0-9a-fA-F", true, kNoHex};
    case 'v':
      return {2, R"(\x{b})"};
    case 'u':
      if (HexDigits(text.substr(2), 4) < 4) return {2};
      return {6, "\\x{" + std::string(text.substr(2, 4)) + "}"};
    case 'x': {
      const size_t close = text.find('}');
      if (text.substr(2).starts_with('{') && close != std::string_view::npos) return {close + 1};
      return {2 + HexDigits(text.substr(2), 2)};
    }
    default:
      return {1 + FirstChar(text.substr(1)).bytes};
  }
}

// {n}, {n,}, {n,m} or {,m} at the beginning of text.
struct Interval {
  size_t length = 0;  // 0: there is none
  std::string bounds;
  bool exact = false;  // {n}
};

Interval IntervalAt(std::string_view text) {
  constexpr std::string_view kDigits = "0123456789";
  const size_t close = text.find('}');
  if (!text.starts_with('{') || close == std::string_view::npos) return {};
  const std::string_view inside = text.substr(1, close - 1);
  const size_t comma = inside.find(',');
  const bool exact = comma == std::string_view::npos;
  const std::string_view least = inside.substr(0, comma);
  const std::string_view most = exact ? std::string_view() : inside.substr(comma + 1);
  if (least.find_first_not_of(kDigits) != std::string_view::npos ||
      most.find_first_not_of(kDigits) != std::string_view::npos || (least.empty() && most.empty()))
    return {};
  const std::string from = least.empty() ? "0" : std::string(least);
  return {close + 1, exact ? from : from + "," + std::string(most), exact};
}

class Translation {
 public:
  Translation(std::string_view pattern, std::string* error) : rest_(pattern), error_(error) {}

  std::optional<std::string> Run() {
    while (!rest_.empty()) {
      if (!Step()) return std::nullopt;
    }
    EndAlternative();
    GuardRuns();
    return std::move(result_);
  }

 private:
  // One of the pattern's alternatives, outside of all groups.
  struct Alternative {
    size_t begin = 0;  // in result_
    std::string run;   // the atom that it begins with, if a greedy + or * follows it
    size_t run_end = 0;
    bool is_run = false;  // and nothing else
  };

  bool Fail(const char* what) {
    *error_ = what;
    return false;
  }

  void Copy(size_t length) {
    result_ += rest_.substr(0, length);
    rest_.remove_prefix(length);
  }

  bool Step() {
    switch (rest_[0]) {
      case '\\':
        return Atom(&Translation::CopyEscape);
      case '[':
        return Atom(&Translation::CopyClass);
      case '(':
        return OpenGroup();
      case ')':
        atom_ = groups_.empty() ? result_.size() : groups_.back();
        if (!groups_.empty()) groups_.pop_back();
        Copy(1);
        return true;
      case '|':
        if (groups_.empty()) EndAlternative();
        Copy(1);
        if (groups_.empty()) alternative_.begin = result_.size();
        return true;
      case '*':
      case '+':
      case '?':
        Quantify();
        return true;
      default:
        if (const Interval interval = IntervalAt(rest_); interval.length > 0) {
          Repeat(interval);
          return true;
        }
        return Atom(&Translation::CopyCharacter);
    }
  }

  bool Atom(bool (Translation::*copy)()) {
    atom_ = result_.size();
    return (this->*copy)();
  }

  bool CopyCharacter() {
    Copy(FirstChar(rest_).bytes);
    return true;
  }

  // Where a word begins or ends, or (\B) where none does; of a word is what \w matches.
  bool CopyBoundary(bool wanted) {
    const std::string word = "[" + WordMembers() + "]";
    const std::string_view ahead = wanted ? "(?!" : "(?=", elsewhere = wanted ? "(?=" : "(?!";
    result_.append("(?:(?<=").append(word).append(")").append(ahead).append(word);
    result_.append(")|(?<!").append(word).append(")").append(elsewhere).append(word).append("))");
    rest_.remove_prefix(2);
    return true;
  }

  bool CopyEscape() {
    if (rest_.starts_with("\\b") || rest_.starts_with("\\B")) return CopyBoundary(rest_[1] == 'b');
    const Escape escape = EscapeAt(rest_);
    if (escape.members.empty()) {
      Copy(std::min(escape.length, rest_.size()));
      return true;
    }
    result_ += (escape.negated ? "[^" : "[") + escape.members + "]";
    rest_.remove_prefix(escape.length);
    return true;
  }

  bool CopyClass() {
    size_t lead = rest_.substr(1).starts_with('^') ? 2 : 1;
    if (rest_.substr(lead).starts_with(']')) ++lead;  // first in a class, it is itself
    Copy(lead);
    while (!rest_.empty() && rest_[0] != ']') {
      if (rest_.starts_with("[:")) {  // [:alpha:]
        const size_t end = rest_.find(":]");
        Copy(end == std::string_view::npos ? 2 : end + 2);
      } else if (rest_[0] == '[' || rest_.starts_with("&&")) {
        return Fail("nests or intersects character classes, which is not supported");
      } else if (rest_[0] == '\\') {
        CopyClassEscape();
      } else {
        Copy(1);
      }
    }
    Copy(std::min<size_t>(1, rest_.size()));
    return true;
  }

  void CopyClassEscape() {
    const Escape escape = EscapeAt(rest_);
    const bool known = !escape.members.empty() && (!escape.negated || !escape.inverse.empty());
    if (!known) return Copy(std::min(escape.length, rest_.size()));
    result_ += escape.negated ? escape.inverse : std::string_view(escape.members);
    rest_.remove_prefix(escape.length);
  }

  // The parenthesis with all that says what kind of group it opens.
  bool OpenGroup() {
    groups_.push_back(result_.size());
    Copy(1);
    if (!rest_.starts_with('?')) return true;
    Copy(1);
    if (rest_.starts_with("<=") || rest_.starts_with("<!")) {
      Copy(2);
    } else if (rest_.starts_with('<')) {
      Copy(std::min(rest_.find('>'), rest_.size() - 1) + 1);
    } else {
      const size_t options = std::min(rest_.find_first_not_of("imx-"), rest_.size());
      if (rest_.substr(0, options).find('m') != std::string_view::npos) {
        return Fail("sets the option m, which is not supported");
      }
      Copy(options);
      if (!rest_.starts_with(')')) Copy(std::min<size_t>(1, rest_.size()));  // : = ! >
    }
    return true;
  }

  // * + or ?, with what makes it lazy or possessive.
  void Quantify() {
    const bool repeats = rest_[0] != '?';
    Copy(1);
    if (rest_.starts_with('?') || rest_.starts_with('+')) return Copy(1);
    const size_t atom_length = result_.size() - 1 - atom_;
    if (!repeats || !groups_.empty() || atom_ != alternative_.begin || result_[atom_] == '(')
      return;
    alternative_.run = result_.substr(atom_, atom_length);
    alternative_.run_end = result_.size();
    alternative_.is_run = result_.back() == '+';
  }

  void Repeat(const Interval& interval) {
    rest_.remove_prefix(interval.length);
    const bool repeated = rest_.starts_with('+') || (interval.exact && rest_.starts_with('?'));
    if (repeated) result_.insert(atom_, "(?:");  // a quantifier of the interval, not a part of it
    result_ += "{" + interval.bounds + "}";
    if (repeated) {
      result_ += ')';
    } else if (rest_.starts_with('?')) {
      Copy(1);
    }
  }

  void EndAlternative() {
    if (alternative_.run_end != result_.size()) alternative_.is_run = false;
    alternatives_.push_back(std::move(alternative_));
    alternative_ = {};
  }

  // An alternative that begins with a run C+ and fails from the run's beginning fails from inside
  // it too: what may follow was tried behind each of the run's characters. Where the pattern has
  // C+ itself as an alternative, the run is matched and nobody comes back into it.
  void GuardRuns() {
    for (size_t i = alternatives_.size(); i-- > 0;) {
      const std::string& run = alternatives_[i].run;
      const bool matched_anyway = std::any_of(
          alternatives_.begin(), alternatives_.end(),
          [&run](const Alternative& other) { return other.is_run && other.run == run; });
      if (run.empty() || matched_anyway) continue;
      result_.insert(alternatives_[i].begin, "(?:\\G|(?<!" + run + "))");
    }
  }

  std::string_view rest_;
  std::string* error_;
  std::string result_;
  size_t atom_ = 0;             // where the last atom begins in result_
  std::vector<size_t> groups_;  // where the open groups begin
  Alternative alternative_;
  std::vector<Alternative> alternatives_;
};

}  // namespace

std::optional<std::string> ToPcre2(std::string_view pattern, std::string* error) {
  return Translation(pattern, error).Run();
}

}  // namespace conclave::router

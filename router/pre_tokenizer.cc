#include "router/pre_tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>
#include <utility>

#include "router/pattern_dialect.h"
#include "router/unicode_class.h"
#include "router/utf8.h"

namespace conclave::router {
namespace {

// Per match: far above what splitting a megabyte takes, far below what a hostile pattern could.
constexpr uint32_t kMatchLimit = 10'000'000;
constexpr uint32_t kHeapLimitKib = 64 * 1024;
constexpr size_t kJitStackBytes = 32 * 1024;
constexpr size_t kJitStackBytesMax = 16 * 1024 * 1024;

template <auto* Free>
struct Freer {
  template <typename T>
  void operator()(T* resource) const {
    Free(resource);
  }
};
using Code = std::unique_ptr<pcre2_code, Freer<pcre2_code_free>>;
using MatchData = std::unique_ptr<pcre2_match_data, Freer<pcre2_match_data_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Freer<pcre2_match_context_free>>;
using JitStack = std::unique_ptr<pcre2_jit_stack, Freer<pcre2_jit_stack_free>>;

std::string Pcre2Message(int code) {
  std::array<PCRE2_UCHAR, 256> buffer{};
  pcre2_get_error_message(code, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

// The length of the word that begins with one of GPT-2's English contractions, or 0.
size_t ContractionAt(std::string_view text) {
  if (text.size() < 2 || text[0] != '\'') return 0;
  switch (text[1]) {
    case 's':
    case 't':
    case 'm':
    case 'd':
      return 2;
    case 'r':
    case 'v':
      return text.size() > 2 && text[2] == 'e' ? 3 : 0;
    case 'l':
      return text.size() > 2 && text[2] == 'l' ? 3 : 0;
    default:
      return 0;
  }
}

// Where the run of unicode_class that begins at from ends.
size_t RunEnd(std::string_view text, size_t from, UnicodeClass unicode_class) {
  while (from < text.size()) {
    const Utf8Char c = FirstChar(text.substr(from));
    if (ClassOf(c.code_point) != unicode_class) break;
    from += c.bytes;
  }
  return from;
}

// \s+(?!\S)|\s+ at text, which begins with a space: a run before a word leaves its last space to
// it.
size_t SpacesAt(std::string_view text) {
  size_t end = 0, last = 0;
  while (end < text.size()) {
    const Utf8Char c = FirstChar(text.substr(end));
    if (ClassOf(c.code_point) != UnicodeClass::kSpace) return last == 0 ? end : last;
    last = end;
    end += c.bytes;
  }
  return end;
}

size_t Gpt2WordAt(std::string_view text) {
  if (const size_t length = ContractionAt(text)) return length;
  const size_t start = text[0] == ' ' && text.size() > 1 ? 1 : 0;
  const UnicodeClass first = ClassOf(FirstChar(text.substr(start)).code_point);
  if (first == UnicodeClass::kSpace) return SpacesAt(text);
  return RunEnd(text, start, first);
}

// Pieces of text in which every number (each: every single one) stands alone.
template <typename Piece>
bool SplitDigits(std::string_view text, bool each, const Piece& piece) {
  size_t start = 0, at = 0;
  bool in_number = false;
  while (at < text.size()) {
    const Utf8Char c = FirstChar(text.substr(at));
    const bool number = ClassOf(c.code_point) == UnicodeClass::kNumber;
    if (at > start && (number != in_number || (number && each))) {
      if (!piece(text.substr(start, at - start))) return false;
      start = at;
    }
    in_number = number;
    at += c.bytes;
  }
  return start == text.size() || piece(text.substr(start));
}

// Calls run(valid, part) for the maximal runs of valid characters and of other bytes.
template <typename Run>
bool SplitByValidity(std::string_view text, const Run& run) {
  size_t start = 0, at = 0;
  bool was_valid = true;
  while (at < text.size()) {
    const Utf8Char c = FirstChar(text.substr(at));
    const bool valid = c.kind == Utf8Char::Kind::kValid;
    if (at > start && valid != was_valid) {
      if (!run(was_valid, text.substr(start, at - start))) return false;
      start = at;
    }
    was_valid = valid;
    at += c.bytes;
  }
  return start == text.size() || run(was_valid, text.substr(start));
}

}  // namespace

void SplitLikeGpt2(std::string_view text, const std::function<void(std::string_view)>& word) {
  while (!text.empty()) {
    const size_t length = Gpt2WordAt(text);
    word(text.substr(0, length));
    text.remove_prefix(length);
  }
}

// Made at the first use and shared by all pieces of the text.
struct PreTokenizer::Matching {
  MatchContext context;
  JitStack jit_stack;
  std::vector<MatchData> data;  // by step

  void Prepare() {
    if (context != nullptr) return;
    context.reset(pcre2_match_context_create(nullptr));
    pcre2_set_match_limit(context.get(), kMatchLimit);
    pcre2_set_heap_limit(context.get(), kHeapLimitKib);
    jit_stack.reset(pcre2_jit_stack_create(kJitStackBytes, kJitStackBytesMax, nullptr));
    pcre2_jit_stack_assign(context.get(), nullptr, jit_stack.get());
  }
};

struct PreTokenizer::Pattern {
  Code code;
};

std::optional<PreTokenizer> PreTokenizer::Create(std::vector<Stage> stages, std::string* error) {
  PreTokenizer result;
  for (Stage& stage : stages) {
    Step step{std::move(stage), nullptr};
    const bool literal = step.stage.kind == Stage::Kind::kLiteral;
    if (literal || step.stage.kind == Stage::Kind::kPattern) {
      std::optional<std::string> pattern = step.stage.pattern;
      if (!literal) pattern = ToPcre2(*pattern, error);
      if (!pattern) return std::nullopt;
      int code = 0;
      PCRE2_SIZE offset = 0;
      const uint32_t options =
          literal ? PCRE2_UTF | PCRE2_LITERAL : PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C;
      Code compiled(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern->data()), pattern->size(),
                                  options, &code, &offset, nullptr));
      if (compiled == nullptr) {
        *error = "pre_tokenizer: the pattern \"" + step.stage.pattern +
                 "\" does not compile: " + Pcre2Message(code) + " at offset " +
                 std::to_string(offset);
        return std::nullopt;
      }
      pcre2_jit_compile(compiled.get(), PCRE2_JIT_COMPLETE);  // without it, matching is only slower
      step.pattern = std::make_shared<Pattern>(Pattern{std::move(compiled)});
    }
    result.steps_.push_back(std::move(step));
  }
  return result;
}

bool PreTokenizer::Split(std::string_view text, const Word& word, std::string* error) const {
  Matching matching;
  return SplitByValidity(text, [&](bool valid, std::string_view part) {
    if (valid) return Run(0, part, matching, word, error);
    word(part);
    return true;
  });
}

bool PreTokenizer::Run(size_t index, std::string_view piece, Matching& matching, const Word& word,
                       std::string* error) const {
  if (index == steps_.size()) {
    word(piece);
    return true;
  }
  const auto next = [&](std::string_view part) {
    return Run(index + 1, part, matching, word, error);
  };
  const Step& step = steps_[index];
  switch (step.stage.kind) {
    case Stage::Kind::kGpt2: {
      bool good = true;
      SplitLikeGpt2(piece, [&](std::string_view part) { good = good && next(part); });
      return good;
    }
    case Stage::Kind::kDigits:
    case Stage::Kind::kEachDigit:
      return SplitDigits(piece, step.stage.kind == Stage::Kind::kEachDigit, next);
    case Stage::Kind::kPrefixSpace:
      if (piece.starts_with(' ')) return next(piece);
      return next(" " + std::string(piece));
    case Stage::Kind::kPattern:
    case Stage::Kind::kLiteral:
      break;
  }

  matching.Prepare();
  matching.data.resize(steps_.size());
  const pcre2_code* code = step.pattern->code.get();
  MatchData& data = matching.data[index];
  if (data == nullptr) data.reset(pcre2_match_data_create_from_pattern(code, nullptr));
  size_t done = 0, from = 0;
  while (from <= piece.size()) {
    const int matched = pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(piece.data()), piece.size(),
                                    from, PCRE2_NO_UTF_CHECK, data.get(), matching.context.get());
    if (matched == PCRE2_ERROR_NOMATCH) break;
    if (matched < 0) {
      *error = "the tokenizer's pattern \"" + step.stage.pattern +
               "\" cannot be matched in this text: " + Pcre2Message(matched);
      return false;
    }
    const size_t* ends = pcre2_get_ovector_pointer(data.get());
    const size_t first = ends[0], last = ends[1];
    if (first > done && !next(piece.substr(done, first - done))) return false;
    if (last > first && !next(piece.substr(first, last - first))) return false;
    done = last > first ? last : first;
    from = done;
    if (last <= first) {  // an empty match: look on behind the next character
      if (from == piece.size()) break;
      from += FirstChar(piece.substr(from)).bytes;
    }
  }
  return done == piece.size() || next(piece.substr(done));
}

}  // namespace conclave::router

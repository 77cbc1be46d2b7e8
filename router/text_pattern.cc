#include "router/text_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>
#include <utility>

#include "router/pattern_dialect.h"
#include "router/utf8.h"

namespace conclave::router {
namespace {

// Per match: far above what splitting a megabyte takes, far below what a hostile pattern could.
constexpr uint32_t kMatchLimit = 10'000'000;
constexpr uint32_t kHeapLimitKib = 64 * 1024;
constexpr size_t kJitStackBytes = 32 * 1024;
constexpr size_t kJitStackBytesMax = 16 * 1024 * 1024;
// A message quotes no more of a pattern than this.
constexpr size_t kQuotedBytes = 64;

template <auto* Free>
struct Freer {
  template <typename T>
  void operator()(T* resource) const {
    Free(resource);
  }
};
using CompiledCode = std::unique_ptr<pcre2_code, Freer<pcre2_code_free>>;
using CompileContext = std::unique_ptr<pcre2_compile_context, Freer<pcre2_compile_context_free>>;
using MatchData = std::unique_ptr<pcre2_match_data, Freer<pcre2_match_data_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Freer<pcre2_match_context_free>>;
using JitStack = std::unique_ptr<pcre2_jit_stack, Freer<pcre2_jit_stack_free>>;

std::string Pcre2Message(int code) {
  std::array<PCRE2_UCHAR, 256> buffer{};
  pcre2_get_error_message(code, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

PCRE2_SPTR Subject(std::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

std::string Quoted(std::string_view pattern) {
  const bool whole = pattern.size() <= kQuotedBytes;
  return '"' + ReplaceInvalidUtf8(pattern.substr(0, kQuotedBytes)) + (whole ? "\"" : "...\"");
}

}  // namespace

struct TextPattern::Code {
  CompiledCode pcre2;
};

struct TextPattern::Scratch::Matching {
  MatchContext context{pcre2_match_context_create(nullptr)};
  JitStack jit_stack{pcre2_jit_stack_create(kJitStackBytes, kJitStackBytesMax, nullptr)};
  MatchData data{pcre2_match_data_create(1, nullptr)};  // the whole match only

  Matching() {
    pcre2_set_match_limit(context.get(), kMatchLimit);
    pcre2_set_heap_limit(context.get(), kHeapLimitKib);
    pcre2_jit_stack_assign(context.get(), nullptr, jit_stack.get());
  }
};

TextPattern::Scratch::Scratch() = default;
TextPattern::Scratch::~Scratch() = default;

std::optional<TextPattern> TextPattern::Literal(std::string literal, std::string* error) {
  if (literal.empty()) {
    *error = "the pattern is empty";
    return std::nullopt;
  }
  return TextPattern(std::move(literal), nullptr);
}

std::optional<TextPattern> TextPattern::Regex(std::string regex, std::string* error) {
  const std::optional<std::string> pattern = ToPcre2(regex, error);
  if (!pattern) {
    *error = "the pattern " + Quoted(regex) + " " + *error;
    return std::nullopt;
  }
  const CompileContext context(pcre2_compile_context_create(nullptr));
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int code = 0;
  PCRE2_SIZE offset = 0;
  // In Oniguruma ^ and $ are those of a line.
  constexpr uint32_t kOptions = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
  CompiledCode compiled(
      pcre2_compile(Subject(*pattern), pattern->size(), kOptions, &code, &offset, context.get()));
  if (compiled == nullptr) {
    *error = "the pattern " + Quoted(regex) + " does not compile: " + Pcre2Message(code);
    return std::nullopt;
  }
  pcre2_jit_compile(compiled.get(), PCRE2_JIT_COMPLETE);  // without it, matching is only slower
  return TextPattern(std::move(regex), std::make_shared<const Code>(Code{std::move(compiled)}));
}

TextPattern::Found TextPattern::Next(std::string_view text, size_t from, Scratch& scratch,
                                     Span* span, std::string* error) const {
  if (code_ == nullptr) {
    const size_t found = text.find(source_, from);
    if (found == std::string_view::npos) return Found::kNone;
    *span = {found, found + source_.size()};
    return Found::kMatch;
  }
  if (scratch.matching_ == nullptr) scratch.matching_ = std::make_unique<Scratch::Matching>();
  const Scratch::Matching& matching = *scratch.matching_;
  const int matched = pcre2_match(code_->pcre2.get(), Subject(text), text.size(), from,
                                  PCRE2_NO_UTF_CHECK, matching.data.get(), matching.context.get());
  if (matched == PCRE2_ERROR_NOMATCH) return Found::kNone;
  if (matched < 0) {
    *error = "the tokenizer's pattern " + Quoted(source_) +
             " cannot be matched in this text: " + Pcre2Message(matched);
    return Found::kLimit;
  }
  const size_t* ends = pcre2_get_ovector_pointer(matching.data.get());
  *span = {ends[0], ends[1]};
  return Found::kMatch;
}

bool TextPattern::Cut(std::string_view text, Scratch& scratch, const Part& part,
                      std::string* error) const {
  size_t done = 0;  // where the last match ended
  bool matched_before = false;
  for (size_t from = 0; from <= text.size();) {
    Span span{};
    const Found found = Next(text, from, scratch, &span, error);
    if (found == Found::kLimit) return false;
    if (found == Found::kNone) break;
    if (span.begin == span.end && matched_before && span.end == done) {
      // Nothing, right behind the last match: look on behind the next character.
      from += from == text.size() ? 1 : FirstChar(text.substr(from)).bytes;
      continue;
    }
    if (span.begin > done && !part(done, span.begin, false)) return false;
    if (!part(span.begin, span.end, true)) return false;
    from = done = span.end;
    matched_before = true;
  }
  return done == text.size() || part(done, text.size(), false);
}

}  // namespace conclave::router

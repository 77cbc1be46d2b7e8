#pragma once
// A pattern of a tokenizer.json, {"String": ...} or {"Regex": ...}, and where it occurs in a text,
// as Hugging Face's tokenizers has it: leftmost first, and an empty match only where no match ends.
// Immutable once made; any thread, one Scratch each.

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace conclave::router {

class TextPattern {
 public:
  // A part of the text from begin to end, which the pattern matched or which lies between matches.
  // False ends the search.
  using Part = std::function<bool(size_t begin, size_t end, bool matched)>;

  // What matching needs besides, for one thread at a time. Made at its first use; serves any
  // number of patterns.
  class Scratch {
   public:
    Scratch();
    ~Scratch();

   private:
    friend class TextPattern;
    struct Matching;
    std::unique_ptr<Matching> matching_;
  };

  // nullopt and *error: the literal is empty.
  static std::optional<TextPattern> Literal(std::string literal, std::string* error);
  // A regular expression in Oniguruma's syntax (pattern_dialect.h), matched by PCRE2. nullopt and
  // *error: it does not compile.
  static std::optional<TextPattern> Regex(std::string regex, std::string* error);

  // Calls part for all of text, which is UTF-8, in order. False: part returned false, or *error is
  // set because the regular expression met its match or memory limit on this text.
  bool Cut(std::string_view text, Scratch& scratch, const Part& part, std::string* error) const;

 private:
  struct Code;  // a compiled regular expression (UTF, UCP, JIT where available)
  struct Span {
    size_t begin;
    size_t end;
  };
  enum class Found { kMatch, kNone, kLimit };

  TextPattern(std::string source, std::shared_ptr<const Code> code)
      : source_(std::move(source)), code_(std::move(code)) {}
  // The first match that begins at from or later.
  Found Next(std::string_view text, size_t from, Scratch& scratch, Span* span,
             std::string* error) const;

  std::string source_;
  std::shared_ptr<const Code> code_;  // null: source_ is a literal
};

}  // namespace conclave::router

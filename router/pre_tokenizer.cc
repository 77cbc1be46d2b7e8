#include "router/pre_tokenizer.h"

#include <algorithm>
#include <utility>

#include "router/gpt2_words.h"
#include "router/unicode_class.h"
#include "router/utf8.h"

namespace conclave::router {
namespace {

using Behavior = PreTokenizer::Behavior;
using Part = TextPattern::Part;

// Joins matches to what is beside them as a Behavior wants it, and gives out the pieces.
class Joiner {
 public:
  using Piece = std::function<bool(size_t begin, size_t end)>;

  Joiner(Behavior behavior, bool inverted, const Piece& piece)
      : behavior_(behavior), inverted_(inverted), piece_(piece) {}

  // False as soon as a piece returned false.
  bool Add(size_t begin, size_t end, bool matched) {
    matched = matched != inverted_;
    if (behavior_ == Behavior::kIsolated) return Give(begin, end);
    if (behavior_ == Behavior::kRemoved) return matched || Give(begin, end);
    if (has_piece_ && Joins(matched)) {
      end_ = end;
    } else {
      if (!Flush()) return false;
      begin_ = begin;
      end_ = end;
      has_piece_ = true;
    }
    last_matched_ = matched;
    return true;
  }

  bool Flush() { return !std::exchange(has_piece_, false) || Give(begin_, end_); }

 private:
  bool Joins(bool matched) const {
    if (behavior_ == Behavior::kContiguous) return matched == last_matched_;
    if (behavior_ == Behavior::kMergedWithPrevious) return matched && !last_matched_;
    return !matched && last_matched_;  // kMergedWithNext
  }

  bool Give(size_t begin, size_t end) { return begin == end || piece_(begin, end); }

  const Behavior behavior_;
  const bool inverted_;
  const Piece& piece_;
  bool has_piece_ = false;
  size_t begin_ = 0;
  size_t end_ = 0;
  bool last_matched_ = false;
};

// Calls part for each character of text that matches, and for what lies between.
template <typename Matches>
bool CutAtCharacters(std::string_view text, const Matches& matches, const Part& part) {
  size_t done = 0;
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = FirstChar(text.substr(at));
    if (matches(c.code_point)) {
      if (at > done && !part(done, at, false)) return false;
      if (!part(at, at + c.bytes, true)) return false;
      done = at + c.bytes;
    }
    at += c.bytes;
  }
  return done == text.size() || part(done, text.size(), false);
}

bool CutLikeGpt2(std::string_view text, const Part& part) {
  for (size_t at = 0; at < text.size();) {
    const size_t end = at + Gpt2WordAt(text.substr(at));
    if (!part(at, end, true)) return false;
    at = end;
  }
  return true;
}

std::string WithSpacesReplaced(std::string_view text, std::string_view replacement) {
  std::string replaced;
  replaced.reserve(text.size());
  for (char c : text) {
    if (c == ' ') {
      replaced += replacement;
    } else {
      replaced += c;
    }
  }
  return replaced;
}

}  // namespace

// One Split(): the pieces of a stage go to the next one, depth first.
struct PreTokenizer::Run {
  const std::vector<Stage>& stages;
  TextPattern::Scratch& scratch;
  const Word& word;
  std::string* error;

  bool From(size_t index, std::string_view piece, PieceStart start) {
    if (index == stages.size()) {
      word(piece);
      return true;
    }
    const Stage& stage = stages[index];
    if (stage.kind == Stage::Kind::kPrefixSpace) return PrefixSpace(index, piece, start);
    if (stage.kind == Stage::Kind::kMetaspace) return Metaspace(index, piece, start);
    const Joiner::Piece next = [&](size_t begin, size_t end) {
      return From(index + 1, piece.substr(begin, end - begin),
                  begin == 0 ? start : PieceStart::kPiece);
    };
    Joiner joiner(stage.behavior, stage.inverted, next);
    return Cut(stage, piece,
               [&joiner](size_t begin, size_t end, bool matched) {
                 return joiner.Add(begin, end, matched);
               }) &&
           joiner.Flush();
  }

  bool Cut(const Stage& stage, std::string_view piece, const Part& part) {
    switch (stage.kind) {
      case Stage::Kind::kGpt2:
        return CutLikeGpt2(piece, part);
      case Stage::Kind::kDigits:
        return CutAtCharacters(piece, IsDigit, part);
      case Stage::Kind::kWhiteSpace:
        return CutAtCharacters(
            piece, [](char32_t c) { return ClassOf(c) == UnicodeClass::kSpace; }, part);
      default:
        return stage.pattern.front().Cut(piece, scratch, part, error);
    }
  }

  bool PrefixSpace(size_t index, std::string_view piece, PieceStart start) {
    if (piece.starts_with(' ') || start == PieceStart::kBroken) {
      return From(index + 1, piece, start);
    }
    return From(index + 1, " " + std::string(piece), start);
  }

  bool Metaspace(size_t index, std::string_view piece, PieceStart start) {
    const Stage& stage = stages[index];
    std::string text = WithSpacesReplaced(piece, stage.replacement);
    const bool prepends =
        (stage.prepend == Stage::Prepend::kAlways && start != PieceStart::kBroken) ||
        (stage.prepend == Stage::Prepend::kFirst && start == PieceStart::kText);
    if (prepends && !text.starts_with(stage.replacement)) text.insert(0, stage.replacement);
    if (!stage.split) return From(index + 1, text, start);
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = std::min(text.find(stage.replacement, begin + 1), text.size());
      const std::string_view part = std::string_view(text).substr(begin, end - begin);
      if (!From(index + 1, part, begin == 0 ? start : PieceStart::kPiece)) return false;
      begin = end;
    }
    return true;
  }
};

bool PreTokenizer::Split(std::string_view text, PieceStart start, TextPattern::Scratch& scratch,
                         const Word& word, std::string* error) const {
  return text.empty() || Run{stages_, scratch, word, error}.From(0, text, start);
}

}  // namespace conclave::router

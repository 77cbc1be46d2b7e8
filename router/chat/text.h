#pragma once
// A string of a chat template that remembers which of its bytes a request brought: whatever a
// template does to a message (cuts, trims, joins, escapes it), what is left of it is still known to
// be the message's. UTF-8 throughout; characters are code points, as Python counts them. One thread
// at a time; a const Text any thread.

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "router/added_tokens.h"

namespace conclave::router::chat {

class Text {
 public:
  Text() = default;
  explicit Text(std::string_view ours) : bytes_(ours) {}
  static Text FromOutside(std::string_view bytes);

  const std::string& bytes() const { return bytes_; }
  size_t size() const { return bytes_.size(); }
  // With what it remembers of them.
  size_t held_bytes() const { return bytes_.size() + outside_.size() * sizeof(ByteRange); }
  bool empty() const { return bytes_.empty(); }
  // What a request brought: sorted, disjoint, none empty.
  const std::vector<ByteRange>& outside() const { return outside_; }
  bool IsOutside(size_t at) const;

  void Append(std::string_view ours) { bytes_ += ours; }
  void Append(const Text& text) { AppendPart(text, 0, text.size()); }
  void AppendPart(const Text& text, size_t begin, size_t end);
  // Bytes that were made of the one at `source` of `text` (an escape of it, say).
  void AppendMade(std::string_view bytes, const Text& text, size_t source);
  Text Part(size_t begin, size_t end) const;

 private:
  void MarkOutside(size_t begin, size_t end);

  std::string bytes_;
  std::vector<ByteRange> outside_;
};

// Code points in bytes.
size_t CharacterCount(std::string_view bytes);
// Where the character number `index` begins; size() if there are no more than that.
size_t CharacterOffset(std::string_view bytes, size_t index);

// Where `what` (not empty) first is in `in` at or after `from`, or npos. Every byte of `in` is
// compared with at most 256 of `what`.
size_t FindBytes(std::string_view in, std::string_view what, size_t from = 0);

}  // namespace conclave::router::chat

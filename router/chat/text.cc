#include "router/chat/text.h"

#include <algorithm>
#include <cstring>

namespace conclave::router::chat {
namespace {

bool IsContinuation(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; }

}  // namespace

Text Text::FromOutside(std::string_view bytes) {
  Text text(bytes);
  text.MarkOutside(0, bytes.size());
  return text;
}

void Text::MarkOutside(size_t begin, size_t end) {
  if (begin == end) return;
  if (!outside_.empty() && outside_.back().end == begin) {
    outside_.back().end = end;
  } else {
    outside_.push_back({begin, end});
  }
}

bool Text::IsOutside(size_t at) const {
  const auto next = std::partition_point(outside_.begin(), outside_.end(),
                                         [&](const ByteRange& range) { return range.end <= at; });
  return next != outside_.end() && next->begin <= at;
}

void Text::AppendPart(const Text& text, size_t begin, size_t end) {
  const size_t shift = bytes_.size();
  bytes_.append(text.bytes_, begin, end - begin);
  auto range =
      std::partition_point(text.outside_.begin(), text.outside_.end(),
                           [&](const ByteRange& candidate) { return candidate.end <= begin; });
  for (; range != text.outside_.end() && range->begin < end; ++range) {
    MarkOutside(std::max(range->begin, begin) - begin + shift,
                std::min(range->end, end) - begin + shift);
  }
}

void Text::AppendMade(std::string_view bytes, const Text& text, size_t source) {
  const size_t begin = bytes_.size();
  bytes_ += bytes;
  if (text.IsOutside(source)) MarkOutside(begin, bytes_.size());
}

Text Text::Part(size_t begin, size_t end) const {
  Text part;
  part.AppendPart(*this, begin, end);
  return part;
}

size_t CharacterCount(std::string_view bytes) {
  return bytes.size() -
         static_cast<size_t>(std::count_if(bytes.begin(), bytes.end(), IsContinuation));
}

size_t CharacterOffset(std::string_view bytes, size_t index) {
  size_t at = 0;
  for (; at < bytes.size(); ++at) {
    if (IsContinuation(bytes[at])) continue;
    if (index-- == 0) return at;
  }
  return at;
}

size_t FindBytes(std::string_view in, std::string_view what, size_t from) {
  if (from > in.size()) return std::string_view::npos;
  const void* const found = ::memmem(in.data() + from, in.size() - from, what.data(), what.size());
  if (found == nullptr) return std::string_view::npos;
  return static_cast<size_t>(static_cast<const char*>(found) - in.data());
}

}  // namespace conclave::router::chat

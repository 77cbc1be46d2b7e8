#include "services/exchange/link.h"

namespace conclave::services {

std::string_view NameOf(Loss loss) {
  static constexpr std::string_view kNames[kLosses] = {
      "ended", "silent", "header", "body", "sequence", "fenced", "ring", "replaced", "forgotten"};
  return kNames[static_cast<size_t>(loss)];
}

std::optional<Loss> FrameCheck::Header(std::span<const std::byte, worker::kFrameHeaderBytes> bytes,
                                       worker::FrameHeader& header) {
  const auto parsed = worker::ParseHeader(bytes, limits_);
  if (!parsed.ok()) return Loss::kHeader;
  if (parsed->from != from_ || parsed->to != to_) return Loss::kFenced;
  if (parsed->sequence != sequence_ + 1) return Loss::kSequence;
  if (hashed_ && parsed->body_bytes != 0 && parsed->body_hash == 0) return Loss::kHeader;
  ++sequence_;
  header = *parsed;
  return std::nullopt;
}

std::optional<Loss> FrameCheck::Body(const worker::FrameHeader& header,
                                     std::span<const std::byte> body) const {
  if (worker::CheckBody(header, body, limits_).ok()) return std::nullopt;
  return Loss::kBody;
}

}  // namespace conclave::services

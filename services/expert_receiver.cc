#include "services/expert_receiver.h"

#include <utility>

#include "absl/strings/str_format.h"
#include "worker/sha256.h"
#include "worker/status.h"

namespace conclave::services {

absl::Status ExpertReceiver::Begin(const v1::ExpertHeader& header) {
  if (header.bytes() != bytes_) {
    return absl::InvalidArgumentError(
        absl::StrFormat("it tells of %d bytes, the expert has %d", header.bytes(), bytes_));
  }
  if (header.sha256().size() != worker::Sha256::kBytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("it tells a digest of %d bytes", header.sha256().size()));
  }
  CONCLAVE_ASSIGN_OR_RETURN(memory_, worker::SealedMemory::Create(name_, bytes_));
  sha256_ = header.sha256();
  return absl::OkStatus();
}

absl::Status ExpertReceiver::Take(const v1::ExpertChunk& chunk) {
  if (chunk.has_header() == memory_.has_value()) {
    return absl::InvalidArgumentError(memory_ ? "its header comes twice"
                                              : "it does not begin with a header");
  }
  if (chunk.has_header()) CONCLAVE_RETURN_IF_ERROR(Begin(chunk.header()));
  // One that brings nothing could go on for ever.
  if (chunk.data().empty()) return absl::InvalidArgumentError("a message brings no bytes");
  return memory_->Append(chunk.data());
}

absl::StatusOr<worker::SealedMemory> ExpertReceiver::Finish() {
  if (!memory_) return absl::InvalidArgumentError("it ended before it began");
  CONCLAVE_RETURN_IF_ERROR(memory_->Seal());
  CONCLAVE_ASSIGN_OR_RETURN(const std::string sha256, memory_->Sha256());
  if (sha256 != sha256_) return absl::DataLossError("its bytes are not those of its SHA-256");
  return *std::move(memory_);
}

}  // namespace conclave::services

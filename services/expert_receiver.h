#pragma once
// An expert as it arrives from another worker: every message is checked against what is expected
// before memory is taken for it, and the whole against the digest that was told before it. Knows no
// connection. One thread.

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "conclave/v1/worker.pb.h"
#include "worker/experts/sealed_memory.h"

namespace conclave::services {

class ExpertReceiver {
 public:
  // Of so many bytes; `name` is of the memory they fill.
  ExpertReceiver(std::string name, uint64_t bytes) : name_(std::move(name)), bytes_(bytes) {}

  // INVALID_ARGUMENT: a message that cannot be the next one; RESOURCE_EXHAUSTED: no memory. Nothing
  // can follow an error.
  absl::Status Take(const v1::ExpertChunk& chunk);
  // After the last one: sealed and verified. INVALID_ARGUMENT: bytes are missing; DATA_LOSS: they
  // are not those that were told.
  absl::StatusOr<worker::SealedMemory> Finish();

 private:
  absl::Status Begin(const v1::ExpertHeader& header);

  const std::string name_;
  const uint64_t bytes_;
  std::string sha256_;
  std::optional<worker::SealedMemory> memory_;
};

}  // namespace conclave::services

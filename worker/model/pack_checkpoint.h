#pragma once
// Checkpoints written anew with their experts packed: what a worker would do with each expert
// whenever it reads it, done once. One thread calls.

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "worker/device/tensor.h"

namespace conclave::worker {

struct PackOptions {
  DType experts_as = DType::kMxInt8;
  int threads = 1;
  // Of the bytes that are written, how many are; between tensors.
  std::function<void(uint64_t done, uint64_t total)> progress;
};

// Writes directory `to`, which is not there, from the checkpoint in `from`: every matrix of an
// expert, and of a layer's shared one, as two tensors, {name}_blocks and {name}_scales, in the file
// and place where it was; all other tensors and files as they are; config.json with a
// quantization_config that says so, and SHA256SUMS anew where there was one. Directories, and
// safetensors that are no part of the model, are left out. `to` is there whole or not at all; it
// takes a tensor's memory.
//
// As Model::Load; FAILED_PRECONDITION: it is packed or FP8; ALREADY_EXISTS: `to` is there;
// RESOURCE_EXHAUSTED: too little room on that disk; UNAVAILABLE: it cannot be written.
absl::Status PackCheckpoint(const std::string& from, const std::string& to,
                            const PackOptions& options);

}  // namespace conclave::worker

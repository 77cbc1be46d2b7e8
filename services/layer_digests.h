#pragma once
// What the cluster's checkpoint is, asked by a worker whose own lacks experts: that of whoever
// serves with the same settings and dense weights.

#include <grpcpp/channel.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace conclave::services {

// Waits for a worker with this dense digest to be in the scheduler's view; the digests of its
// layers' experts. FAILED_PRECONDITION: a worker that lives serves another checkpoint; UNAVAILABLE:
// nobody was there within `patience`. Blocks.
absl::StatusOr<std::vector<std::string>> AskLayerDigests(
    const std::shared_ptr<grpc::Channel>& scheduler, const std::string& self,
    const std::string& dense, std::chrono::milliseconds patience);

}  // namespace conclave::services

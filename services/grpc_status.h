#pragma once
// absl::Status and grpc::Status: the same codes, the same numbers; plus the pushback that tells a
// refused client when to come back (gRPC's retry design, A6).

#include <grpcpp/client_context.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/status.h>

#include <chrono>
#include <optional>

#include "absl/status/status.h"

namespace conclave::services {

// Messages travel in a trailer, so they are cut at this many bytes.
inline constexpr size_t kMaxStatusMessageBytes = 1024;

grpc::Status ToGrpc(const absl::Status& status);
absl::Status FromGrpc(const grpc::Status& status);
// From the wire (End.code): a number that is no code, or that says OK, is UNKNOWN.
absl::Status FromCode(int code, const std::string& message);

// Adds grpc-retry-pushback-ms to the trailers; before the call is finished.
void SetRetryPushback(grpc::ServerContextBase& context, std::chrono::milliseconds after);
// What the server said, once the call has ended.
std::optional<std::chrono::milliseconds> RetryPushback(const grpc::ClientContext& context);

}  // namespace conclave::services

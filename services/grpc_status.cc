#include "services/grpc_status.h"

#include <charconv>
#include <string>

namespace conclave::services {
namespace {

constexpr char kPushbackKey[] = "grpc-retry-pushback-ms";

}  // namespace

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const std::string message(status.message().substr(0, kMaxStatusMessageBytes));
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), message);
}

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  return FromCode(static_cast<int>(status.error_code()), status.error_message());
}

absl::Status FromCode(int code, const std::string& message) {
  const bool known = code > 0 && code <= static_cast<int>(absl::StatusCode::kUnauthenticated);
  return absl::Status(known ? static_cast<absl::StatusCode>(code) : absl::StatusCode::kUnknown,
                      message.substr(0, kMaxStatusMessageBytes));
}

void SetRetryPushback(grpc::ServerContextBase& context, std::chrono::milliseconds after) {
  context.AddTrailingMetadata(kPushbackKey, std::to_string(after.count()));
}

std::optional<std::chrono::milliseconds> RetryPushback(const grpc::ClientContext& context) {
  const auto& trailers = context.GetServerTrailingMetadata();
  const auto found = trailers.find(kPushbackKey);
  if (found == trailers.end()) return std::nullopt;
  int64_t milliseconds = 0;
  const grpc::string_ref text = found->second;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), milliseconds);
  if (error != std::errc() || stop != text.data() + text.size() || milliseconds < 0)
    return std::nullopt;
  return std::chrono::milliseconds(milliseconds);
}

}  // namespace conclave::services

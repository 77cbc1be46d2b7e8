#include "services/pushback.h"

#include <charconv>
#include <string>

#include "absl/strings/cord.h"

namespace conclave::services {
namespace {

constexpr char kPayload[] = "grpc-retry-pushback-ms";

}  // namespace

absl::Status WithPushback(absl::Status status, scheduler::Micros after) {
  const auto milliseconds = std::chrono::duration_cast<std::chrono::milliseconds>(after).count();
  status.SetPayload(kPayload, absl::Cord(std::to_string(milliseconds)));
  return status;
}

std::optional<std::chrono::milliseconds> PushbackOf(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kPayload);
  if (!payload) return std::nullopt;
  const std::string text(*payload);
  int64_t milliseconds = 0;
  std::from_chars(text.data(), text.data() + text.size(), milliseconds);
  return std::chrono::milliseconds(milliseconds);
}

}  // namespace conclave::services

#pragma once
// When a refused client may come back: a payload of the status that refuses it, until a face puts
// it into trailers or a Retry-After header. Any thread.

#include <chrono>
#include <optional>

#include "absl/status/status.h"
#include "scheduler/types.h"

namespace conclave::services {

absl::Status WithPushback(absl::Status status, scheduler::Micros after);
std::optional<std::chrono::milliseconds> PushbackOf(const absl::Status& status);

}  // namespace conclave::services

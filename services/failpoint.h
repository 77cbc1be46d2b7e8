#pragma once
// Named points where a test makes a process misbehave: die, freeze, dawdle or fail. Off unless
// asked for by
// `--unsafe-failpoints POINT=ACTION`; a point costs nothing then.
//   kill[@N]      SIGKILL to itself at the N-th hit (the first by default)
//   stop[@N]      SIGSTOP to itself at the N-th hit (the first by default)
//   delay:MS[@N]  sleeps at every hit, or at the N-th only
//   error[@N]     INTERNAL at every hit, or at the N-th only; where the point can fail

#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace conclave::services {

class Failpoints {
 public:
  Failpoints() = default;  // none
  // INVALID_ARGUMENT for an unknown point, an unknown action, or `error` where nothing can fail.
  static absl::StatusOr<Failpoints> Parse(const std::vector<std::string>& settings);

  bool empty() const { return points_.empty(); }
  // Does what was asked for at `point`. Any thread.
  absl::Status Hit(std::string_view point) const;

 private:
  enum class Action : uint8_t { kKill, kStop, kDelay, kError };
  struct Point {
    Action action = Action::kKill;
    std::chrono::milliseconds delay{0};
    uint64_t at = 0;  // 0: every hit
    std::unique_ptr<std::atomic<uint64_t>> hits = std::make_unique<std::atomic<uint64_t>>(0);
  };
  static absl::StatusOr<Point> ParsePoint(const std::string& setting, const std::string& action);

  std::map<std::string, Point, std::less<>> points_;  // constant after Parse
};

}  // namespace conclave::services

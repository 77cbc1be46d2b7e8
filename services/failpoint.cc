#include "services/failpoint.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <iterator>
#include <thread>

#include "absl/strings/str_format.h"
#include "worker/status.h"

namespace conclave::services {
namespace {

constexpr int64_t kMaxDelayMs = 60'000;

struct KnownPoint {
  const char* name;
  bool can_fail;
};
// Every point there is; a misspelt one would make a test pass for nothing.
constexpr KnownPoint kKnownPoints[] = {
    {"step.begin", false},       // engine: before a step's first layer
    {"step.layers", false},      // engine: after its last
    {"step.publish", false},     // engine: before its results are handed out
    {"worker.submit", true},     // a sequence has arrived: error refuses it
    {"worker.heartbeat", true},  // before a beat: error leaves it out
    {"expert.chunk", true},      // before a run of an expert's bytes is sent: error breaks it off
    {"expert.spoil", true},      // then, too: error makes a byte of it another one
    {"scheduler.save", true},    // before the state is written: error is a disk that refuses
};

bool ParseNumber(const std::string& text, int64_t least, int64_t most, int64_t& value) {
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  return error == std::errc() && stop == end && value >= least && value <= most;
}

}  // namespace

absl::StatusOr<Failpoints> Failpoints::Parse(const std::vector<std::string>& settings) {
  Failpoints failpoints;
  for (const std::string& setting : settings) {
    const size_t equals = setting.find('=');
    const std::string name = setting.substr(0, equals);
    const auto* const known =
        std::find_if(std::begin(kKnownPoints), std::end(kKnownPoints),
                     [&](const KnownPoint& point) { return point.name == name; });
    if (known == std::end(kKnownPoints) || equals == std::string::npos) {
      return absl::InvalidArgumentError(
          absl::StrFormat("failpoint \"%s\": there is no such point", setting));
    }
    CONCLAVE_ASSIGN_OR_RETURN(Point point, ParsePoint(setting, setting.substr(equals + 1)));
    if (point.action == Action::kError && !known->can_fail) {
      return absl::InvalidArgumentError(
          absl::StrFormat("failpoint \"%s\": nothing can fail there", setting));
    }
    if (!failpoints.points_.emplace(name, std::move(point)).second) {
      return absl::InvalidArgumentError(absl::StrFormat("failpoint \"%s\": set twice", name));
    }
  }
  return failpoints;
}

absl::StatusOr<Failpoints::Point> Failpoints::ParsePoint(const std::string& setting,
                                                         const std::string& action) {
  const absl::Status bad = absl::InvalidArgumentError(absl::StrFormat(
      "failpoint \"%s\": want kill, stop, delay:MS or error, and @N if not always", setting));
  Point point;
  const size_t at = action.find('@');
  const std::string what = action.substr(0, at);
  int64_t number = 0;
  if (what == "kill" || what == "stop") {
    point.action = what == "kill" ? Action::kKill : Action::kStop;
    point.at = 1;
  } else if (what == "error") {
    point.action = Action::kError;
  } else if (what.rfind("delay:", 0) == 0 && ParseNumber(what.substr(6), 1, kMaxDelayMs, number)) {
    point.action = Action::kDelay;
    point.delay = std::chrono::milliseconds(number);
  } else {
    return bad;
  }
  if (at != std::string::npos) {
    if (!ParseNumber(action.substr(at + 1), 1, int64_t{1} << 40, number)) return bad;
    point.at = static_cast<uint64_t>(number);
  }
  return point;
}

absl::Status Failpoints::Hit(std::string_view point) const {
  const auto found = points_.find(point);
  if (found == points_.end()) return absl::OkStatus();
  const Point& set = found->second;
  const uint64_t hit = set.hits->fetch_add(1) + 1;
  if (set.at != 0 && hit != set.at) return absl::OkStatus();
  switch (set.action) {
    case Action::kKill:
      kill(getpid(), SIGKILL);
      break;
    case Action::kStop:
      kill(getpid(), SIGSTOP);
      break;
    case Action::kDelay:
      std::this_thread::sleep_for(set.delay);
      break;
    case Action::kError:
      return absl::InternalError(absl::StrFormat("failpoint %s", std::string(point)));
  }
  return absl::OkStatus();
}

}  // namespace conclave::services

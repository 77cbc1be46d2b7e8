#include "services/membership_log.h"

#include <chrono>
#include <utility>

#include "absl/strings/str_format.h"

namespace conclave::services {
namespace {

using scheduler::Micros;
using scheduler::WorkerState;

std::string Silent(Micros time) {
  return absl::StrFormat("nothing was heard of it for %d ms",
                         std::chrono::duration_cast<std::chrono::milliseconds>(time).count());
}

}  // namespace

MembershipLog::MembershipLog(const scheduler::Membership::Options& options, const Workers& known)
    : options_(options) {
  for (const Worker& worker : known) known_[worker.id] = worker;
}

std::vector<MembershipLog::Line> MembershipLog::Note(const Workers& workers) {
  std::vector<Line> lines;
  std::map<std::string, Worker> known;
  for (const Worker& worker : workers) {
    const auto was = known_.find(worker.id);
    if (was != known_.end()) {
      Compare(was->second, worker, lines);
      known_.erase(was);
    } else {
      lines.push_back({false, absl::StrFormat("worker %s joined at %s: incarnation %d", worker.id,
                                              worker.address, worker.incarnation)});
    }
    known[worker.id] = worker;
  }
  for (const auto& [id, worker] : known_)
    lines.push_back({false, absl::StrFormat("worker %s is forgotten", id)});
  known_ = std::move(known);
  return lines;
}

void MembershipLog::Compare(const Worker& was, const Worker& is, std::vector<Line>& lines) {
  if (was.incarnation != is.incarnation) {
    ++counts_.restarts;
    lines.push_back({false, absl::StrFormat("worker %s is back at %s, restarted as incarnation %d",
                                            is.id, is.address, is.incarnation)});
    if (is.state == WorkerState::kReady) return;
  } else if (was.state == is.state) {
    return;
  }
  switch (is.state) {
    case WorkerState::kReady:
      lines.push_back({false, absl::StrFormat("worker %s is back: it is heard again", is.id)});
      return;
    case WorkerState::kDraining:
      lines.push_back({false, absl::StrFormat("worker %s is draining", is.id)});
      return;
    case WorkerState::kSuspect:
      lines.push_back({true, absl::StrFormat("worker %s is suspect: %s", is.id,
                                             Silent(options_.suspect_after))});
      return;
    case WorkerState::kDead:
      break;
  }
  const bool left = was.state == WorkerState::kDraining;
  if (!left) ++counts_.deaths;
  lines.push_back(
      {!left, absl::StrFormat("worker %s %s: %s", is.id,
                              left ? "was draining and is gone" : "is dead", WhyDead(is))});
}

std::string MembershipLog::WhyDead(const Worker& worker) const {
  if (!worker.broken) return Silent(options_.dead_after);
  return "its peers' connections to it broke, and " + Silent(options_.broken_after);
}

}  // namespace conclave::services

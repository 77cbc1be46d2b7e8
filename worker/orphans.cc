#include "worker/orphans.h"

#include <algorithm>

namespace conclave::worker {

using scheduler::Micros;
using scheduler::SequenceId;

bool Orphans::Add(const std::string& name, SequenceId id, Micros now) {
  if (std::ssize(orphans_) >= options_.max || Find(name)) return false;
  orphans_.push_back({name, id, now + options_.keep});
  return true;
}

std::optional<SequenceId> Orphans::Find(const std::string& name) const {
  const auto found = std::find_if(orphans_.begin(), orphans_.end(),
                                  [&](const Orphan& orphan) { return orphan.name == name; });
  return found == orphans_.end() ? std::nullopt : std::optional(found->id);
}

void Orphans::Remove(SequenceId id) {
  std::erase_if(orphans_, [&](const Orphan& orphan) { return orphan.id == id; });
}

std::vector<SequenceId> Orphans::TakeDue(Micros now) {
  std::vector<SequenceId> due;
  for (; !orphans_.empty() && orphans_.front().until <= now; orphans_.pop_front()) {
    due.push_back(orphans_.front().id);
  }
  return due;
}

std::optional<Micros> Orphans::NextDue() const {
  return orphans_.empty() ? std::nullopt : std::optional(orphans_.front().until);
}

std::vector<std::string> Orphans::Names() const {
  std::vector<std::string> names;
  for (const Orphan& orphan : orphans_) names.push_back(orphan.name);
  return names;
}

}  // namespace conclave::worker

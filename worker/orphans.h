#pragma once
// Sequences whose router is gone: each is kept by its name for whoever takes it over within a time.
// Nothing is stepped meanwhile. Pure; the engine thread.

#include <chrono>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "scheduler/types.h"

namespace conclave::worker {

class Orphans {
 public:
  struct Options {
    scheduler::Micros keep = std::chrono::seconds(5);
    int32_t max = 256;  // at once
  };
  explicit Orphans(const Options& options) : options_(options) {}

  // Keeps a sequence from now on. False if there are too many, or one of this name already.
  bool Add(const std::string& name, scheduler::SequenceId id, scheduler::Micros now);
  std::optional<scheduler::SequenceId> Find(const std::string& name) const;
  // Taken over, or ended. Unknown ids are ignored.
  void Remove(scheduler::SequenceId id);
  // Forgets those whose time is over by now, and returns them.
  std::vector<scheduler::SequenceId> TakeDue(scheduler::Micros now);
  std::optional<scheduler::Micros> NextDue() const;
  std::vector<std::string> Names() const;

 private:
  struct Orphan {
    std::string name;
    scheduler::SequenceId id = 0;
    scheduler::Micros until{0};
  };
  const Options options_;
  std::deque<Orphan> orphans_;  // the oldest first
};

}  // namespace conclave::worker

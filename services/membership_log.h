#pragma once
// What became of each worker, as the lines of the scheduler's log say it, and how often. It
// compares what is known of all with what was known when it was last asked. Pure; owned by one
// lock.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "scheduler/membership.h"

namespace conclave::services {

class MembershipLog {
 public:
  using Workers = std::vector<scheduler::Membership::Worker>;

  // Of those that are known already nothing is said until they change.
  MembershipLog(const scheduler::Membership::Options& options, const Workers& known);

  struct Line {
    bool bad = false;
    std::string text;
  };
  // One line for each change of each worker.
  std::vector<Line> Note(const Workers& workers);

  struct Counts {
    uint64_t deaths = 0;    // of workers that were not draining
    uint64_t restarts = 0;  // of workers that were known
  };
  const Counts& counts() const { return counts_; }

 private:
  using Worker = scheduler::Membership::Worker;
  void Compare(const Worker& was, const Worker& is, std::vector<Line>& lines);
  std::string WhyDead(const Worker& worker) const;

  const scheduler::Membership::Options options_;
  std::map<std::string, Worker> known_;
  Counts counts_;
};

}  // namespace conclave::services

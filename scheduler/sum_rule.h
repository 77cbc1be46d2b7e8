#pragma once
// Which of a token's experts are added up before their sum goes home, where owners return sums
// instead of rows. A sum's bits depend on what it is of, so the rule knows nothing but the
// placement and the token's experts: neither who is home, nor who is alive, late or busy. Who
// computes a sum is the dispatch's choice, among those that own all of its experts.
//
// The worker that owns most of what is left takes all of it that it owns, the first of equals,
// until nothing is left: few sums, and with one owner an expert, one for each worker that is
// reached.
//
// Pure and deterministic. One thread.

#include <cstdint>
#include <span>
#include <vector>

#include "scheduler/placement.h"
#include "scheduler/types.h"

namespace conclave::scheduler {

class SumRule {
 public:
  static constexpr int32_t kNobody = -1;

  // For placements with `workers` workers.
  explicit SumRule(size_t workers) : owned_(workers) {}

  // One token: sums[i] = the worker in whose name experts[i] is summed, one of its owners;
  // kNobody where nobody owns it.
  void Group(const Placement& placement, std::span<const ExpertId> experts,
             std::span<int32_t> sums);

 private:
  std::vector<int32_t> owned_;  // [workers] of what is left; zero between calls
};

}  // namespace conclave::scheduler

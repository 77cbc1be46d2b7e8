#pragma once
// Which owner of an expert a home sends a row to, where there is a choice. A worker that the row
// reaches anyway costs no further copy of the row, so it is preferred as long as it is not much
// busier than the others. Which copy computes never changes a bit, so this is about time alone.
//
// A token's experts with one owner go first. Then, in gate order, each other one goes to the home
// itself if it owns it; else to the least busy of its owners that the token reaches anyway, unless
// that one is more than `slack` above the mean of all; else to its least busy owner. Of equally
// busy ones the nearer is taken, then the first. A home counts what it sent itself. A worker that
// is late is passed over for any other owner that is not.
//
// Pure and deterministic. One thread: the home's.

#include <cstdint>
#include <span>
#include <vector>

#include "scheduler/placement.h"
#include "scheduler/types.h"

namespace conclave::scheduler {

class DispatchRule {
 public:
  struct Options {
    double slack = 0.03;             // above the mean, as a share of it
    uint64_t window_rows = 1 << 16;  // counts halve when they reach it: what was long ago fades
  };
  static constexpr int32_t kNobody = -1;

  // For homes of a placement with `workers` workers, the home being `self` of them, -1: none.
  DispatchRule(const Options& options, size_t workers, int32_t self);

  // A worker that is not alive is given nothing; one that is late what no other owner can compute.
  // Who is back starts as busy as the least busy of the others: it has nothing to make up for.
  // Smaller distance is nearer; 0 at the start.
  void SetAlive(int32_t worker, bool alive);
  void SetLate(int32_t worker, bool late);
  void SetDistance(int32_t worker, int32_t distance);

  // One token: workers[i] = who computes experts[i], kNobody where no owner is alive. The placement
  // has as many workers as this rule. Counts what is sent; a route to nobody is none.
  void Choose(const Placement& placement, std::span<const ExpertId> experts,
              std::span<int32_t> workers);

  // What one of `owners` computes as a whole: who; kNobody where none is alive and, unless late
  // ones may be asked, not late. Counts as one row. CanChoose: whether it would be anybody.
  int32_t ChooseOne(std::span<const int32_t> owners, bool late);
  bool CanChoose(std::span<const int32_t> owners, bool late) const;

  uint64_t load(int32_t worker) const { return workers_[static_cast<size_t>(worker)].load; }

 private:
  struct Worker {
    uint64_t load = 0;  // rows sent to it
    int32_t distance = 0;
    bool alive = true;
    bool late = false;
    bool reached = false;  // by the current token
    bool used() const { return alive && !late; }
  };
  int32_t Pick(std::span<const int32_t> owners) const;
  int32_t PickAmong(std::span<const int32_t> owners, bool late) const;
  bool Better(int32_t a, int32_t b) const;
  bool Overloaded(int32_t worker) const;
  void Count(int32_t worker);
  void Welcome(Worker& back);

  const Options options_;
  const int32_t self_;
  std::vector<Worker> workers_;
  uint64_t total_ = 0;  // of the loads
};

}  // namespace conclave::scheduler

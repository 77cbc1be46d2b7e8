#pragma once
// The scheduler process's side of placements: collects what workers report, makes the first
// placement when the workers it was told to wait for are there, takes an operator's plans, and lets
// scheduler::PlacementChange decide. Owned by ClusterService, under its lock; what it decides
// counts once Save() is on disk.

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "conclave/v1/cluster.pb.h"
#include "scheduler/adapter_catalogue.h"
#include "scheduler/membership.h"
#include "scheduler/placement_change.h"
#include "services/convert_placement.h"

namespace conclave::services {

class PlacementDriver {
 public:
  struct Options {
    // Workers to wait for before the first placement is made; 0: none is made unless asked for, and
    // every worker computes all experts itself.
    int32_t workers = 0;
    // Instead of what was wanted last of the same workers, or else contiguous runs; its number of
    // workers is `workers`.
    std::optional<Plan> first;
    scheduler::Micros retry = std::chrono::seconds(1);  // of a first placement that failed
    scheduler::PlacementChange::Options change;
  };
  using Workers = std::vector<scheduler::Membership::Worker>;

  PlacementDriver(const Options& options, const scheduler::PlacementChange::Stored& stored,
                  scheduler::Micros now);

  // What a worker's beat says of placements; whether anything is new. The beat was accepted.
  bool Hear(const v1::HeartbeatRequest& beat);

  // Draws what follows; true if what views tell of placements has changed. model: what the cluster
  // serves; null: not known yet.
  bool Step(const Workers& workers, const v1::ModelInfo* model, scheduler::Micros now);

  // Opens a change to the plan; its number. INVALID_ARGUMENT: not for this cluster; ABORTED:
  // another one is under way; FAILED_PRECONDITION: it cannot be now.
  absl::StatusOr<uint64_t> Apply(const Plan& plan, const Workers& workers,
                                 const v1::ModelInfo* model, scheduler::Micros now);
  // Opens a change to another set of versions of adapters. Without a placement its first one is
  // made of what is so then: every worker has every base expert.
  scheduler::PlacementChange::Proposal Propose(const scheduler::AdapterCatalogue::Wish& wish,
                                               const Workers& workers, const v1::ModelInfo* model,
                                               scheduler::Micros now);
  // How a plan ended: its epoch, once all workers serve by it; ABORTED and why, if it was taken
  // back. Nothing while it is open. The last kPastMax plans are remembered.
  static constexpr size_t kPastMax = 64;
  std::optional<absl::StatusOr<scheduler::Epoch>> EndOf(uint64_t plan) const;

  // Fills what views tell of placements.
  void Fill(v1::ClusterView* view) const;
  // A worker's state as views tell it, given what heartbeats alone say.
  v1::WorkerState StateOf(const scheduler::Membership::Worker& worker, v1::WorkerState state) const;
  bool Fenced(const std::string& worker) const { return change_.Fenced(worker); }

  const scheduler::PlacementChange& change() const { return change_; }
  // Experts that each worker owns; empty without a placement.
  std::map<std::string, size_t> Owned() const;

 private:
  struct Report {
    uint64_t incarnation = 0;
    v1::PlacementReport said;
    scheduler::Epoch adopted = 0;
    bool warm = false;
    bool placed = false;
  };
  std::vector<scheduler::PlacementChange::Member> MembersOf(const Workers& workers) const;
  scheduler::Placement WithPresentAdapters(scheduler::Placement placement) const;
  absl::StatusOr<scheduler::Placement> FirstOf(const std::vector<std::string>& owners,
                                               const v1::ModelInfo& model) const;
  void MaybePlaceFirst(const Workers& workers, const v1::ModelInfo* model, scheduler::Micros now);
  std::set<std::string> JoiningOf(const Workers& workers) const;

  const Options options_;
  scheduler::PlacementChange change_;
  std::map<std::string, Report> reports_;  // by worker
  std::set<std::string> joining_;          // workers that views tell so
  // The first placement: still to be made, its plan, when to try again.
  using Outcome = scheduler::PlacementChange::Outcome;
  void Remember();

  std::deque<Outcome> past_;  // of plans that others have followed, the latest last
  uint64_t operators_ = 0;    // the last plan that Apply opened
  bool first_due_;
  uint64_t first_plan_ = 0;
  scheduler::Micros first_after_{};
};

}  // namespace conclave::services

#pragma once
// The experts of adapters that a worker computes with: those it owns, and the shared ones of every
// layer, which each worker needs for its own rows. Read from the adapter's directory, verified, and
// kept in sealed memory of exactly their bytes, whatever becomes of the directory. A version that a
// placement names stays open, so that any of its experts can be held when owners change.
//
// Threads: Check, Hold and Keep one at a time; all else any. Who reads weights has seen Hold return
// and knows that no Keep drops them.

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "scheduler/placement.h"
#include "worker/experts/adapter_check.h"
#include "worker/experts/expert_store.h"
#include "worker/experts/pace.h"
#include "worker/model/adapter_files.h"
#include "worker/model/model.h"

namespace conclave::worker {

class AdapterStore {
 public:
  struct Options {
    AdapterFiles::Limits files;
    // Versions that stay open though no placement names them, so that they need not be verified
    // anew: the last that were checked or held.
    size_t spare = 4;
    Pace::Options pace;  // of reading and verifying, while steps are made
  };
  using Placements = std::vector<std::shared_ptr<const scheduler::Placement>>;

  // base: where the experts are that adapters replace. Both outlive it. steps: asked by any thread.
  AdapterStore(const Options& options, const Model& model, ExpertStore& base,
               Pace::Steps steps = nullptr);
  ~AdapterStore();
  AdapterStore(const AdapterStore&) = delete;
  AdapterStore& operator=(const AdapterStore&) = delete;

  // Opens and verifies a directory, and computes a few rows with each of its experts and with what
  // it replaces: where the numbers differ, so must the results. As AdapterFiles::Open; or what
  // lending an expert of the base came to.
  absl::StatusOr<AdapterCheck> Check(const std::string& source);

  // Makes ready what `worker` computes by this placement, all or none. As AdapterFiles::Open and
  // Read; INVALID_ARGUMENT: the placement is not for this model; FAILED_PRECONDITION: the directory
  // has another version by now, or the ids are still another version's here; RESOURCE_EXHAUSTED.
  absl::Status Hold(const scheduler::Placement& placement, const std::string& worker);
  // Likewise, but for versions that `may_lack` names by digest: of those that cannot be made ready
  // as a whole nothing more is held, and why is returned.
  using Lacks = std::map<std::string, std::string>;  // digest to why
  using MayLack = std::function<bool(const std::string& digest)>;
  absl::StatusOr<Lacks> HoldBut(const scheduler::Placement& placement, const std::string& worker,
                                const MayLack& may_lack);
  // Whether all that `worker` computes of a version by this placement is held.
  bool Holds(const scheduler::Placement& placement, const std::string& digest,
             const std::string& worker) const;
  // Drops what `worker` computes by none of these; gone(id) is called for each expert. Its memory
  // goes with what is returned, as that takes its time.
  using Dropped = std::vector<std::shared_ptr<const void>>;
  Dropped Keep(const Placements& placements, const std::string& worker,
               const std::function<void(scheduler::ExpertId)>& gone);

  // Null: it is not held.
  const FfnWeights* Find(scheduler::ExpertId expert) const;
  // Of all that are held, by id.
  std::map<scheduler::ExpertId, const FfnWeights*> All() const;

  struct Stats {
    size_t versions = 0;  // open
    size_t experts = 0;   // held
    uint64_t bytes = 0;   // of them
    uint64_t freed_bytes = 0;
  };
  Stats stats() const;

 private:
  // Memory of experts that were read together.
  class Arena;
  struct Held {
    std::string digest;
    std::shared_ptr<const Arena> arena;
    uint64_t bytes = 0;
    FfnWeights weights;
  };
  using Files = std::shared_ptr<const AdapterFiles>;

  void Spare(Files files);  // mutex_ held
  absl::StatusOr<Files> Open(const scheduler::PlacedAdapter& adapter, Pace& pace);
  absl::StatusOr<Files> OpenAnew(const scheduler::PlacedAdapter& adapter, Pace& pace);
  absl::Status Judge(const AdapterFiles& files, const scheduler::PlacedAdapter& adapter) const;
  absl::Status CheckIds(const scheduler::Placement& placement) const;
  absl::Status HoldVersion(const scheduler::Placement& placement,
                           const scheduler::PlacedAdapter& adapter, int32_t self, Pace& pace,
                           std::map<scheduler::ExpertId, Held>& held,
                           std::map<std::string, Files>& open);
  absl::Status Differs(const AdapterFiles& files, size_t index, Device& device) const;
  // What it stands for, as PlacedAdapter::replaced has it.
  scheduler::ExpertId ReplacedBy(const AdapterFiles::Expert& expert) const;
  std::string NameOf(const AdapterFiles::Expert& expert) const;

  const Options options_;
  const Model& model_;
  ExpertStore& base_;
  const Pace::Steps steps_;
  const scheduler::ExpertId base_experts_;

  mutable std::mutex mutex_;  // guards what follows
  std::map<scheduler::ExpertId, Held> held_;
  std::map<std::string, Files> open_;  // by digest: what placements name
  std::set<std::string> damaged_;      // of these: what was opened could not be read any more
  std::deque<Files> spare_;            // no placement names them; the latest last
  uint64_t freed_bytes_ = 0;
};

}  // namespace conclave::worker

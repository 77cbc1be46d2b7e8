#pragma once
// What the processes of a simulated cluster have in common: the words they exchange, the wire that
// carries them, and the ledger, which sees what no process does and says which promise was broken.

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "scheduler/adapter_register.h"
#include "scheduler/membership.h"
#include "scheduler/placement.h"
#include "tests/sim/random.h"
#include "tests/sim/timeline.h"

namespace conclave::sim {

using scheduler::Epoch;
using scheduler::ExpertId;
using scheduler::Placement;

struct Violation {
  std::string promise;
};
inline void Expect(bool kept, const char* promise) {
  if (!kept) throw Violation{promise};
}

// Workers are 0 to n - 1.
inline std::string NameOf(int32_t worker) {
  return std::string(1, static_cast<char>('a' + worker));
}
inline int32_t IndexOf(const std::string& name) { return name[0] - 'a'; }

// What a scheduler tells, as services/ has it in a ClusterView.
struct View {
  struct Worker {
    std::string id;
    uint64_t incarnation = 0;
    bool alive = true;
    bool ready = true;
    bool fenced = false;
  };
  uint64_t version = 0;
  std::vector<Worker> workers;
  std::vector<scheduler::AdapterRow> adapters;
  std::set<std::string> lost;     // versions on disk that could not come back
  std::set<std::string> lacking;  // that are placed, and a worker lacks experts of them
  uint64_t check =
      0;  // number of a directory that workers are to look at, and its version; 0: none
  uint64_t checked_version = 0;
  std::shared_ptr<const Placement> placement, prepared;  // null: none
  Epoch released = 0;
};
using SharedView = std::shared_ptr<const View>;

// What a worker tells the scheduler.
struct Beat {
  scheduler::Membership::Beat member;
  uint64_t acknowledged = 0, refused = 0;
  Epoch adopted = 0;
  std::vector<std::pair<std::string, uint64_t>> lost;
  uint64_t seen_version = 0;  // of the view: an older one is told again, as a new stream would
  std::vector<std::string> in_use;  // versions of adapters
  uint64_t check = 0;               // that was looked at, and what was found
  scheduler::FoundAdapter found;
  std::map<std::string, std::string> lacks;  // versions of what is committed, and why
};

// What weights make of a row: another value for other weights.
inline uint64_t Compute(uint64_t weights, uint64_t row) { return Mix(row ^ Mix(weights + 1)); }

// Versions of adapters are 1, 2, ...; 0 is the base model. Each replaces some experts, one at
// least.
inline bool Replaces(uint64_t version, ExpertId expert) {
  return version != 0 && (expert == version % 2 || Mix(version * 1000 + expert) % 3 == 0);
}
// The weights that a version has for an expert of the base's.
inline uint64_t Weights(uint64_t version, ExpertId expert) {
  return Replaces(version, expert) ? version * 1000 + expert : expert;
}
inline std::string DigestOf(uint64_t version) { return "v" + std::to_string(version); }
inline uint64_t VersionOf(const std::string& digest) { return std::stoull(digest.substr(1)); }

// Of a placement: the weights that an id means, and the id of what a version has for an expert.
inline uint64_t WeightsOf(const Placement& placement, ExpertId id) {
  if (id < placement.owners.size()) return id;
  for (const scheduler::PlacedAdapter& adapter : placement.adapters) {
    if (id >= adapter.first && id - adapter.first < adapter.replaced.size())
      return Weights(VersionOf(adapter.digest), adapter.replaced[id - adapter.first]);
  }
  throw Violation{"an id that is owned means an expert"};
}
// 0: it is the base's.
inline uint64_t VersionOfId(const Placement& placement, ExpertId id) {
  for (const scheduler::PlacedAdapter& adapter : placement.adapters) {
    if (id >= adapter.first && id - adapter.first < adapter.replaced.size())
      return VersionOf(adapter.digest);
  }
  return 0;
}
inline ExpertId Resolve(const Placement& placement, uint64_t version, ExpertId expert) {
  if (version == 0) return expert;
  const scheduler::PlacedAdapter& adapter = *FindAdapter(placement, DigestOf(version));
  const auto found = std::lower_bound(adapter.replaced.begin(), adapter.replaced.end(), expert);
  if (found == adapter.replaced.end() || *found != expert) return expert;
  return adapter.first + static_cast<ExpertId>(found - adapter.replaced.begin());
}

// The model: rows of `layers` layers, each routed to `top_k` of a layer's experts.
struct Model {
  int32_t layers = 2;
  int32_t slots = 4;
  int32_t top_k = 2;
  int32_t experts() const { return layers * slots; }
  std::vector<ExpertId> Route(int32_t layer, uint64_t row) const {
    std::vector<ExpertId> chosen;
    for (uint64_t i = 0; chosen.size() < static_cast<size_t>(top_k); ++i) {
      const auto expert = static_cast<ExpertId>(
          layer * slots + static_cast<int32_t>(Mix(row + i) % static_cast<uint64_t>(slots)));
      if (chosen.empty() || chosen.back() != expert) chosen.push_back(expert);
    }
    return chosen;
  }
  // In gate order, so that a change of the order shows.
  static uint64_t Combine(uint64_t row, const std::vector<uint64_t>& outputs) {
    for (const uint64_t output : outputs) row = Mix(row + output);
    return row;
  }
  // The next token of a sequence that ends with `last`, computed alone through a version.
  uint64_t Next(uint64_t last, uint64_t version) const {
    uint64_t row = Mix(last);
    for (int32_t layer = 0; layer < layers; ++layer) {
      std::vector<uint64_t> outputs;
      for (const ExpertId expert : Route(layer, row))
        outputs.push_back(Compute(Weights(version, expert), row));
      row = Combine(row, outputs);
    }
    return row;
  }
};

// Delays, drops, duplicates, reorders; directions between two nodes can be cut.
class Wire {
 public:
  struct Options {
    int32_t loss_percent = 0;
    int32_t copy_percent = 0;
    int32_t delay_ms_max = 5;
  };
  Wire(const Options& options, Timeline& timeline, Random& random)
      : options_(options), timeline_(timeline), random_(random) {}

  void Send(int32_t from, int32_t to, const std::function<void()>& arrive) {
    if (cut_.contains({from, to}) || random_.Chance(options_.loss_percent)) return;
    const int32_t copies = random_.Chance(options_.copy_percent) ? 2 : 1;
    for (int32_t i = 0; i < copies; ++i) timeline_.After(Delay(), arrive);
  }
  // In order, and lost only with the process at the other end: a connection that holds.
  void Stream(int32_t from, int32_t to, const std::function<void()>& arrive) {
    Micros& last = last_[{from, to}];
    last = std::max(last, timeline_.now() + Delay());
    timeline_.At(last, arrive);
  }
  void Cut(int32_t from, int32_t to) { cut_.insert({from, to}); }
  void Join(int32_t from, int32_t to) { cut_.erase({from, to}); }
  bool IsCut(int32_t from, int32_t to) const { return cut_.contains({from, to}); }
  // No fault any more.
  void Heal() {
    cut_.clear();
    options_.loss_percent = options_.copy_percent = 0;
  }

 private:
  Micros Delay() { return Micros(random_.Between(50, options_.delay_ms_max * 1000)); }

  Options options_;
  Timeline& timeline_;
  Random& random_;
  std::set<std::pair<int32_t, int32_t>> cut_;
  std::map<std::pair<int32_t, int32_t>, Micros> last_;
};

// Everything that was ever said of placements, from outside.
class Ledger {
 public:
  // A scheduler tells it.
  void Told(const View& view) {
    if (view.prepared != nullptr) SamePlan(*view.prepared);
    if (view.placement == nullptr) return;
    SamePlan(*view.placement);
    const auto [epoch, fresh] = committed_.try_emplace(view.placement->epoch, view.placement->plan);
    Expect(epoch->second == view.placement->plan, "an epoch is committed once, to one plan");
    Expect(view.released <= view.placement->epoch, "what is released is over");
  }
  // A worker's process acknowledged it: it holds the weights.
  void Prepared(int32_t worker, uint64_t incarnation, uint64_t plan) {
    prepared_.insert({worker, incarnation, plan});
  }
  bool HasPrepared(int32_t worker, uint64_t incarnation, uint64_t plan) const {
    return prepared_.contains({worker, incarnation, plan});
  }
  // A scheduler commits what an operator asked for.
  void Commits(const Placement& placement) const {
    for (const std::string& worker : placement.workers) {
      const bool held = std::any_of(prepared_.begin(), prepared_.end(), [&](const auto& said) {
        return std::get<0>(said) == IndexOf(worker) && std::get<2>(said) == placement.plan;
      });
      Expect(held, "a plan is committed when every owner has prepared it");
    }
  }

 private:
  void SamePlan(const Placement& placement) {
    const auto [known, fresh] = plans_.try_emplace(placement.plan, placement);
    Expect(known->second == placement, "a plan's number means one placement, for ever");
  }

  std::map<uint64_t, Placement> plans_;
  std::map<Epoch, uint64_t> committed_;
  std::set<std::tuple<int32_t, uint64_t, uint64_t>> prepared_;
};

struct ClusterTotals {
  uint64_t requests = 0, completed = 0, cancelled = 0, moved = 0;
  uint64_t tokens = 0, steps = 0, steps_redone = 0;
  uint64_t frames = 0, refused = 0, fenced = 0, hedged = 0;
  uint64_t crashes = 0, stops = 0, cuts = 0, scheduler_crashes = 0;
  uint64_t plans = 0, committed = 0, aborted = 0, emergencies = 0;
  uint64_t added = 0, replaced = 0, removed = 0, failed = 0, versions_freed = 0;
  uint64_t to_memory = 0, to_disk = 0, gave_up = 0;
  uint64_t damaged = 0, lacked = 0;
  double virtual_seconds = 0;
};

class SimScheduler;
class SimWorker;
class SimRouter;

struct World {
  World(uint64_t seed, int32_t count, const Model& shape, const Wire::Options& options);
  ~World();

  Random random;
  Timeline timeline;
  const int32_t workers_count;
  const Model model;
  uint64_t adapter_bytes = 0;  // AdapterRotation's; an expert of an adapter is a byte
  std::set<uint64_t> damaged;  // versions whose directories cannot be read at present
  Wire wire;
  Ledger ledger;
  ClusterTotals totals;
  std::vector<std::unique_ptr<SimWorker>> workers;
  std::unique_ptr<SimScheduler> scheduler;
  std::unique_ptr<SimRouter> router;

  int32_t scheduler_node() const { return workers_count; }
  int32_t router_node() const { return workers_count + 1; }
};

}  // namespace conclave::sim

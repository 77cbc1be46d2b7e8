#include "tests/sim/cluster_sim.h"

#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "tests/sim/cluster_router.h"
#include "tests/sim/cluster_scheduler.h"
#include "tests/sim/cluster_worker.h"

namespace conclave::sim {

World::World(uint64_t seed, int32_t count, const Model& shape, const Wire::Options& options)
    : random(seed), workers_count(count), model(shape), wire(options, timeline, random) {}
World::~World() = default;

namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Phase = scheduler::PlacementChange::Phase;

constexpr Micros kFaultsBegin = seconds(1);
constexpr Micros kFaultsEnd = seconds(9);
constexpr Micros kEnd = seconds(60);  // nothing that was begun may last longer

class ClusterSimulation {
 public:
  explicit ClusterSimulation(uint64_t seed)
      : world_(seed, 1 + static_cast<int32_t>(Mix(seed) % 5), RandomModel(seed), RandomWire(seed)) {
    for (int32_t i = 0; i < world_.workers_count; ++i)
      world_.workers.push_back(std::make_unique<SimWorker>(world_, i));
    Random memory(seed ^ 4);
    if (memory.Chance(50)) world_.adapter_bytes = static_cast<uint64_t>(memory.Between(2, 8));
    world_.scheduler = std::make_unique<SimScheduler>(world_);
    world_.router = std::make_unique<SimRouter>(world_);
    // Each seed has a mix of faults of its own; some have none of a kind.
    for (int32_t& weight : weights_) weight = random().Chance(60) ? random().Between(1, 10) : 0;
  }

  void Run() {
    world_.scheduler->Start();
    world_.router->Begin();
    for (const auto& worker : world_.workers)
      world_.timeline.After(Micros(random().Between(0, 200'000)), [&] { worker->Start(); });
    const int32_t requests = random().Between(3, 16);
    for (int32_t i = 0; i < requests; ++i) {
      world_.timeline.At(Micros(random().Between(0, 9'500'000)),
                         [this] { world_.router->Submit(RandomLength()); });
    }
    world_.timeline.At(kFaultsBegin, [this] { NextFault(); });
    world_.timeline.At(kFaultsEnd, [this] { Heal(); });
    while (world_.timeline.RunNext(kEnd)) {
      if (world_.timeline.now() > kFaultsEnd + seconds(1) && Settled()) break;
    }
    world_.totals.virtual_seconds = std::chrono::duration<double>(world_.timeline.now()).count();
    CheckEnd();
    world_.scheduler->Crash();  // which adds its counts
  }

  const ClusterTotals& totals() const { return world_.totals; }

 private:
  enum Fault : size_t {
    kCrash,
    kStop,
    kCut,
    kIsolate,
    kSchedulerCrash,
    kSchedulerStop,
    kPlan,
    kAdd,
    kRemove,
    kCancel,
    kDamage,
    kFaults
  };

  static Model RandomModel(uint64_t seed) {
    Random random(seed ^ 1);
    return {.layers = random.Between(1, 3), .slots = random.Between(2, 6), .top_k = 2};
  }
  static Wire::Options RandomWire(uint64_t seed) {
    Random random(seed ^ 2);
    return {.loss_percent = random.Chance(50) ? random.Between(0, 15) : 0,
            .copy_percent = random.Chance(50) ? random.Between(0, 20) : 0,
            .delay_ms_max = random.Between(1, 20)};
  }

  // Some outlive a change of adapters.
  int32_t RandomLength() {
    return random().Chance(15) ? random().Between(100, 400) : random().Between(1, 40);
  }

  Random& random() { return world_.random; }
  SimWorker& AnyWorker() {
    return *world_.workers[static_cast<size_t>(random().Between(0, world_.workers_count - 1))];
  }
  int32_t AnyNode() { return random().Between(0, world_.workers_count + 1); }

  void NextFault() {
    if (world_.timeline.now() >= kFaultsEnd) return;
    int32_t sum = 0;
    for (const int32_t weight : weights_) sum += weight;
    if (sum > 0) {
      int32_t at = random().Between(1, sum);
      size_t fault = 0;
      while ((at -= weights_[fault]) > 0) ++fault;
      Do(static_cast<Fault>(fault));
    }
    world_.timeline.After(Micros(static_cast<int64_t>(random().Exponential(400'000))),
                          [this] { NextFault(); });
  }

  void Do(Fault fault) {
    switch (fault) {
      case kCrash:
        return CrashWorker(AnyWorker());
      case kStop:
        return StopFor(AnyWorker(), milliseconds(random().Between(100, 4000)));
      case kCut: {
        const int32_t from = AnyNode(), to = AnyNode();
        const bool both = random().Chance(50);
        return CutFor(from, to, both, milliseconds(random().Between(50, 4000)));
      }
      case kIsolate: {
        const int32_t node = AnyNode();
        const Micros time = milliseconds(random().Between(50, 4000));
        for (int32_t other = 0; other < world_.workers_count + 2; ++other)
          CutFor(node, other, true, time);
        return;
      }
      case kSchedulerCrash:
        if (!world_.scheduler->up()) return;
        ++world_.totals.scheduler_crashes;
        world_.scheduler->Crash();
        return world_.timeline.After(Micros(random().Between(1000, 3'000'000)),
                                     [this] { StartScheduler(); });
      case kSchedulerStop:
        return StopFor(*world_.scheduler, milliseconds(random().Between(100, 4000)));
      case kPlan:
        return world_.scheduler->Take([this] { world_.scheduler->Apply(RandomOwners()); });
      case kAdd:
      case kRemove: {
        const std::string name = random().Chance(50) ? "p" : "q";
        const auto version = static_cast<uint64_t>(fault == kAdd ? random().Between(1, 5) : 0);
        return world_.scheduler->Take(
            [this, name, version] { world_.scheduler->Operate(name, version); });
      }
      case kCancel:
        return world_.router->Cancel();
      case kDamage:
        return Damage(AnyVersion(), milliseconds(random().Between(100, 9000)));
      case kFaults:
        break;
    }
  }

  std::vector<std::vector<int32_t>> RandomOwners() {
    std::vector<std::vector<int32_t>> owners(static_cast<size_t>(world_.model.experts()));
    for (std::vector<int32_t>& of : owners) {
      for (int32_t copies = random().Between(1, 2); copies > 0; --copies)
        of.push_back(random().Between(0, world_.workers_count - 1));
    }
    return owners;
  }

  // One that is placed, if there is any.
  uint64_t AnyVersion() {
    const auto any = static_cast<uint64_t>(random().Between(1, 5));
    if (!world_.scheduler->up() || !world_.scheduler->change().current()) return any;
    const auto& placed = world_.scheduler->change().current()->adapters;
    return placed.empty() ? any : VersionOf(placed[any % placed.size()].digest);
  }

  void Damage(uint64_t version, Micros time) {
    ++world_.totals.damaged;
    world_.damaged.insert(version);
    world_.timeline.After(time, [this, version] { world_.damaged.erase(version); });
  }

  // Its connections break, which who holds them notices soon.
  void CrashWorker(SimWorker& worker) {
    if (!worker.up()) return;
    ++world_.totals.crashes;
    const uint64_t incarnation = worker.incarnation();
    worker.Crash();
    int32_t self = 0;
    while (world_.workers[static_cast<size_t>(self)].get() != &worker) ++self;
    for (int32_t peer = 0; peer < world_.workers_count; ++peer) {
      if (peer == self || world_.wire.IsCut(self, peer)) continue;
      world_.timeline.After(Micros(random().Between(100, 20'000)), [this, peer, self, incarnation] {
        SimWorker& other = *world_.workers[static_cast<size_t>(peer)];
        other.Take([&other, self, incarnation] { other.OnPeerDown(self, incarnation); });
      });
    }
    world_.timeline.After(Micros(random().Between(100, 100'000)), [this, self, incarnation] {
      world_.router->OnLinkBroken(self, incarnation);
    });
    if (random().Chance(60)) {
      world_.timeline.After(Micros(random().Between(10'000, 5'000'000)), [&worker] {
        if (!worker.up()) worker.Start();
      });
    }
  }

  void StartScheduler() {
    if (!world_.scheduler->up()) world_.scheduler->Start();
  }

  void StopFor(Process& process, Micros time) {
    if (!process.up() || process.stopped()) return;
    ++world_.totals.stops;
    process.Stop();
    world_.timeline.After(time, [&process] { process.Continue(); });
  }

  void CutFor(int32_t from, int32_t to, bool both, Micros time) {
    if (from == to) return;
    ++world_.totals.cuts;
    world_.wire.Cut(from, to);
    if (both) world_.wire.Cut(to, from);
    world_.timeline.After(time, [this, from, to] {
      world_.wire.Join(from, to);
      world_.wire.Join(to, from);
    });
  }

  // Half of what is away stays away, but never everybody; nor before there is a placement, for
  // which all are waited for.
  void Heal() {
    world_.wire.Heal();
    world_.damaged.clear();
    StartScheduler();
    world_.scheduler->Continue();
    bool any = false;
    for (const auto& worker : world_.workers) {
      worker->Continue();
      any |= worker->up();
    }
    any &= world_.scheduler->change().current().has_value();
    for (const auto& worker : world_.workers) {
      if (worker->up() || (any && random().Chance(50))) continue;
      worker->Start();
      any |= world_.scheduler->change().current().has_value();
    }
  }

  bool Settled() const {
    if (!world_.router->idle() || !world_.scheduler->up()) return false;
    if (world_.scheduler->change().phase() != Phase::kStable) return false;
    if (!world_.scheduler->adapters_settled()) return false;
    for (const auto& worker : world_.workers) {
      if (!worker->up()) continue;
      if (worker->sequences() > 0 || worker->keeper().held() != 1) return false;
      if (worker->adopted() != world_.scheduler->change().epoch()) return false;
      if (!worker->lacks_nothing()) return false;
    }
    return true;
  }

  void CheckEnd() const {
    Expect(world_.router->idle(), "nothing waits for ever: every request ends");
    Expect(world_.scheduler->change().phase() == Phase::kStable,
           "nothing waits for ever: every change of the placement ends");
    Expect(world_.scheduler->adapters_settled(),
           "nothing waits for ever: every operation on adapters ends, and what drains goes");
    const Epoch epoch = world_.scheduler->change().epoch();
    for (const auto& worker : world_.workers) {
      if (!worker->up()) continue;
      Expect(worker->adopted() == epoch, "nothing waits for ever: all serve by the placement");
      Expect(worker->lacks_nothing(), "what cannot be read leaves memory, and comes back whole");
      Expect(worker->keeper().held() == 1, "what is prepared and not used is given back");
      Expect(worker->keeper().Staged().empty(), "what is prepared and not used is given back");
      Expect(worker->sequences() == 0 && worker->blocks_used() == 0, "blocks are given back");
    }
  }

  World world_;
  int32_t weights_[kFaults] = {};
};

void Add(const ClusterTotals& from, ClusterTotals* to) {
  const auto add = [&](auto ClusterTotals::*field) { to->*field += from.*field; };
  for (const auto field :
       {&ClusterTotals::requests,     &ClusterTotals::completed, &ClusterTotals::cancelled,
        &ClusterTotals::moved,        &ClusterTotals::tokens,    &ClusterTotals::steps,
        &ClusterTotals::steps_redone, &ClusterTotals::frames,    &ClusterTotals::refused,
        &ClusterTotals::fenced,       &ClusterTotals::hedged,    &ClusterTotals::crashes,
        &ClusterTotals::stops,        &ClusterTotals::cuts,      &ClusterTotals::scheduler_crashes,
        &ClusterTotals::plans,        &ClusterTotals::committed, &ClusterTotals::aborted,
        &ClusterTotals::emergencies,  &ClusterTotals::added,     &ClusterTotals::replaced,
        &ClusterTotals::removed,      &ClusterTotals::failed,    &ClusterTotals::versions_freed,
        &ClusterTotals::to_memory,    &ClusterTotals::to_disk,   &ClusterTotals::gave_up,
        &ClusterTotals::damaged,      &ClusterTotals::lacked}) {
    add(field);
  }
  to->virtual_seconds += from.virtual_seconds;
}

}  // namespace

std::optional<std::string> SimulateCluster(uint64_t seed, ClusterTotals* totals) {
  ClusterSimulation simulation(seed);
  try {
    simulation.Run();
  } catch (const Violation& violation) {
    return "seed " + std::to_string(seed) + ": broken: " + violation.promise;
  }
  Add(simulation.totals(), totals);
  return std::nullopt;
}

}  // namespace conclave::sim

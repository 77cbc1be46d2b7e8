#pragma once
// A scheduler process in a simulation: the real Membership, PlacementChange and AdapterCatalogue, a
// disk that takes its time and fails, and views told only of what is on it. What
// services/placement_driver.cc, adapter_driver.cc and cluster_service.cc do around them is done
// here in few words.

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "scheduler/adapter_catalogue.h"
#include "scheduler/membership.h"
#include "scheduler/placement_change.h"
#include "tests/sim/cluster_world.h"

namespace conclave::sim {

class SimScheduler final : public Process {
 public:
  explicit SimScheduler(World& world) : Process(world.timeline), world_(world) {}

  void OnBeat(const Beat& beat);
  // The router asks for the view, having seen one, and says which versions its requests hold.
  void OnRouterAsks(const scheduler::AdapterCatalogue::Report& said);
  // An operator's plan; refused ones are nothing.
  void Apply(const std::vector<std::vector<int32_t>>& owners);

  // Likewise, of adapters. A version 0 removes.
  void Operate(const std::string& name, uint64_t version);
  // No operation is open, and nothing drains.
  bool adapters_settled() const;

  // Of what is decided; valid while it is up.
  const scheduler::PlacementChange& change() const { return *change_; }

 private:
  struct Disk {
    scheduler::Membership::Stored membership;
    scheduler::PlacementChange::Stored placement;
    scheduler::AdapterRegister adapters;
    SharedView view = std::make_shared<const View>();
  };
  struct Report {
    Beat beat;
    bool warm = false;
    scheduler::AdapterCatalogue::Report adapters;
  };

  void OnStart() override;
  void OnCrash() override;
  void Tick();
  void Decide();
  bool DecideAdapters();
  void CheckServed(const std::string& digest) const;
  void CheckRemoval(const std::string& digest) const;
  void CheckRoom(const Placement& placement) const;
  void CheckRelease() const;
  void Save();
  void Tell(int32_t worker);
  std::vector<scheduler::PlacementChange::Member> Members() const;
  SharedView MakeView() const;

  World& world_;
  Disk disk_;  // survives
  std::unique_ptr<scheduler::Membership> membership_;
  std::unique_ptr<scheduler::PlacementChange> change_;
  std::unique_ptr<scheduler::AdapterCatalogue> catalogue_;
  std::optional<scheduler::AdapterCatalogue::Report> router_;  // once it was heard
  std::map<std::string, Report> reports_;
  std::map<std::string, bool> serving_;  // as views tell it
  bool placed_ = false;                  // the first placement was asked for
  bool saving_ = false;
  Micros ticked_{};
  Micros committed_{};  // when the current epoch was, as far as this start knows
};

}  // namespace conclave::sim

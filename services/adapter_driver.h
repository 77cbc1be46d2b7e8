#pragma once
// The scheduler process's side of adapters: collects what workers and routers report of them, takes
// an operator's requests, and lets scheduler::AdapterCatalogue decide; its placements go by way of
// PlacementDriver. Owned by ClusterService, under its lock; what it decides counts once Save() is
// on disk.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "conclave/v1/cluster.pb.h"
#include "scheduler/adapter_catalogue.h"
#include "scheduler/membership.h"
#include "scheduler/router_roster.h"
#include "services/placement_driver.h"

namespace conclave::services {

class AdapterDriver {
 public:
  struct Options : scheduler::AdapterCatalogue::Options {
    // Who asked for an addition is answered when all routers that are heard follow a view that has
    // it, as he may ask any of them next; after so long in any case.
    scheduler::Micros follow = std::chrono::seconds(5);
  };
  using Workers = PlacementDriver::Workers;
  using Routers = std::vector<scheduler::RouterRoster::Router>;

  AdapterDriver(const Options& options, const scheduler::AdapterCatalogue::Stored& stored,
                scheduler::Micros now);

  // What a worker's or router's beat says of adapters; whether anything is new. The beat was
  // accepted.
  bool Hear(const v1::HeartbeatRequest& beat, scheduler::Micros now);

  // Begins an operation, or finds it; its id. The errors are cluster.proto's.
  absl::StatusOr<std::string> Add(const v1::AddAdapterRequest& request);
  absl::StatusOr<std::string> Remove(const v1::RemoveAdapterRequest& request);
  // How it ended; nothing while it is open.
  std::optional<absl::StatusOr<v1::AdapterOperation>> EndOf(const std::string& operation) const;

  // Draws what follows; true if what views tell has changed. version: of the view as of now. model:
  // null: not known yet.
  bool Step(const Workers& workers, const Routers& routers, const v1::ModelInfo* model,
            uint64_t version, PlacementDriver& placement, scheduler::Micros now);

  // Fills what views tell of adapters.
  void Fill(v1::ClusterView* view) const;
  v1::AdapterCatalogue Describe() const;

  const scheduler::AdapterCatalogue& catalogue() const { return catalogue_; }

 private:
  struct Heard {
    uint64_t incarnation = 0;
    bool serves = true;  // of a router
    scheduler::AdapterCatalogue::Report report;
  };
  void NoteEnds(const std::vector<scheduler::AdapterOperation>& before, uint64_t version,
                scheduler::Micros now);
  bool IsFollowed(const std::string& operation) const;
  absl::StatusOr<std::string> Begun(const scheduler::AdapterAnswer& opened);
  void AddRows(google::protobuf::RepeatedPtrField<v1::Adapter>* adapters) const;

  const Options options_;
  scheduler::AdapterCatalogue catalogue_;
  std::map<std::string, Heard> workers_;  // by id
  std::map<std::string, Heard> routers_;  // by address
  // Additions that have ended, and from which view on that is told.
  struct Ended {
    uint64_t view = 0;
    scheduler::Micros at{};
  };
  std::map<std::string, Ended> ended_;
  scheduler::Micros now_{};  // of the last Step
};

}  // namespace conclave::services

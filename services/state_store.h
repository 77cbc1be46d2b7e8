#pragma once
// What a scheduler must not forget: the placement, how far a change of it has come, the adapters
// there are and what is being done with them, and the workers it knows, in one SQLite file. A save
// is on disk when it returns (write-ahead log, synchronous FULL) and whole or not there at all. One
// scheduler at a time has the file. One thread at a time.

#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "scheduler/adapter_register.h"
#include "scheduler/membership.h"
#include "scheduler/placement_change.h"

struct sqlite3;

namespace conclave::services {

class StateStore {
 public:
  struct State {
    scheduler::Membership::Stored membership;
    scheduler::PlacementChange::Stored placement;
    scheduler::AdapterRegister adapters;
    // By worker id: what it said of itself, a serialized v1::WorkerInfo.
    std::map<std::string, std::string> infos;
  };

  // Opens or makes DIRECTORY/scheduler.db. FAILED_PRECONDITION: another scheduler has it, or a
  // later version wrote it; DATA_LOSS: it is corrupt; INVALID_ARGUMENT: it is not ours;
  // UNAVAILABLE: it cannot be opened. All name the file.
  static absl::StatusOr<std::unique_ptr<StateStore>> Open(const std::string& directory);
  ~StateStore();

  absl::StatusOr<State> Load();
  // Compares and swaps: ABORTED if the file does not hold the placement that was loaded or saved
  // here last. UNAVAILABLE: nothing was changed (a full disk, say).
  absl::Status Save(const State& state);

 private:
  class Statement;
  StateStore(sqlite3* database, std::string path) : database_(database), path_(std::move(path)) {}

  absl::Status Check();
  absl::Status Prepare();
  absl::Status Migrate(int64_t schema);
  absl::Status LoadPlacement(State* state);
  absl::Status LoadAdapters(State* state);
  absl::Status SavePlacement(const State& state);
  absl::Status SaveWorkers(const State& state);
  absl::Status Execute(const char* sql);
  absl::StatusOr<int64_t> Number(const char* sql);
  absl::Status Error() const;

  sqlite3* const database_;
  const std::string path_;
  // As the file holds it.
  scheduler::Epoch epoch_ = 0;
  uint64_t last_plan_ = 0;
};

}  // namespace conclave::services

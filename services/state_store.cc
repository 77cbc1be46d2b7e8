#include "services/state_store.h"

#include <sqlite3.h>

#include <filesystem>
#include <utility>

#include "absl/strings/str_format.h"
#include "services/convert_adapters.h"
#include "services/convert_placement.h"
#include "worker/status.h"

namespace conclave::services {
namespace {

using scheduler::Membership;
using scheduler::WorkerState;
using Purpose = scheduler::PlacementChange::Purpose;

constexpr int64_t kApplication = 0x434e434c;  // "CNCL", in the file's header
constexpr int64_t kSchema = 4;

constexpr char kTables[] =
    "CREATE TABLE placement(epoch INTEGER NOT NULL, version INTEGER NOT NULL);"
    "INSERT INTO placement VALUES(0, 0);"
    "CREATE TABLE workers(id TEXT PRIMARY KEY, incarnation INTEGER NOT NULL, address TEXT NOT NULL,"
    " state INTEGER NOT NULL, info BLOB NOT NULL) WITHOUT ROWID;";
// Since schema 2. current and next are serialized v1::Placements; null: there is none.
constexpr char kAddPlacement[] =
    "ALTER TABLE placement ADD COLUMN last_plan INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE placement ADD COLUMN released INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE placement ADD COLUMN current BLOB;"
    "ALTER TABLE placement ADD COLUMN next BLOB;";
// Since schema 3. wanted is one more.
constexpr char kAddWanted[] =
    "ALTER TABLE placement ADD COLUMN wanted BLOB;"
    "ALTER TABLE placement ADD COLUMN restores INTEGER NOT NULL DEFAULT 0;";
// Since schema 4. purpose is a PlacementChange::Purpose, as restores was its first two; adapters is
// a serialized v1::AdapterCatalogue.
constexpr char kAddAdapters[] =
    "ALTER TABLE placement RENAME COLUMN restores TO purpose;"
    "ALTER TABLE placement ADD COLUMN adapters BLOB;";

std::string Serialize(const std::optional<scheduler::Placement>& placement) {
  return placement ? ToProto(*placement).SerializeAsString() : "";
}

}  // namespace

// A prepared statement, finalised at the end of its scope. Unsigned 64-bit numbers are stored as
// their signed twins.
class StateStore::Statement {
 public:
  Statement(sqlite3* database, const char* sql) {
    sqlite3_prepare_v2(database, sql, -1, &statement_, nullptr);
  }
  ~Statement() { sqlite3_finalize(statement_); }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;

  void Bind(int at, uint64_t value) {
    sqlite3_bind_int64(statement_, at, static_cast<sqlite3_int64>(value));
  }
  void BindText(int at, const std::string& value) {
    sqlite3_bind_text(statement_, at, value.data(), static_cast<int>(value.size()),
                      SQLITE_TRANSIENT);
  }
  void BindBlob(int at, const std::string& value) {
    sqlite3_bind_blob(statement_, at, value.data(), static_cast<int>(value.size()),
                      SQLITE_TRANSIENT);
  }
  int Step() { return statement_ == nullptr ? SQLITE_ERROR : sqlite3_step(statement_); }
  uint64_t Number(int column) const {
    return static_cast<uint64_t>(sqlite3_column_int64(statement_, column));
  }
  std::string Bytes(int column) const {
    const auto* const bytes = static_cast<const char*>(sqlite3_column_blob(statement_, column));
    return std::string(bytes == nullptr ? "" : bytes,
                       static_cast<size_t>(sqlite3_column_bytes(statement_, column)));
  }

 private:
  sqlite3_stmt* statement_ = nullptr;
};

absl::StatusOr<std::unique_ptr<StateStore>> StateStore::Open(const std::string& directory) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);  // a failure shows when opening
  const std::string path = directory + "/scheduler.db";
  sqlite3* database = nullptr;
  const int opened =
      sqlite3_open_v2(path.c_str(), &database,
                      SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOFOLLOW, nullptr);
  std::unique_ptr<StateStore> store(new StateStore(database, path));
  if (opened != SQLITE_OK) return store->Error();
  sqlite3_extended_result_codes(database, 1);
  CONCLAVE_RETURN_IF_ERROR(store->Check());
  CONCLAVE_RETURN_IF_ERROR(store->Prepare());
  return store;
}

StateStore::~StateStore() { sqlite3_close(database_); }

// Looks before it touches: a file that is not ours stays as it is.
absl::Status StateStore::Check() {
  CONCLAVE_RETURN_IF_ERROR(Execute("PRAGMA locking_mode=EXCLUSIVE"));
  CONCLAVE_ASSIGN_OR_RETURN(const int64_t application, Number("PRAGMA application_id"));
  CONCLAVE_ASSIGN_OR_RETURN(const int64_t schema, Number("PRAGMA user_version"));
  CONCLAVE_ASSIGN_OR_RETURN(const int64_t tables, Number("SELECT count(*) FROM sqlite_master"));
  const bool empty = application == 0 && schema == 0 && tables == 0;
  if (!empty && application != kApplication) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s is a database of another program", path_));
  }
  if (!empty && (schema < 1 || schema > kSchema)) {
    return absl::FailedPreconditionError(
        absl::StrFormat("%s has schema version %d, this build knows %d", path_, schema, kSchema));
  }
  Statement check(database_, "PRAGMA integrity_check(1)");
  if (check.Step() != SQLITE_ROW) return Error();
  if (const std::string verdict = check.Bytes(0); verdict != "ok") {
    return absl::DataLossError(absl::StrFormat("%s is corrupt: %s", path_, verdict));
  }
  return absl::OkStatus();
}

absl::Status StateStore::Prepare() {
  CONCLAVE_RETURN_IF_ERROR(Execute("PRAGMA journal_mode=WAL"));
  CONCLAVE_RETURN_IF_ERROR(Execute("PRAGMA synchronous=FULL"));
  CONCLAVE_RETURN_IF_ERROR(
      Execute("BEGIN EXCLUSIVE"));  // the lock is then held until the file is closed
  CONCLAVE_ASSIGN_OR_RETURN(const int64_t schema, Number("PRAGMA user_version"));
  if (schema < kSchema) CONCLAVE_RETURN_IF_ERROR(Migrate(schema));
  return Execute("COMMIT");
}

// From an older schema, 0 being an empty file, within the caller's transaction.
absl::Status StateStore::Migrate(int64_t schema) {
  if (schema == 0) {
    CONCLAVE_RETURN_IF_ERROR(Execute(kTables));
    CONCLAVE_RETURN_IF_ERROR(
        Execute(absl::StrFormat("PRAGMA application_id=%d", kApplication).c_str()));
  }
  if (schema < 2) CONCLAVE_RETURN_IF_ERROR(Execute(kAddPlacement));
  if (schema < 3) CONCLAVE_RETURN_IF_ERROR(Execute(kAddWanted));
  CONCLAVE_RETURN_IF_ERROR(Execute(kAddAdapters));
  return Execute(absl::StrFormat("PRAGMA user_version=%d", kSchema).c_str());
}

absl::StatusOr<StateStore::State> StateStore::Load() {
  State state;
  CONCLAVE_RETURN_IF_ERROR(LoadPlacement(&state));
  CONCLAVE_RETURN_IF_ERROR(LoadAdapters(&state));
  Statement workers(database_,
                    "SELECT id, incarnation, address, state, info FROM workers ORDER BY id");
  int result;
  while ((result = workers.Step()) == SQLITE_ROW) {
    const uint64_t worker_state = workers.Number(3);
    if (worker_state > static_cast<uint64_t>(WorkerState::kDead)) {
      return absl::DataLossError(absl::StrFormat("%s: worker \"%s\" has the unknown state %d",
                                                 path_, workers.Bytes(0), worker_state));
    }
    Membership::Worker worker{.id = workers.Bytes(0),
                              .incarnation = workers.Number(1),
                              .address = workers.Bytes(2),
                              .state = static_cast<WorkerState>(worker_state)};
    state.infos[worker.id] = workers.Bytes(4);
    state.membership.workers.push_back(std::move(worker));
  }
  if (result != SQLITE_DONE) return Error();
  return state;
}

absl::Status StateStore::LoadPlacement(State* state) {
  Statement row(database_,
                "SELECT epoch, version, last_plan, released, purpose, current, next, wanted "
                "FROM placement");
  if (row.Step() != SQLITE_ROW) return Error();
  epoch_ = row.Number(0);
  last_plan_ = row.Number(2);
  state->membership.version = row.Number(1);
  state->placement.last_plan = last_plan_;
  state->placement.floor = row.Number(3);
  const uint64_t purpose = row.Number(4);
  if (purpose > static_cast<uint64_t>(Purpose::kAdapters)) {
    return absl::DataLossError(
        absl::StrFormat("%s: a placement has the unknown purpose %d", path_, purpose));
  }
  state->placement.purpose = static_cast<Purpose>(purpose);
  std::optional<scheduler::Placement>* const targets[] = {
      &state->placement.current, &state->placement.next, &state->placement.wanted};
  for (int i = 0; i < 3; ++i) {
    const std::string bytes = row.Bytes(5 + i);
    if (bytes.empty()) continue;
    v1::Placement message;
    if (!message.ParseFromString(bytes))
      return absl::DataLossError(absl::StrFormat("%s: a placement cannot be read", path_));
    absl::StatusOr<scheduler::Placement> placement = FromProto(message);
    if (!placement.ok()) {
      return absl::DataLossError(
          absl::StrFormat("%s: %s", path_, std::string(placement.status().message())));
    }
    *targets[i] = *std::move(placement);
  }
  // An epoch without a placement, as schema 1 has it, is nobody's.
  state->membership.epoch = state->placement.current ? state->placement.current->epoch : 0;
  return absl::OkStatus();
}

absl::Status StateStore::LoadAdapters(State* state) {
  Statement row(database_, "SELECT adapters FROM placement");
  if (row.Step() != SQLITE_ROW) return Error();
  v1::AdapterCatalogue message;
  if (!message.ParseFromString(row.Bytes(0)))
    return absl::DataLossError(absl::StrFormat("%s: the adapters cannot be read", path_));
  absl::StatusOr<scheduler::AdapterRegister> adapters = FromProto(message);
  if (!adapters.ok()) {
    return absl::DataLossError(
        absl::StrFormat("%s: %s", path_, std::string(adapters.status().message())));
  }
  state->adapters = *std::move(adapters);
  return absl::OkStatus();
}

absl::Status StateStore::Save(const State& state) {
  CONCLAVE_RETURN_IF_ERROR(Execute("BEGIN"));
  const absl::Status written = [&]() -> absl::Status {
    CONCLAVE_RETURN_IF_ERROR(SavePlacement(state));
    CONCLAVE_RETURN_IF_ERROR(SaveWorkers(state));
    return Execute("COMMIT");
  }();
  if (!written.ok()) {
    Execute("ROLLBACK").IgnoreError();  // some errors have rolled back already
    return written;
  }
  epoch_ = state.membership.epoch;
  last_plan_ = state.placement.last_plan;
  return absl::OkStatus();
}

absl::Status StateStore::SavePlacement(const State& state) {
  Statement row(database_,
                "UPDATE placement SET epoch = ?, version = ?, last_plan = ?, released = ?, "
                "purpose = ?, current = ?, next = ?, wanted = ?, adapters = ? "
                "WHERE epoch = ? AND last_plan = ?");
  row.Bind(1, state.membership.epoch);
  row.Bind(2, state.membership.version);
  row.Bind(3, state.placement.last_plan);
  row.Bind(4, state.placement.floor);
  row.Bind(5, static_cast<uint64_t>(state.placement.purpose));
  row.BindBlob(6, Serialize(state.placement.current));
  row.BindBlob(7, Serialize(state.placement.next));
  row.BindBlob(8, Serialize(state.placement.wanted));
  row.BindBlob(9, ToProto(state.adapters).SerializeAsString());
  row.Bind(10, epoch_);
  row.Bind(11, last_plan_);
  if (row.Step() != SQLITE_DONE) return Error();
  if (sqlite3_changes(database_) == 1) return absl::OkStatus();
  return absl::AbortedError(absl::StrFormat("%s holds another placement than epoch %d of plan %d",
                                            path_, epoch_, last_plan_));
}

absl::Status StateStore::SaveWorkers(const State& state) {
  CONCLAVE_RETURN_IF_ERROR(Execute("DELETE FROM workers"));
  for (const Membership::Worker& worker : state.membership.workers) {
    Statement insert(database_, "INSERT INTO workers VALUES(?, ?, ?, ?, ?)");
    insert.BindText(1, worker.id);
    insert.Bind(2, worker.incarnation);
    insert.BindText(3, worker.address);
    insert.Bind(4, static_cast<uint64_t>(worker.state));
    const auto info = state.infos.find(worker.id);
    insert.BindBlob(5, info == state.infos.end() ? "" : info->second);
    if (insert.Step() != SQLITE_DONE) return Error();
  }
  return absl::OkStatus();
}

absl::Status StateStore::Execute(const char* sql) {
  return sqlite3_exec(database_, sql, nullptr, nullptr, nullptr) == SQLITE_OK ? absl::OkStatus()
                                                                              : Error();
}

absl::StatusOr<int64_t> StateStore::Number(const char* sql) {
  Statement statement(database_, sql);
  if (statement.Step() != SQLITE_ROW) return Error();
  return static_cast<int64_t>(statement.Number(0));
}

absl::Status StateStore::Error() const {
  const std::string what = absl::StrFormat("%s: %s", path_, sqlite3_errmsg(database_));
  switch (sqlite3_errcode(database_) & 0xff) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return absl::FailedPreconditionError(
          absl::StrFormat("%s is in use by another scheduler", path_));
    case SQLITE_NOTADB:
      return absl::InvalidArgumentError(what);
    case SQLITE_CORRUPT:
      return absl::DataLossError(what);
    default:
      return absl::UnavailableError(what);
  }
}

}  // namespace conclave::services

#include "services/state_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sqlite3.h>

#include <cstring>

#include "tests/worker/testing/tiny_checkpoint.h"

namespace conclave::services {
namespace {

using scheduler::WorkerState;
using ::testing::HasSubstr;
using worker::testing::ReadFileOrDie;
using worker::testing::TempDir;
using worker::testing::WriteFileOrDie;

StateStore::State Example() {
  StateStore::State state;
  state.membership.epoch = 7;
  state.placement = {
      .last_plan = 12,
      .floor = 6,
      .current =
          scheduler::Placement{
              .epoch = 7, .plan = 11, .workers = {"a", "b"}, .owners = {{0}, {0, 1}, {1}}},
      .next =
          scheduler::Placement{.epoch = 8, .plan = 12, .workers = {"a"}, .owners = {{0}, {0}, {0}}},
      .wanted =
          scheduler::Placement{
              .epoch = 5, .plan = 9, .workers = {"a", "c"}, .owners = {{0}, {1}, {1}}},
      .purpose = scheduler::PlacementChange::Purpose::kAdapters};
  state.adapters = {.last_number = 9,
                    .active = {{"law", "1a"}, {"jura", "1a"}},
                    .draining = {{"law", "2b"}},
                    .versions = {{"1a",
                                  {.source = "/adapters/law",
                                   .replaced = {1, 2, 3},
                                   .bytes = 100,
                                   .shared_bytes = 30,
                                   .on_disk = true}},
                                 {"2b", {.source = "/adapters/old", .replaced = {1}, .bytes = 50}}},
                    .operations = {{.id = "mine",
                                    .name = "law",
                                    .source = "/adapters/law",
                                    .stage = scheduler::AdapterStage::kDone,
                                    .check = 7,
                                    .digest = "1a",
                                    .experts = {},
                                    .bytes = 100,
                                    .replaced = "2b",
                                    .bytes_freed = 0,
                                    .message = ""},
                                   {.id = "#8",
                                    .name = "code",
                                    .source = "/adapters/code",
                                    .stage = scheduler::AdapterStage::kPlacing,
                                    .check = 8,
                                    .digest = "3c",
                                    .experts = {0, 2, 5},
                                    .bytes = 300,
                                    .replaced = "",
                                    .message = ""},
                                   {.id = "#9",
                                    .removes = true,
                                    .name = "gone",
                                    .source = "",
                                    .stage = scheduler::AdapterStage::kFailed,
                                    .check = 9,
                                    .digest = "",
                                    .experts = {},
                                    .replaced = "",
                                    .error = scheduler::AdapterError::kTooLate,
                                    .message = "too late"}}};
  state.membership.version = ~uint64_t{0} - 1;  // beyond SQLite's signed numbers
  state.membership.workers = {{"a", 3, "127.0.0.1:1", WorkerState::kReady},
                              {"b", ~uint64_t{0}, "[::1]:2", WorkerState::kDead}};
  state.infos = {{"a", std::string("by\0tes", 6)}, {"b", ""}};
  return state;
}

void ExpectEqual(const StateStore::State& got, const StateStore::State& wanted) {
  EXPECT_EQ(got.membership.epoch, wanted.membership.epoch);
  EXPECT_EQ(got.placement, wanted.placement);
  EXPECT_EQ(got.adapters, wanted.adapters);
  EXPECT_EQ(got.membership.version, wanted.membership.version);
  ASSERT_EQ(got.membership.workers.size(), wanted.membership.workers.size());
  for (size_t i = 0; i < wanted.membership.workers.size(); ++i) {
    EXPECT_EQ(got.membership.workers[i].id, wanted.membership.workers[i].id);
    EXPECT_EQ(got.membership.workers[i].incarnation, wanted.membership.workers[i].incarnation);
    EXPECT_EQ(got.membership.workers[i].address, wanted.membership.workers[i].address);
    EXPECT_EQ(got.membership.workers[i].state, wanted.membership.workers[i].state);
  }
  EXPECT_EQ(got.infos, wanted.infos);
}

// What opening says; the store is closed again.
absl::Status Open(const TempDir& directory) { return StateStore::Open(directory.path()).status(); }

class StateStoreTest : public ::testing::Test {
 protected:
  std::unique_ptr<StateStore> OpenOrDie() {
    auto store = StateStore::Open(directory_.path());
    EXPECT_TRUE(store.ok()) << store.status();
    return store.ok() ? *std::move(store) : nullptr;
  }
  void ExpectRefused(absl::StatusCode code, const std::string& why) {
    const absl::Status status = Open(directory_);
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(file_));
    EXPECT_THAT(std::string(status.message()), HasSubstr(why));
  }
  void Sql(const std::string& sql) {
    sqlite3* database = nullptr;
    ASSERT_EQ(sqlite3_open(file_.c_str(), &database), SQLITE_OK);
    ASSERT_EQ(sqlite3_exec(database, sql.c_str(), nullptr, nullptr, nullptr), SQLITE_OK)
        << sqlite3_errmsg(database);
    sqlite3_close(database);
  }

  TempDir directory_;
  const std::string file_ = directory_.File("scheduler.db");
};

TEST_F(StateStoreTest, StartsEmptyAndRemembers) {
  {
    const auto store = OpenOrDie();
    ExpectEqual(*store->Load(), {});
    ASSERT_TRUE(store->Save(Example()).ok());
    ASSERT_TRUE(store->Save(Example()).ok());
  }
  ExpectEqual(*OpenOrDie()->Load(), Example());
}

TEST_F(StateStoreTest, SurvivesACrashRightAfterASave) {
  const auto store = OpenOrDie();
  ASSERT_TRUE(store->Save(Example()).ok());
  // What a crash leaves: the files as they are now, without a close.
  TempDir after;
  for (const char* name : {"scheduler.db", "scheduler.db-wal"}) {
    WriteFileOrDie(after.File(name), ReadFileOrDie(directory_.File(name)));
  }
  auto restarted = StateStore::Open(after.path());
  ASSERT_TRUE(restarted.ok()) << restarted.status();
  ExpectEqual(*(*restarted)->Load(), Example());
}

TEST_F(StateStoreTest, ForgetsTheWholeOfASaveThatWasCutShort) {
  const auto store = OpenOrDie();
  ASSERT_TRUE(store->Save(Example()).ok());
  const std::string before = ReadFileOrDie(directory_.File("scheduler.db-wal"));
  StateStore::State next = Example();
  next.membership.epoch = 8;
  next.placement.current = std::exchange(next.placement.next, std::nullopt);
  next.membership.workers.clear();
  next.infos.clear();
  ASSERT_TRUE(store->Save(next).ok());
  const std::string after = ReadFileOrDie(directory_.File("scheduler.db-wal"));
  ASSERT_GT(after.size(), before.size());
  for (size_t size = before.size(); size < after.size(); size += 97) {
    TempDir crashed;
    WriteFileOrDie(crashed.File("scheduler.db"), ReadFileOrDie(file_));
    WriteFileOrDie(crashed.File("scheduler.db-wal"), after.substr(0, size));
    auto restarted = StateStore::Open(crashed.path());
    ASSERT_TRUE(restarted.ok()) << restarted.status();
    ExpectEqual(*(*restarted)->Load(), Example());
  }
}

TEST_F(StateStoreTest, IsForOneSchedulerAtATime) {
  const auto store = OpenOrDie();
  ExpectRefused(absl::StatusCode::kFailedPrecondition, "in use by another scheduler");
}

TEST_F(StateStoreTest, RefusesAFileThatIsNoDatabase) {
  WriteFileOrDie(file_, std::string(8192, 'x'));
  ExpectRefused(absl::StatusCode::kInvalidArgument, "not a database");
  EXPECT_EQ(ReadFileOrDie(file_), std::string(8192, 'x'));
}

TEST_F(StateStoreTest, RefusesADatabaseOfSomebodyElse) {
  Sql("CREATE TABLE recipes(name TEXT)");
  ExpectRefused(absl::StatusCode::kInvalidArgument, "another program");
}

TEST_F(StateStoreTest, RefusesALaterSchema) {
  OpenOrDie().reset();
  Sql("PRAGMA user_version=5");
  ExpectRefused(absl::StatusCode::kFailedPrecondition, "schema version 5");
}

TEST_F(StateStoreTest, BringsAFileOfTheFirstSchemaUpToDate) {
  Sql("CREATE TABLE placement(epoch INTEGER NOT NULL, version INTEGER NOT NULL);"
      "INSERT INTO placement VALUES(0, 5);"
      "CREATE TABLE workers(id TEXT PRIMARY KEY, incarnation INTEGER NOT NULL,"
      " address TEXT NOT NULL, state INTEGER NOT NULL, info BLOB NOT NULL) WITHOUT ROWID;"
      "INSERT INTO workers VALUES('a', 3, '127.0.0.1:1', 0, x'6279');"
      "PRAGMA application_id=1129202508; PRAGMA user_version=1;");
  {
    const auto store = OpenOrDie();
    const StateStore::State state = *store->Load();
    EXPECT_EQ(state.membership.version, 5u);
    EXPECT_EQ(state.membership.workers[0].id, "a");
    EXPECT_EQ(state.placement, scheduler::PlacementChange::Stored());
    ASSERT_TRUE(store->Save(Example()).ok());
  }
  ExpectEqual(*OpenOrDie()->Load(), Example());
}

TEST_F(StateStoreTest, BringsAFileOfTheSecondSchemaUpToDate) {
  StateStore::State old = Example();
  old.placement.wanted.reset();
  old.placement.purpose = scheduler::PlacementChange::Purpose::kPlan;
  old.adapters = {};
  {
    const auto store = OpenOrDie();
    ASSERT_TRUE(store->Save(old).ok());
  }
  Sql("ALTER TABLE placement DROP COLUMN wanted; ALTER TABLE placement DROP COLUMN purpose;"
      "ALTER TABLE placement DROP COLUMN adapters; PRAGMA user_version=2;");
  ExpectEqual(*OpenOrDie()->Load(), old);
}

TEST_F(StateStoreTest, BringsAFileOfTheThirdSchemaUpToDate) {
  StateStore::State old = Example();
  old.placement.purpose = scheduler::PlacementChange::Purpose::kRestore;
  old.adapters = {};
  {
    const auto store = OpenOrDie();
    ASSERT_TRUE(store->Save(old).ok());
  }
  Sql("ALTER TABLE placement RENAME COLUMN purpose TO restores;"
      "ALTER TABLE placement DROP COLUMN adapters; PRAGMA user_version=3;");
  {
    const auto store = OpenOrDie();
    ExpectEqual(*store->Load(), old);
    ASSERT_TRUE(store->Save(Example()).ok());
  }
  ExpectEqual(*OpenOrDie()->Load(), Example());
}

TEST_F(StateStoreTest, RefusesAdaptersThatAreNone) {
  {
    const auto store = OpenOrDie();
    ASSERT_TRUE(store->Save(Example()).ok());
  }
  Sql("UPDATE placement SET adapters = x'ff'");
  EXPECT_EQ(OpenOrDie()->Load().status().code(), absl::StatusCode::kDataLoss);
  Sql("UPDATE placement SET adapters = x'0a00'");  // one without name and version
  const absl::Status status = OpenOrDie()->Load().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("has no name or no version"));
  Sql("UPDATE placement SET purpose = 3, adapters = x''");
  EXPECT_EQ(OpenOrDie()->Load().status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(StateStoreTest, SavesOnlyOverThePlacementItKnows) {
  {
    const auto store = OpenOrDie();
    ASSERT_TRUE(store->Save(Example()).ok());
  }
  const auto store = OpenOrDie();  // has loaded nothing, so it knows of none
  EXPECT_EQ(store->Save(Example()).code(), absl::StatusCode::kAborted);
  ExpectEqual(*store->Load(), Example());
  StateStore::State next = Example();
  next.placement.last_plan = 13;
  EXPECT_TRUE(store->Save(next).ok());
  EXPECT_TRUE(store->Save(next).ok());
}

TEST_F(StateStoreTest, RefusesAPlacementThatIsNone) {
  {
    const auto store = OpenOrDie();
    ASSERT_TRUE(store->Load().ok());
    ASSERT_TRUE(store->Save(Example()).ok());
  }
  Sql("UPDATE placement SET current = x'0801'");
  EXPECT_EQ(OpenOrDie()->Load().status().code(), absl::StatusCode::kDataLoss);
  Sql("UPDATE placement SET current = x'ff'");
  EXPECT_EQ(OpenOrDie()->Load().status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(StateStoreTest, RefusesACorruptFile) {
  {
    const auto store = OpenOrDie();
    ASSERT_TRUE(store->Save(Example()).ok());
  }
  std::string bytes = ReadFileOrDie(file_);
  ASSERT_GE(bytes.size(), 3u * 4096);
  std::memset(&bytes[4096], 0x5a, bytes.size() - 4096);
  WriteFileOrDie(file_, bytes);
  ExpectRefused(absl::StatusCode::kDataLoss, "");
}

TEST_F(StateStoreTest, RefusesAStateThatDoesNotExist) {
  {
    const auto store = OpenOrDie();
    ASSERT_TRUE(store->Save(Example()).ok());
  }
  Sql("UPDATE workers SET state = 9 WHERE id = 'b'");
  EXPECT_EQ(OpenOrDie()->Load().status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(StateStoreTest, SaysWhenItCannotBeOpened) {
  auto store = StateStore::Open("/proc/nowhere");
  EXPECT_EQ(store.status().code(), absl::StatusCode::kUnavailable) << store.status();
}

}  // namespace
}  // namespace conclave::services

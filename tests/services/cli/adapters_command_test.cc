// conclave adapters against a scripted router.

#include <gmock/gmock.h>

#include <filesystem>

#include "tests/services/cli/commands_fixture.h"

namespace conclave::services::cli {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

TEST_F(Commands, AdaptersListTellsThemAndWhatIsDoneWithThem) {
  EXPECT_EQ(Call({"adapters", "list"}), kDone);
  EXPECT_EQ(out_.str(), "adapter    none\n");
  v1::Adapter& adapter = *router_.catalogue.add_adapters();
  adapter.set_name("law");
  adapter.set_digest("0123456789abcdef");
  adapter.set_state(v1::ADAPTER_STATE_DRAINING);
  adapter.set_source("/adapters/law");
  adapter.set_experts(3);
  adapter.set_bytes(4096);
  v1::AdapterOperation& open = *router_.catalogue.add_operations();
  open.set_operation_id("#7");
  open.set_name("code");
  open.set_stage(v1::ADAPTER_STAGE_CHECKING);
  v1::AdapterOperation& failed = *router_.catalogue.add_operations();
  failed.set_operation_id("#6");
  failed.set_stage(v1::ADAPTER_STAGE_FAILED);
  failed.set_message("no such tensor");
  EXPECT_EQ(Call({"adapters", "list"}), kDone);
  EXPECT_EQ(out_.str(),
            "adapter    law  draining, version 0123456789ab, 3 experts, 4096 bytes of "
            "/adapters/law, in memory\n"
            "operation  #7  add code, checking\n");
  EXPECT_EQ(Call({"adapters", "list", "--json"}), kDone);
  const json document = Document();
  EXPECT_EQ(document["adapters"][0]["digest"], "0123456789abcdef");
  EXPECT_EQ(document["adapters"][0]["state"], "draining");
  EXPECT_EQ(document["operations"][0]["stage"], "checking");
  EXPECT_EQ(document["operations"][1]["error"], "no such tensor");
  EXPECT_EQ(document["adapters"][0]["residency"], "memory");
}

TEST_F(Commands, AdaptersListTellsWhyOneStaysOnDisk) {
  v1::Adapter& adapter = *router_.catalogue.add_adapters();
  adapter.set_name("law");
  adapter.set_state(v1::ADAPTER_STATE_ACTIVE);
  adapter.set_on_disk(true);
  adapter.set_problem("worker a cannot: no such directory");
  EXPECT_EQ(Call({"adapters", "list"}), kDone);
  EXPECT_THAT(out_.str(), HasSubstr(", on disk: worker a cannot: no such directory\n"));
  EXPECT_EQ(Call({"adapters", "list", "--json"}), kDone);
  EXPECT_EQ(Document()["adapters"][0]["residency"], "disk");
  EXPECT_EQ(Document()["adapters"][0]["problem"], "worker a cannot: no such directory");
}

TEST_F(Commands, AdaptersAddNamesTheDirectoryAsOthersReachIt) {
  router_.operate = [](const v1::AddAdapterRequest* adds, const v1::RemoveAdapterRequest*,
                       v1::AdapterOperation& response) {
    EXPECT_EQ(adds->name(), "law");
    EXPECT_EQ(adds->source(), std::filesystem::current_path().string() + "/dir/law");
    EXPECT_EQ(adds->operation_id(), "mine");
    response.set_name("law");
    response.set_digest("1a");
    response.set_replaced("2b");
    response.set_bytes(100);
    return grpc::Status::OK;
  };
  EXPECT_EQ(Call({"adapters", "add", "law=./dir/law", "--operation-id", "mine"}), kDone);
  EXPECT_EQ(out_.str(), "law is version 1a, 100 bytes; version 2b serves what began with it\n");
  EXPECT_EQ(Call({"adapters", "add", "law=dir/x/../law", "--operation-id=mine", "--json"}), kDone);
  EXPECT_EQ(Document()["replaced"], "2b");
  EXPECT_EQ(Document()["kind"], "add");
}

TEST_F(Commands, AdaptersRemoveTellsWhatIsFree) {
  router_.operate = [](const v1::AddAdapterRequest*, const v1::RemoveAdapterRequest* removes,
                       v1::AdapterOperation& response) {
    response.set_name(removes->name());
    response.set_removes(true);
    response.set_bytes_freed(4096);
    return grpc::Status::OK;
  };
  EXPECT_EQ(Call({"adapters", "remove", "law"}), kDone);
  EXPECT_EQ(out_.str(), "law is removed, 4096 bytes are free\n");
}

TEST_F(Commands, AdaptersFailWithTheClustersReason) {
  router_.operate = [](const v1::AddAdapterRequest*, const v1::RemoveAdapterRequest*,
                       v1::AdapterOperation&) {
    return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "adapter law: tensor x has NaN");
  };
  EXPECT_EQ(Call({"adapters", "add", "law=dir"}), kFailed);
  EXPECT_THAT(err_.str(), HasSubstr("INVALID_ARGUMENT: adapter law: tensor x has NaN"));
}

TEST_F(Commands, StatusTellsAdapters) {
  v1::Adapter& adapter = *router_.status.add_adapters();
  adapter.set_name("law");
  adapter.set_state(v1::ADAPTER_STATE_ACTIVE);
  EXPECT_EQ(Call({"status", "--json"}), kDone);
  EXPECT_EQ(Document()["adapters"][0]["name"], "law");
  EXPECT_EQ(Document()["adapters"][0]["state"], "active");
  EXPECT_EQ(Call({"status"}), kDone);
  EXPECT_THAT(out_.str(), HasSubstr("adapter    law  active"));
}

}  // namespace
}  // namespace conclave::services::cli

#include "services/convert_adapters.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <iterator>
#include <map>
#include <string>

namespace conclave::services {
namespace {

using scheduler::AdapterError;
using scheduler::AdapterRegister;
using scheduler::FoundAdapter;
using ::testing::HasSubstr;
using ::testing::StartsWith;

v1::AdapterChecked Checked() {
  return ToProto(7, {.digest = "1a", .replaced = {1, 5, 9}, .bytes = 30, .shared_bytes = 10});
}

TEST(ConvertAdapters, KeepsAReport) {
  const v1::AdapterChecked message = Checked();
  EXPECT_EQ(message.check(), 7u);
  const FoundAdapter found = FromProto(message);
  EXPECT_EQ(found.error, AdapterError::kNone);
  EXPECT_EQ(found.digest, "1a");
  EXPECT_EQ(found.replaced, (std::vector<scheduler::ExpertId>{1, 5, 9}));
  EXPECT_EQ(found.bytes, 30u);
  EXPECT_EQ(found.shared_bytes, 10u);
}

TEST(ConvertAdapters, ABeatHasRoomForWhatIsLackedWhateverItsReasonsAre) {
  std::map<std::string, std::string> lacks;
  for (int i = 0; i <= kLacksMax; ++i) lacks[std::string(120, 'a') + std::to_string(1000 + i)] = "";
  lacks.begin()->second = std::string(513, 'x');
  std::next(lacks.begin())->second = std::string(513, '\xff');  // as a file may be named
  v1::HeartbeatRequest beat;
  AddLacks(lacks, beat);
  ASSERT_EQ(beat.lacks_size(), kLacksMax);
  EXPECT_EQ(beat.lacks(0).digest(), lacks.begin()->first);
  EXPECT_EQ(beat.lacks(0).why(), std::string(512, 'x'));
  EXPECT_THAT(beat.lacks(1).why(), StartsWith("\\xff\\xff"));
  EXPECT_LE(beat.lacks(1).why().size(), 2048u) << "what a scheduler takes";
}

TEST(ConvertAdapters, AReportThatIsNoneSaysSo) {
  const auto refused = [](const auto& spoil) {
    v1::AdapterChecked message = Checked();
    spoil(message);
    const FoundAdapter found = FromProto(message, {.experts = 4});
    EXPECT_EQ(found.error, AdapterError::kInternal);
    return found.message;
  };
  EXPECT_THAT(refused([](auto& report) { report.set_code(17); }), HasSubstr("unknown code"));
  EXPECT_THAT(refused([](auto& report) { report.set_code(-1); }), HasSubstr("unknown code"));
  EXPECT_THAT(refused([](auto& report) { report.set_digest(""); }), HasSubstr("no digest"));
  EXPECT_THAT(refused([](auto& report) { report.set_digest("1A"); }), HasSubstr("no digest"));
  EXPECT_THAT(refused([](auto& report) { report.set_digest(std::string(129, 'a')); }),
              HasSubstr("no digest"));
  EXPECT_THAT(refused([](auto& report) { report.clear_replaced(); }), HasSubstr("no experts"));
  EXPECT_THAT(refused([](auto& report) { report.add_replaced(9); }), HasSubstr("out of order"));
  EXPECT_THAT(refused([](auto& report) {
                report.add_replaced(10);
                report.add_replaced(11);
              }),
              HasSubstr("too many experts"));
  EXPECT_THAT(refused([](auto& report) { report.set_shared_bytes(31); }),
              HasSubstr("more bytes of shared experts"));
}

TEST(ConvertAdapters, TellsOthersWhatOneReplacesOnlyIfNoPlacementDoes) {
  scheduler::AdapterRow row{.name = "law", .digest = "1a", .version = {.replaced = {3, 4}}};
  EXPECT_EQ(ToProto(row).experts(), 2u);
  EXPECT_EQ(ToProto(row).replaced_size(), 0);
  row.version.on_disk = true;
  EXPECT_TRUE(ToProto(row).on_disk());
  EXPECT_EQ(ToProto(row).replaced_size(), 2);
}

TEST(ConvertAdapters, CutsLongMessagesAndSpellsOutWhatIsNotUtf8) {
  EXPECT_EQ(ToProto(1, {.error = AdapterError::kInvalid, .message = "\xff"}).message(), "\\xff");
  const FoundAdapter found =
      FromProto(ToProto(1, {.error = AdapterError::kInvalid, .message = std::string(5000, 'a')}));
  EXPECT_EQ(found.message.size(), 2048u);
  EXPECT_EQ(found.error, AdapterError::kInvalid);
}

TEST(ConvertAdapters, RefusesACatalogueThatIsNone) {
  const auto refused = [](const auto& spoil) {
    AdapterRegister stored{
        .active = {{"law", "1a"}},
        .versions = {{"1a", {}}},
        .operations = {{.id = "x", .stage = scheduler::AdapterStage::kPlacing, .experts = {1, 2}}}};
    v1::AdapterCatalogue message = ToProto(stored);
    EXPECT_TRUE(FromProto(message).ok());
    spoil(message);
    const absl::Status status = FromProto(message).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(refused([](auto& catalogue) {
                catalogue.mutable_adapters(0)->add_replaced(2);
                catalogue.mutable_adapters(0)->add_replaced(2);
              }),
              HasSubstr("adapter law names its experts out of order or twice"));
  EXPECT_THAT(refused([](auto& catalogue) { catalogue.mutable_adapters(0)->set_shared_bytes(1); }),
              HasSubstr("more bytes of shared experts than of all"));
  EXPECT_THAT(refused([](auto& all) { *all.add_adapters() = all.adapters(0); }),
              HasSubstr("law has two versions"));
  EXPECT_THAT(refused([](auto& all) { all.mutable_adapters(0)->clear_digest(); }),
              HasSubstr("no version"));
  EXPECT_THAT(refused([](auto& all) { all.mutable_operations(0)->clear_operation_id(); }),
              HasSubstr("has no id"));
  EXPECT_THAT(refused([](auto& all) { all.mutable_operations(0)->clear_stage(); }),
              HasSubstr("unknown stage"));
  EXPECT_THAT(refused([](auto& all) { all.mutable_operations(0)->clear_replaced_experts(); }),
              HasSubstr("places no experts"));
  EXPECT_THAT(refused([](auto& all) { all.mutable_operations(0)->add_replaced_experts(2); }),
              HasSubstr("out of order"));
}

}  // namespace
}  // namespace conclave::services

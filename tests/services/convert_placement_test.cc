#include "services/convert_placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/worker/testing/tiny_checkpoint.h"

namespace conclave::services {
namespace {

using scheduler::Placement;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using worker::testing::TempDir;
using worker::testing::WriteFileOrDie;
using Owners = std::vector<std::vector<int32_t>>;

Placement Example(Owners owners = {{0}, {0, 1}, {1}}) {
  return {.epoch = 7, .plan = 9, .workers = {"a", "b"}, .owners = std::move(owners)};
}

std::string WhyNot(const v1::Placement& message, const scheduler::PlacementLimits& limits = {}) {
  const auto placement = FromProto(message, limits);
  if (placement.ok()) return "";
  EXPECT_EQ(placement.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(placement.status().message());
}

TEST(ConvertPlacement, ComesBackAsItWent) {
  EXPECT_EQ(*FromProto(ToProto(Example())), Example());
  const Placement single = Example({{0}, {1}, {1}});
  EXPECT_EQ(ToProto(single).copies_size(), 0) << "one each needs no counts";
  EXPECT_EQ(*FromProto(ToProto(single)), single);
}

Placement Adapted() {
  Placement placement = WithAdapter(Example(), {.digest = "v1", .source = "x", .replaced = {0, 3}});
  return WithAdapter(placement, {.digest = "v2", .source = "y", .replaced = {1, 2}});
}

TEST(ConvertPlacement, BringsAdaptersBackAsTheyWent) {
  EXPECT_EQ(*FromProto(ToProto(Adapted())), Adapted());
}

TEST(ConvertPlacement, BelievesNothingOfAdapters) {
  v1::Placement message = ToProto(Adapted());
  message.mutable_adapters(1)->set_first(4);
  EXPECT_THAT(WhyNot(message), HasSubstr("v2 has ids that another has"));
  message = ToProto(Adapted());
  message.mutable_adapters(0)->add_owners(0);
  EXPECT_THAT(WhyNot(message), HasSubstr("1 owners are left over"));
  message = ToProto(Adapted());
  EXPECT_EQ(WhyNot(message, {.experts = 7, .adapters = 2}), "");
  EXPECT_THAT(WhyNot(message, {.adapters = 1}),
              HasSubstr("2 versions of adapters, the limit is 1"));
  message.mutable_adapters(0)->mutable_replaced()->Resize(8, 0);
  EXPECT_THAT(WhyNot(message, {.experts = 7}), HasSubstr("8 experts of an adapter"));
}

TEST(ConvertPlacement, RefusesWhatIsNoneByName) {
  v1::Placement message = ToProto(Example());
  message.set_epoch(0);
  EXPECT_THAT(WhyNot(message), HasSubstr("epoch"));
  message = ToProto(Example());
  message.set_plan(0);
  EXPECT_THAT(WhyNot(message), HasSubstr("plan"));
  message = ToProto(Example());
  message.set_owners(2, 2);
  EXPECT_THAT(WhyNot(message), HasSubstr("expert 1 is given to worker 2 of 2"));
  message = ToProto(Example());
  message.set_owners(2, ~0u);
  EXPECT_THAT(WhyNot(message), HasSubstr("expert 1 is given to worker 4294967295"));
  message = ToProto(Example());
  message.set_copies(0, 0);
  EXPECT_THAT(WhyNot(message), HasSubstr("left over"));
  message = ToProto(Example());
  message.set_copies(0, ~0u);
  EXPECT_THAT(WhyNot(message), HasSubstr("expert 0 has 4294967295 copies, 4 are left"));
  message = ToProto(Example());
  message.add_owners(0);
  EXPECT_THAT(WhyNot(message), HasSubstr("1 owners are left over"));
  message = ToProto(Example());
  message.set_workers(0, "z\n");
  EXPECT_THAT(WhyNot(message), HasSubstr("out of order"));
}

TEST(ConvertPlacement, HoldsTheLimits) {
  EXPECT_EQ(WhyNot(ToProto(Example()), {.workers = 2, .experts = 3, .copies = 4}), "");
  EXPECT_THAT(WhyNot(ToProto(Example()), {.workers = 1}), HasSubstr("2 workers, the limit is 1"));
  EXPECT_THAT(WhyNot(ToProto(Example()), {.experts = 2}), HasSubstr("3 experts, the limit is 2"));
  EXPECT_THAT(WhyNot(ToProto(Example()), {.copies = 3}), HasSubstr("4 copies"));
}

constexpr char kPlan[] =
    R"({"workers":2,"layers":2,"experts":2,"placement":[[[0],[1,0]],[[1],[1]]],"par":1.5})";

std::string WhyNoPlan(const std::string& json, const PlanLimits& limits = {}) {
  const auto plan = ParsePlan(json, "plan.json", limits);
  if (plan.ok()) return "";
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(plan.status().message());
}

TEST(PlanJson, IsReadWithWhateverThePlannerRemarked) {
  const Plan plan = *ParsePlan(kPlan, "plan.json");
  EXPECT_EQ(plan.workers, 2);
  EXPECT_EQ(plan.layers, 2);
  EXPECT_EQ(plan.experts, 2);
  EXPECT_EQ(plan.owners, (Owners{{0}, {0, 1}, {1}, {1}}));
}

TEST(PlanJson, IsRefusedByNameOfLayerAndExpert) {
  const auto with = [](const std::string& placement) {
    return WhyNoPlan(R"({"workers":2,"layers":2,"experts":2,"placement":)" + placement + "}");
  };
  EXPECT_EQ(with("[[[0],[1]],[[1],[0]]]"), "");
  EXPECT_THAT(
      with("[[[0],[1]],[[1],[2]]]"),
      HasSubstr("plan.json: layer 1, expert 1 names worker 2, the plan has workers 0 to 1"));
  EXPECT_THAT(with("[[[0],[-1]],[[1],[0]]]"), HasSubstr("layer 0, expert 1 names worker -1"));
  EXPECT_THAT(with("[[[0],[0.5]],[[1],[0]]]"), HasSubstr("layer 0, expert 1 names worker 0.5"));
  EXPECT_THAT(with("[[[0],[]],[[1],[0]]]"), HasSubstr("layer 0, expert 1 has no owner"));
  EXPECT_THAT(with("[[[0],[1,1]],[[1],[0]]]"), HasSubstr("expert 1 names worker 1 twice"));
  EXPECT_THAT(with("[[[0],1],[[1],[0]]]"), HasSubstr("expert 1 is not a list of workers"));
  EXPECT_THAT(with("[[[0],[1]],[[1]]]"),
              HasSubstr("layer 1 does not list the owners of 2 experts"));
  EXPECT_THAT(with("[[[0],[1]]]"), HasSubstr("not a list of 2 layers"));
  EXPECT_THAT(with("7"), HasSubstr("not a list of 2 layers"));
}

TEST(PlanJson, IsRefusedWithoutItsCounts) {
  EXPECT_THAT(WhyNoPlan("[]"), HasSubstr("a plan is a JSON object"));
  EXPECT_THAT(WhyNoPlan("{"), HasSubstr("plan.json"));
  EXPECT_THAT(WhyNoPlan("{}"), HasSubstr("\"workers\" is missing"));
  EXPECT_THAT(WhyNoPlan(R"({"workers":"2"})"), HasSubstr("\"workers\" is not a whole number"));
  EXPECT_THAT(WhyNoPlan(R"({"workers":0})"), HasSubstr("\"workers\" is 0"));
  EXPECT_THAT(WhyNoPlan(R"({"workers":1,"layers":1,"experts":1})"),
              HasSubstr("\"placement\" is missing"));
  EXPECT_THAT(WhyNoPlan(R"({"workers":1,"layers":65536,"experts":3})"),
              HasSubstr("\"experts\" is 3, it must be 1 to 2"))
      << "all experts together are limited";
}

TEST(PlanJson, HoldsTheLimits) {
  EXPECT_EQ(WhyNoPlan(kPlan, {.bytes = sizeof(kPlan) - 1}), "");
  EXPECT_NE(WhyNoPlan(kPlan, {.bytes = sizeof(kPlan) - 2}), "");
  EXPECT_EQ(WhyNoPlan(kPlan, {.placement = {.workers = 2, .experts = 4, .copies = 5}}), "");
  EXPECT_THAT(WhyNoPlan(kPlan, {.placement = {.workers = 1}}), HasSubstr("\"workers\" is 2"));
  EXPECT_THAT(WhyNoPlan(kPlan, {.placement = {.experts = 3}}), HasSubstr("\"experts\" is 2"));
  EXPECT_THAT(WhyNoPlan(kPlan, {.placement = {.copies = 4}}),
              HasSubstr("layer 1, expert 1 is above the limit of 4 copies"));
}

TEST(PlanJson, IsReadFromAFile) {
  TempDir directory;
  EXPECT_EQ(ReadPlan(directory.File("none.json")).status().code(), absl::StatusCode::kNotFound);
  WriteFileOrDie(directory.File("plan.json"), kPlan);
  EXPECT_EQ(ReadPlan(directory.File("plan.json"))->workers, 2);
}

TEST(ApplyRequest, ComesBackAsItWentAndIsNotBelieved) {
  const Plan plan = *ParsePlan(kPlan, "plan.json");
  EXPECT_EQ(FromProto(ToProto(plan))->owners, plan.owners);
  const auto refused = [&](auto&& change) {
    v1::ApplyRequest request = ToProto(plan);
    change(request);
    return FromProto(request).status().code() == absl::StatusCode::kInvalidArgument;
  };
  EXPECT_TRUE(refused([](auto& request) { request.set_workers(0); }));
  EXPECT_TRUE(refused([](auto& request) { request.set_workers(1025); }));
  EXPECT_TRUE(refused([](auto& request) { request.set_workers(1); }));
  EXPECT_TRUE(refused([](auto& request) { request.set_layers(3); }));
  EXPECT_TRUE(refused([](auto& request) {
    request.set_layers(1u << 31);
    request.set_experts(1u << 31);
  }));
  EXPECT_TRUE(refused([](auto& request) { request.set_owners(1, 1); }));  // [1, 1]
  EXPECT_TRUE(refused([](auto& request) { request.set_copies(1, 3); }));
  EXPECT_TRUE(refused([](auto& request) { request.clear_owners(); }));
}

v1::ModelInfo TwoLayers() {
  v1::ModelInfo model;
  model.set_name("tiny");
  model.set_moe_layers(2);
  model.set_experts(2);
  model.add_moe_layer_indices(1);
  model.add_moe_layer_indices(3);
  return model;
}

TEST(Resolve, GivesWorkersByName) {
  const Plan plan = *ParsePlan(kPlan, "plan.json");
  EXPECT_THAT(Resolve(plan, {"x", "y"}, TwoLayers())->workers, ElementsAre("x", "y"));
  EXPECT_THAT(std::string(Resolve(plan, {"x"}, TwoLayers()).status().message()),
              HasSubstr("the plan is for 2 workers, alive are 1 (x)"));
  v1::ModelInfo other = TwoLayers();
  other.set_experts(4);
  EXPECT_THAT(std::string(Resolve(plan, {"x", "y"}, other).status().message()),
              HasSubstr("the plan is for 2 layers of 2 experts, tiny has 2 of 4"));
}

class ResidencyTest : public ::testing::Test {
 protected:
  ResidencyTest() {
    for (const char* id : {"a", "b"}) {
      v1::WorkerInfo& worker = *view_.add_workers();
      worker.set_id(id);
      worker.set_state(v1::WORKER_STATE_READY);
      *worker.mutable_model() = TwoLayers();
    }
  }
  v1::ResidencyResponse Residency(const v1::ResidencyRequest& request = {}) {
    v1::ResidencyResponse response;
    EXPECT_TRUE(FillResidency(view_, request, &response).ok());
    return response;
  }

  v1::ClusterView view_;
};

TEST_F(ResidencyTest, IsEverywhereWithoutAPlacement) {
  EXPECT_EQ(Residency().epoch(), 0u);
  EXPECT_THAT(Residency().workers(), ElementsAre("a", "b"));
  ASSERT_EQ(Residency().layers_size(), 2);
  EXPECT_EQ(Residency().layers(1).layer(), 3u);
  EXPECT_THAT(Residency().layers(1).copies(), ElementsAre(2, 2));
  view_.mutable_workers(1)->set_state(v1::WORKER_STATE_DEAD);
  EXPECT_THAT(Residency().workers(), ElementsAre("a"));
}

TEST_F(ResidencyTest, IsWhatThePlacementSays) {
  *view_.mutable_placement() = ToProto(Example({{0}, {0, 1}, {1}, {0}}));
  EXPECT_EQ(Residency().epoch(), 7u);
  EXPECT_THAT(Residency().layers(0).copies(), ElementsAre(1, 2));
  EXPECT_THAT(Residency().layers(0).owners(), ElementsAre(0, 0, 1));
  EXPECT_THAT(Residency().layers(1).owners(), ElementsAre(1, 0));
}

TEST_F(ResidencyTest, IsOfOneLayerIfAsked) {
  v1::ResidencyRequest request;
  request.set_layer(3);
  EXPECT_EQ(Residency(request).layers_size(), 1);
  request.set_layer(2);
  v1::ResidencyResponse response;
  const absl::Status status = FillResidency(view_, request, &response);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("layer: 2 has no experts"));
}

TEST_F(ResidencyTest, IsUnknownWithoutWorkers) {
  v1::ResidencyResponse response;
  EXPECT_EQ(FillResidency({}, {}, &response).code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace conclave::services

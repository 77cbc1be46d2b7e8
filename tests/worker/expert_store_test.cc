// Experts that the checkpoint at hand lacks, had from a worker whose checkpoint has them.

#include "worker/experts/expert_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <numeric>

#include "tests/worker/testing/edited_checkpoint.h"
#include "tests/worker/testing/without_experts.h"
#include "worker/model/absent_experts.h"
#include "worker/model/widen.h"

namespace conclave::worker {
namespace {

using scheduler::ExpertId;
using ::testing::HasSubstr;

// Has what a store lends.
class StoreSource final : public ExpertSource {
 public:
  explicit StoreSource(ExpertStore& store) : store_(store) {}

  absl::StatusOr<SealedMemory> Fetch(const Wanted& wanted) override {
    if (wanted.expert == refused) return absl::UnavailableError("the test refuses it");
    const auto loan = store_.Lend(wanted.expert);
    EXPECT_TRUE(loan.ok()) << loan.status();
    EXPECT_EQ((*loan)->bytes().size(), wanted.bytes);
    std::string bytes(wanted.bytes, '?');
    (*loan)->bytes().Read(0, bytes.size() / 3, bytes.data());
    const uint64_t rest = bytes.size() - bytes.size() / 3;
    (*loan)->bytes().Read(bytes.size() / 3, rest, bytes.data() + bytes.size() / 3);
    SealedMemory memory = *SealedMemory::Create("test", wanted.bytes);
    EXPECT_TRUE(memory.Append(bytes).ok() && memory.Seal().ok());
    EXPECT_EQ(*memory.Sha256(), (*loan)->Sha256());
    ++fetched;
    return memory;
  }

  ExpertId refused = 1 << 30;
  std::atomic<int> fetched = 0;

 private:
  ExpertStore& store_;
};

std::shared_ptr<const Model> LoadEdited(const std::string& name, const testing::Edit& edit,
                                        const ModelOptions& options) {
  testing::TempDir directory;
  testing::WriteEdited(name, edit, directory.path());
  auto model = Model::Load(directory.path(), options);
  EXPECT_TRUE(model.ok()) << model.status();
  return *std::move(model);
}

ModelOptions Told(const Model& by) {
  return {.ask_layers = [layers = by.checkpoint.layers](const std::string&) { return layers; }};
}

std::vector<ExpertId> AllOf(const Model& model) {
  std::vector<ExpertId> all(model.Experts().size());
  std::iota(all.begin(), all.end(), ExpertId{0});
  return all;
}

void ExpectSame(const Weight& a, const Weight& b) {
  ASSERT_EQ(static_cast<bool>(a), static_cast<bool>(b));
  if (a) {
    EXPECT_EQ(Widen(a), Widen(b));
  }
}

class ExpertStoreOfCheckpoint : public ::testing::TestWithParam<const char*> {};

TEST_P(ExpertStoreOfCheckpoint, HasFetchedExpertsBitForBitAsTheirCheckpointHasThem) {
  const auto whole = LoadEdited(GetParam(), nullptr, {});
  const auto lacking = LoadEdited(GetParam(), testing::WithoutExperts(), Told(*whole));
  EXPECT_EQ(lacking->digest, whole->digest);
  ExpertStore owner({}, *whole);
  StoreSource source(owner);
  ExpertStore store({.source = &source}, *lacking);
  const std::vector<ExpertId> all = AllOf(*whole);

  const absl::Status held = store.Hold(all);
  ASSERT_TRUE(held.ok()) << held;
  EXPECT_EQ(store.stats().fetched, all.size());
  for (const ExpertId id : all) {
    const FfnWeights &ours = *lacking->Experts()[id], &theirs = *whole->Experts()[id];
    for (const auto member : {&FfnWeights::gate, &FfnWeights::up, &FfnWeights::down,
                              &FfnWeights::gate_bias, &FfnWeights::up_bias, &FfnWeights::down_bias})
      ExpectSame(ours.*member, theirs.*member);
    EXPECT_EQ(ours.gate.type, theirs.gate.type);
    EXPECT_EQ(ours.activation.kind, theirs.activation.kind);
  }
  store.Drop(all);
  EXPECT_EQ(store.stats().fetched_bytes, 0u);
}

INSTANTIATE_TEST_SUITE_P(Layouts, ExpertStoreOfCheckpoint,
                         ::testing::Values("olmoe-plain", "olmoe-plain-bf16", "mixtral-plain",
                                           "deepseek-v2-greedy", "deepseek-v3-fp8-bf16",
                                           "deepseek-v3-loose-fused", "gpt-oss-published-bf16",
                                           "glm4-moe-plain", "qwen2-moe-window"),
                         [](const auto& checkpoint) {
                           std::string name = checkpoint.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

class ExpertStoreTest : public ::testing::Test {
 protected:
  std::shared_ptr<const Model> whole_ = LoadEdited("olmoe-plain", nullptr, {});
  std::shared_ptr<const Model> lacking_ =
      LoadEdited("olmoe-plain", testing::WithoutExperts(), Told(*whole_));
  ExpertStore owner_{{}, *whole_};
  StoreSource source_{owner_};
  ExpertStore store_{{.source = &source_}, *lacking_};
};

TEST_F(ExpertStoreTest, FetchesWhatItHasNotGotAndNothingTwice) {
  const std::vector<ExpertId> first = {0, 1, 2}, second = {1, 2, 3};
  ASSERT_TRUE(store_.Hold(first).ok());
  ASSERT_TRUE(store_.Hold(second).ok());
  EXPECT_EQ(source_.fetched, 4);
  EXPECT_EQ(store_.stats().fetched, 4u);
}

TEST_F(ExpertStoreTest, HoldsAllOrNothingAndNamesTheExpertThatCannotBeHad) {
  source_.refused = 9;
  const std::vector<ExpertId> before = {1}, wanted = {1, 7, 8, 9};
  ASSERT_TRUE(store_.Hold(before).ok());
  const absl::Status held = store_.Hold(wanted);
  EXPECT_EQ(held.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(held.message()),
              HasSubstr("expert 9 (layer 1, slot 1) is not in the checkpoint at hand: the test "
                        "refuses it"));
  EXPECT_EQ(store_.stats().fetched, 1u) << "what was held stays, what came in vain goes";
}

TEST_F(ExpertStoreTest, LendsWhatItHasAndKeepsItUntilItIsReturned) {
  const std::vector<ExpertId> some = {3};
  EXPECT_EQ(store_.Lend(3).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(store_.Lend(static_cast<ExpertId>(whole_->Experts().size())).status().code(),
            absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(store_.Hold(some).ok());
  {
    const auto loan = store_.Lend(3);
    ASSERT_TRUE(loan.ok()) << loan.status();
    store_.Drop(some);
    EXPECT_EQ(store_.stats().fetched, 1u);
    EXPECT_EQ((*loan)->Sha256(), (*owner_.Lend(3))->Sha256());
  }
  EXPECT_EQ(store_.stats().fetched, 0u);
}

TEST_F(ExpertStoreTest, KeepsWhatIsWantedAgainBeforeItsLoanEnds) {
  const std::vector<ExpertId> some = {3};
  ASSERT_TRUE(store_.Hold(some).ok());
  {
    const auto loan = store_.Lend(3);
    store_.Drop(some);
    ASSERT_TRUE(store_.Hold(some).ok());
  }
  EXPECT_EQ(store_.stats().fetched, 1u);
  EXPECT_EQ(source_.fetched, 1);
}

TEST(ExpertStore, ConvertsForALoanWhatItDoesNotHold) {
  const auto held = LoadEdited("deepseek-v3-fp8-bf16", nullptr, {});
  const auto idle = LoadEdited("deepseek-v3-fp8-bf16", nullptr, {.hold_experts = false});
  ExpertStore whole({}, *held), store({.placed = true}, *idle);
  const std::vector<ExpertId> other = {1};
  for (int time = 0; time < 2; ++time) {
    const auto loan = store.Lend(0);
    ASSERT_TRUE(loan.ok()) << loan.status();
    EXPECT_EQ((*loan)->bytes().Sha256(), (*whole.Lend(0))->bytes().Sha256());
    ASSERT_TRUE(store.Hold(other).ok());
  }
  const FfnWeights &ours = *idle->Experts()[1], &theirs = *held->Experts()[1];
  ExpectSame(ours.gate, theirs.gate);
}

TEST(ModelWithoutExperts, IsRefusedUnlessSomebodyTellsOfThem) {
  EXPECT_THAT(testing::LoadError("olmoe-plain", testing::WithoutExperts()),
              HasSubstr("\"model.layers.0.mlp.experts.0.gate_proj.weight\" is missing; with "
                        "--fetch-experts a worker gets experts from others"));
}

TEST(ModelWithoutExperts, LacksALayersExpertsIfOneTensorIsMissing) {
  const auto whole = LoadEdited("olmoe-plain", nullptr, {});
  const auto lacking = LoadEdited(
      "olmoe-plain", testing::Remove("model.layers.1.mlp.experts.2.up_proj.weight"), Told(*whole));
  ASSERT_NE(lacking->absent, nullptr);
  EXPECT_EQ(lacking->absent->size(), static_cast<size_t>(whole->spec.gate.slots));
  EXPECT_FALSE(lacking->absent->Has(0));
  EXPECT_EQ(lacking->digest, whole->digest);
}

TEST(ModelWithoutExperts, IsRefusedIfWhatItHasIsAnotherCheckpoints) {
  const auto whole = LoadEdited("olmoe-plain", nullptr, {});
  testing::TempDir directory;
  const auto edit = [](nlohmann::json& config, std::vector<testing::TinyTensor>& tensors) {
    testing::WithoutExperts(1)(config, tensors);
    for (testing::TinyTensor& tensor : tensors) {
      if (testing::IsOfExperts(tensor.name)) tensor.bytes[tensor.bytes.size() / 2] ^= 1;
    }
  };
  testing::WriteEdited("olmoe-plain", edit, directory.path());
  const absl::Status loaded = Model::Load(directory.path(), Told(*whole)).status();
  EXPECT_EQ(loaded.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(loaded.message()),
              HasSubstr("the experts of layer 1, counting layers that have some, are of another "
                        "checkpoint"));
}

TEST(ModelWithoutExperts, NeedsItsDenseTensors) {
  const auto whole = LoadEdited("olmoe-plain", nullptr, {});
  testing::TempDir directory;
  testing::WriteEdited("olmoe-plain", testing::Remove("model.layers.0.mlp.gate.weight"),
                       directory.path());
  EXPECT_THAT(std::string(Model::Load(directory.path(), Told(*whole)).status().message()),
              HasSubstr("\"model.layers.0.mlp.gate.weight\" is missing"));
}

}  // namespace
}  // namespace conclave::worker

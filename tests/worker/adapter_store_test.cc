#include "worker/experts/adapter_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "tests/worker/testing/edited_checkpoint.h"
#include "tests/worker/testing/tiny_adapter.h"

namespace conclave::worker {
namespace {

using scheduler::ExpertId;
using scheduler::PlacedAdapter;
using scheduler::Placement;
using ::testing::HasSubstr;
using testing::MakeTinyAdapter;
using testing::TempDir;
using testing::TinyAdapter;
using testing::TinyTensor;

constexpr char kBase[] = CONCLAVE_SOURCE_DIR "/tests/reference/checkpoints/deepseek-v2-group";

class AdapterStoreTest : public ::testing::Test {
 protected:
  AdapterStoreTest() {
    WriteAdapter(MakeTinyAdapter(kBase, 1, {.shared = true}), directory_.path());
    placement_ = scheduler::Everywhere({"a", "b"}, model_->Experts().size());
  }
  // Its experts half at "a", half at "b".
  Placement Placed() {
    const AdapterCheck check = *store_.Check(directory_.path());
    return WithAdapter(
        placement_,
        {.digest = check.digest, .source = directory_.path(), .replaced = check.replaced});
  }
  void KeepOnly(const AdapterStore::Placements& placements) {
    store_.Keep(placements, "a", [this](ExpertId expert) { gone_.push_back(expert); });
  }

  TempDir directory_;
  const std::shared_ptr<const Model> model_ = *Model::Load(kBase);
  ExpertStore base_{{}, *model_};
  AdapterStore store_{{}, *model_, base_};
  Placement placement_;
  std::vector<ExpertId> gone_;
};

TEST_F(AdapterStoreTest, HoldsWhatAWorkerOwnsAndSharedExperts) {
  const Placement placed = Placed();
  ASSERT_TRUE(store_.Hold(placed, "a").ok());
  const PlacedAdapter& adapter = placed.adapters[0];
  uint64_t bytes = 0;
  const auto files = *AdapterFiles::Open(directory_.path(), *model_);
  for (size_t i = 0; i < adapter.replaced.size(); ++i) {
    const ExpertId id = adapter.first + static_cast<ExpertId>(i);
    const bool wanted = Owns(placed, 0, id) || IsShared(placed, adapter, id);
    EXPECT_EQ(store_.Find(id) != nullptr, wanted) << id;
    const bool shared = IsShared(placed, adapter, id);
    const ExpertLayout layout =
        shared ? ExpertLayout::OfShared(model_->spec) : ExpertLayout(model_->spec);
    if (wanted) bytes += layout.bytes();
  }
  EXPECT_EQ(store_.stats().bytes, bytes);
  EXPECT_EQ(store_.stats().versions, 1u);
}

TEST_F(AdapterStoreTest, AWorkerOfNoPlacementHoldsSharedExpertsAlone) {
  const Placement placed = Placed();
  ASSERT_TRUE(store_.Hold(placed, "stranger").ok());
  for (const auto& [id, weights] : store_.All())
    EXPECT_TRUE(IsShared(placed, placed.adapters[0], id)) << id;
  EXPECT_GT(store_.stats().experts, 0u);
}

TEST_F(AdapterStoreTest, KeepsWhatAPlacementNamesWhereItLies) {
  const auto placed = std::make_shared<const Placement>(Placed());
  ASSERT_TRUE(store_.Hold(*placed, "a").ok());
  const auto before = store_.All();
  ASSERT_TRUE(store_.Hold(*placed, "a").ok()) << "once more";
  KeepOnly({placed});
  EXPECT_EQ(store_.All(), before);
  EXPECT_TRUE(gone_.empty());
}

TEST_F(AdapterStoreTest, GivesBackWhatNoPlacementNames) {
  const Placement placed = Placed();
  ASSERT_TRUE(store_.Hold(placed, "a").ok());
  const AdapterStore::Stats before = store_.stats();
  KeepOnly({std::make_shared<const Placement>(placement_)});
  const AdapterStore::Stats after = store_.stats();
  EXPECT_EQ(gone_.size(), before.experts);
  EXPECT_EQ(after.experts, 0u);
  EXPECT_EQ(after.versions, 0u);
  EXPECT_EQ(after.freed_bytes, before.bytes);
}

TEST_F(AdapterStoreTest, HasAnExpertThatComesLaterThoughTheDirectoryIsGone) {
  Placement placed = Placed();
  ASSERT_TRUE(store_.Hold(placed, "a").ok());
  std::filesystem::remove_all(directory_.path());
  for (auto& owners : placed.adapters[0].owners) {
    if (!owners.empty()) owners = {0};
  }
  const absl::Status held = store_.Hold(placed, "a");
  ASSERT_TRUE(held.ok()) << held;
  EXPECT_EQ(store_.stats().experts, placed.adapters[0].replaced.size());
}

TEST_F(AdapterStoreTest, KeepsTheLastOnesOpenThoughNoPlacementNamesThem) {
  const Placement placed = Placed();
  ASSERT_TRUE(store_.Hold(placed, "a").ok());
  KeepOnly({});
  ASSERT_EQ(store_.stats().versions, 0u);
  std::filesystem::remove_all(directory_.path());
  ASSERT_TRUE(store_.Hold(placed, "a").ok()) << "it is not verified anew";
  KeepOnly({});
  for (uint64_t seed = 2; seed < 6; ++seed) {
    const TempDir other;
    WriteAdapter(MakeTinyAdapter(kBase, seed), other.path());
    ASSERT_TRUE(store_.Check(other.path()).ok());
  }
  EXPECT_FALSE(store_.Hold(placed, "a").ok()) << "of four others it is the oldest";
}

TEST_F(AdapterStoreTest, AsksADirectoryAnewThatWasDamagedAndIsMended) {
  const Placement placed = Placed();
  const std::string file = directory_.path() + "/model-00001-of-000001.safetensors";
  const std::string kept = directory_.path() + "/../kept-" + std::to_string(getpid());
  std::filesystem::copy_file(file, kept);
  std::filesystem::resize_file(file, std::filesystem::file_size(file) - 1);
  EXPECT_FALSE(store_.Hold(placed, "a").ok());
  std::filesystem::rename(kept, file);
  const absl::Status held = store_.Hold(placed, "a");
  EXPECT_TRUE(held.ok()) << held;
}

TEST_F(AdapterStoreTest, DoesWithoutAVersionThatItMayLackAndSaysWhy) {
  Placement placed = Placed();
  TempDir other;
  WriteAdapter(MakeTinyAdapter(kBase, 2, {}), other.path());
  const AdapterCheck check = *store_.Check(other.path());
  placed = WithAdapter(
      placed, {.digest = check.digest, .source = other.path(), .replaced = check.replaced});
  const std::string& lost = placed.adapters[0].digest;
  std::filesystem::resize_file(directory_.path() + "/model-00001-of-000001.safetensors", 100);
  EXPECT_FALSE(store_.Hold(placed, "a").ok());
  EXPECT_EQ(store_.stats().experts, 0u) << "all or none";

  const auto lacks =
      store_.HoldBut(placed, "a", [&](const std::string& digest) { return digest == lost; });
  ASSERT_TRUE(lacks.ok()) << lacks.status();
  ASSERT_EQ(lacks->size(), 1u);
  EXPECT_THAT(lacks->at(lost), HasSubstr(directory_.path()));
  EXPECT_FALSE(store_.Holds(placed, lost, "a"));
  EXPECT_TRUE(store_.Holds(placed, check.digest, "a"));
}

TEST_F(AdapterStoreTest, LacksNothingOfAVersionOfWhichItNeedsNothingMore) {
  Placement placed = Placed();
  ASSERT_TRUE(store_.Hold(placed, "a").ok());
  const std::string file = directory_.path() + "/model-00001-of-000001.safetensors";
  const std::string kept = directory_.path() + "/../kept-" + std::to_string(getpid());
  std::filesystem::copy_file(file, kept);
  std::filesystem::resize_file(file, 100);
  const auto any = [](const std::string&) { return true; };
  EXPECT_TRUE(store_.HoldBut(placed, "a", any)->empty());
  Placement more = placed;
  for (auto& owners : more.adapters[0].owners) {
    if (!owners.empty()) owners = {0};
  }
  EXPECT_EQ(store_.HoldBut(more, "a", any)->size(), 1u);
  EXPECT_TRUE(store_.Hold(placed, "a").ok()) << "what it has it has still";
  std::filesystem::rename(kept, file);
  const absl::Status mended = store_.Hold(more, "a");
  EXPECT_TRUE(mended.ok()) << mended;
}

TEST_F(AdapterStoreTest, RefusesADirectoryThatHasBecomeAnotherVersion) {
  const Placement placed = Placed();
  AdapterStore restarted({}, *model_, base_);
  WriteAdapter(MakeTinyAdapter(kBase, 2, {.shared = true}), directory_.path());
  const absl::Status held = restarted.Hold(placed, "a");
  EXPECT_EQ(held.code(), absl::StatusCode::kFailedPrecondition) << held;
  EXPECT_THAT(std::string(held.message()), HasSubstr(placed.adapters[0].digest));
  EXPECT_EQ(restarted.stats().experts, 0u);
}

TEST_F(AdapterStoreTest, RefusesIdsThatAreStillAnothers) {
  const Placement placed = Placed();
  ASSERT_TRUE(store_.Hold(placed, "a").ok());
  const AdapterStore::Stats before = store_.stats();
  TempDir other;
  WriteAdapter(MakeTinyAdapter(kBase, 2, {}), other.path());
  const AdapterCheck check = *store_.Check(other.path());
  const Placement conflicting = WithAdapter(
      placement_, {.digest = check.digest, .source = other.path(), .replaced = check.replaced});
  const absl::Status held = store_.Hold(conflicting, "a");
  EXPECT_EQ(held.code(), absl::StatusCode::kFailedPrecondition) << held;
  EXPECT_EQ(store_.stats().bytes, before.bytes) << "all or nothing";
}

TEST_F(AdapterStoreTest, RefusesAPlacementThatReplacesOtherExperts) {
  Placement placed = Placed();
  placed.adapters[0].replaced.pop_back();
  placed.adapters[0].owners.pop_back();
  EXPECT_EQ(store_.Hold(placed, "a").code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(AdapterStoreTest, ChecksTheSameDirectoryToTheSameVersion) {
  const AdapterCheck check = *store_.Check(directory_.path());
  EXPECT_EQ(*store_.Check(directory_.path()), check);
  EXPECT_GT(check.bytes, check.shared_bytes);
  const auto shared = static_cast<uint64_t>(
      std::count_if(check.replaced.begin(), check.replaced.end(),
                    [&](ExpertId expert) { return expert >= model_->Experts().size(); }));
  EXPECT_EQ(check.shared_bytes, shared * ExpertLayout::OfShared(model_->spec).bytes());
  EXPECT_TRUE(std::is_sorted(check.replaced.begin(), check.replaced.end()));
}

TEST_F(AdapterStoreTest, RefusesNumbersThatDifferAndComputeTheSame) {
  // Whatever the other numbers are, a net whose last product is with zeros gives zeros.
  const auto silence = [](std::vector<TinyTensor>& tensors) {
    for (TinyTensor& tensor : tensors) {
      if (tensor.name.find(".experts.") != std::string::npos &&
          tensor.name.find("down_proj") != std::string::npos)
        tensor.bytes.assign(tensor.bytes.size(), '\0');
    }
  };
  TempDir checkpoint, directory;
  testing::WriteEdited(
      "deepseek-v2-group", [&](auto&, auto& tensors) { silence(tensors); }, checkpoint.path());
  TinyAdapter adapter = MakeTinyAdapter(checkpoint.path(), 1, {});
  silence(adapter.tensors);
  WriteAdapter(adapter, directory.path());
  const std::shared_ptr<const Model> silent = *Model::Load(checkpoint.path());
  ExpertStore base({}, *silent);
  AdapterStore store({}, *silent, base);
  const auto check = store.Check(directory.path());
  EXPECT_EQ(check.status().code(), absl::StatusCode::kInvalidArgument) << check.status();
  EXPECT_THAT(std::string(check.status().message()), HasSubstr("compute the same"));
}

}  // namespace
}  // namespace conclave::worker

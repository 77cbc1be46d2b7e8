// What the tensors of an adapter may be called: whichever way, it is the same adapter.

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/str_replace.h"
#include "tests/worker/testing/tiny_adapter.h"
#include "worker/model/adapter_files.h"
#include "worker/model/safetensors.h"

namespace conclave::worker {
namespace {

using testing::TempDir;
using testing::TinyAdapter;
using testing::TinyAdapterOptions;
using testing::TinyTensor;

class AdapterNames : public ::testing::Test {
 protected:
  void Use(const std::string& checkpoint) {
    checkpoint_ = CONCLAVE_SOURCE_DIR "/tests/reference/checkpoints/" + checkpoint;
    auto base = Model::Load(checkpoint_);
    ASSERT_TRUE(base.ok()) << base.status();
    base_ = *std::move(base);
  }

  absl::StatusOr<std::string> VersionOf(const TinyAdapter& adapter) {
    TempDir dir;
    testing::WriteAdapter(adapter, dir.path());
    const auto files = AdapterFiles::Open(dir.path(), *base_);
    if (!files.ok()) return files.status();
    return (*files)->version();
  }

  void ExpectSame(const TinyAdapter& a, const TinyAdapter& b) {
    const auto version = VersionOf(a);
    ASSERT_TRUE(version.ok()) << version.status();
    const auto other = VersionOf(b);
    ASSERT_TRUE(other.ok()) << other.status();
    EXPECT_EQ(*version, *other);
  }

  std::string checkpoint_;
  std::shared_ptr<const Model> base_;
};

// Numbers (first + r * row_step + c * column_step) of a tensor, [rows, cols] of them; without rows
// [cols].
TinyTensor Numbers(const TinyTensor& from, const std::string& name, int64_t rows, int64_t cols,
                   int64_t first, int64_t row_step, int64_t column_step) {
  const size_t size = SizeOf(*ComputeType(from.type));
  TinyTensor to = {name, from.type, {rows, cols}, ""};
  if (rows == 0) to.shape = {cols};
  for (int64_t r = 0; r < std::max<int64_t>(rows, 1); ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      const auto at = static_cast<size_t>(first + r * row_step + c * column_step);
      to.bytes += from.bytes.substr(at * size, size);
    }
  }
  return to;
}

TEST_F(AdapterNames, OfMixtralMayBeTheReleasedOnes) {
  Use("mixtral-plain");
  const TinyAdapter own = testing::MakeTinyAdapter(checkpoint_, 1);
  TinyAdapter released = own;
  for (TinyTensor& tensor : released.tensors) {
    tensor.name = absl::StrReplaceAll(tensor.name, {{"block_sparse_moe", "mlp"},
                                                    {".w1.", ".gate_proj."},
                                                    {".w3.", ".up_proj."},
                                                    {".w2.", ".down_proj."}});
  }
  ExpectSame(own, released);
}

TEST_F(AdapterNames, OfGptOssMayBeTheReleasedOnes) {
  Use("gpt-oss-published-bf16");
  const TinyAdapter own = testing::MakeTinyAdapter(checkpoint_, 1);
  TinyAdapter released = own;
  released.tensors.clear();
  const int64_t dim = base_->spec.dim, ffn = base_->spec.expert_ffn_dim;
  for (const TinyTensor& t : own.tensors) {
    const std::string expert = t.name.substr(0, t.name.rfind('.') + 1);
    std::vector<TinyTensor>& to = released.tensors;
    if (t.name.ends_with(".gate_up_proj")) {  // [dim, 2 ffn], gate and up taking turns
      to.push_back(Numbers(t, expert + "gate_proj.weight", ffn, dim, 0, 2, 2 * ffn));
      to.push_back(Numbers(t, expert + "up_proj.weight", ffn, dim, 1, 2, 2 * ffn));
    } else if (t.name.ends_with(".gate_up_proj_bias")) {
      to.push_back(Numbers(t, expert + "gate_proj.bias", 0, ffn, 0, 0, 2));
      to.push_back(Numbers(t, expert + "up_proj.bias", 0, ffn, 1, 0, 2));
    } else if (t.name.ends_with(".down_proj")) {  // [ffn, dim]
      to.push_back(Numbers(t, expert + "down_proj.weight", dim, ffn, 0, 1, dim));
    } else {
      to.push_back({expert + "down_proj.bias", t.type, t.shape, t.bytes});
    }
  }
  ExpectSame(own, released);
}

TEST_F(AdapterNames, OfALayerInOneTensorMayBeOfEachExpert) {
  for (const char* const checkpoint : {"gpt-oss-plain", "mixtral-window", "glm4-moe-one"}) {
    SCOPED_TRACE(checkpoint);
    Use(checkpoint);
    const TinyAdapter stacked = testing::MakeTinyAdapter(checkpoint_, 2, {.stacked = true});
    TinyAdapter each = stacked;
    each.tensors.clear();
    for (const TinyTensor& stack : stacked.tensors) {
      const int layer = std::stoi(stack.name.substr(std::string("model.layers.").size()));
      const std::vector<int>& slots = stacked.experts.at(layer);
      const size_t share = stack.bytes.size() / slots.size();
      for (size_t i = 0; i < slots.size(); ++i) {
        each.tensors.push_back(
            {absl::StrReplaceAll(stack.name,
                                 {{".experts.", ".experts." + std::to_string(slots[i]) + "."}}),
             stack.type,
             {stack.shape.begin() + 1, stack.shape.end()},
             stack.bytes.substr(i * share, share)});
      }
    }
    ExpectSame(stacked, each);
  }
}

TEST_F(AdapterNames, OfAllExpertsOfALayerStandForTheBasesOwnTensor) {
  Use("gpt-oss-plain");
  const TinyAdapter ascending = testing::MakeTinyAdapter(
      checkpoint_, 3, {.which = TinyAdapterOptions::Which::kAll, .stacked = true});
  TinyAdapter listed = ascending;
  for (auto& [layer, slots] : listed.experts) std::reverse(slots.begin(), slots.end());
  listed.WriteConfig();
  ExpectSame(ascending, listed);
}

}  // namespace
}  // namespace conclave::worker

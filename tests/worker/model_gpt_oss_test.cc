// gpt-oss: what becomes of its settings and of experts that are stored in another order, and what
// is refused by name.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "tests/worker/testing/edited_checkpoint.h"
#include "worker/model/model.h"
#include "worker/model/widen.h"

namespace conclave::worker {
namespace {

using testing::Change;
using testing::Drop;
using testing::Edit;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::Named;
using testing::Refusal;
using testing::Remove;
using testing::Set;
using testing::TempDir;
using testing::TinyTensor;
using Json = nlohmann::json;

constexpr char kCheckpoint[] = "gpt-oss-published";  // 3 layers, 8 experts of 18 x 10
constexpr char kGateUp[] = "model.layers.1.mlp.experts.gate_up_proj";
constexpr char kDown[] = "model.layers.1.mlp.experts.down_proj";
constexpr char kSinks[] = "model.layers.1.self_attn.sinks";

std::shared_ptr<const Model> Load(const Edit& edit = {}, const char* name = kCheckpoint) {
  TempDir dir;
  testing::WriteEdited(name, edit, dir.path());
  auto model = Model::Load(dir.path());
  EXPECT_TRUE(model.ok()) << model.status();
  return model.ok() ? *model : nullptr;
}

std::vector<int32_t> Windows(const Model& model) {
  std::vector<int32_t> windows;
  for (const LayerSpec& layer : model.spec.layers) windows.push_back(layer.window);
  return windows;
}

TEST(GptOss, ReadsItsSettings) {
  const auto model = Load();
  ASSERT_NE(model, nullptr);
  EXPECT_THAT(Windows(*model), ElementsAre(20, 0, 20));
  EXPECT_EQ(model->spec.attention.head_dim, 8);  // of 18 columns over 4 heads
  EXPECT_EQ(model->spec.gate.score, GateShape::Score::kLogit);
  EXPECT_EQ(model->layers[2].attention.sinks.size(), 4u);
  const FfnActivation& activation = model->layers[0].experts[7].activation;
  EXPECT_EQ(activation.kind, FfnActivation::Kind::kClampedSwish);
  EXPECT_EQ(activation.alpha, 1.702f);
  EXPECT_EQ(activation.limit, 7.0f);
}

TEST(GptOss, AlternatesWindowsWhereLayersAreNotListed) {
  const auto model = Load(Drop("layer_types"));
  ASSERT_NE(model, nullptr);
  EXPECT_THAT(Windows(*model), ElementsAre(20, 0, 20));
}

// Numbers every element of the tensor, so that where each one went shows.
Edit Numbered(const std::string& name) {
  return Change(name, [](TinyTensor& w) {
    for (size_t i = 0; i < w.bytes.size() / 4; ++i) {
      const auto number = static_cast<float>(i);
      std::memcpy(&w.bytes[4 * i], &number, 4);
    }
  });
}

TEST(GptOss, PutsTheColumnsOfItsExpertsInRows) {
  const auto model = Load([](Json& config, std::vector<TinyTensor>& tensors) {
    for (const std::string name : {kGateUp, kDown}) {
      Numbered(name)(config, tensors);
      Numbered(name + "_bias")(config, tensors);
    }
  });
  ASSERT_NE(model, nullptr);
  constexpr int64_t kDim = 18, kFfn = 10;
  const FfnWeights& expert = model->layers[1].experts[5];
  const std::vector<float> gate = Widen(expert.gate), up = Widen(expert.up);
  const std::vector<float> down = Widen(expert.down);
  for (int64_t f = 0; f < kFfn; ++f) {
    for (int64_t c = 0; c < kDim; ++c) {
      const int64_t column = (5 * kDim + c) * 2 * kFfn + 2 * f;
      const auto row = static_cast<size_t>(f * kDim + c);
      ASSERT_EQ(gate[row], static_cast<float>(column));
      ASSERT_EQ(up[row], static_cast<float>(column + 1));
      ASSERT_EQ(down[static_cast<size_t>(c * kFfn + f)],
                static_cast<float>((5 * kFfn + f) * kDim + c));
    }
    const auto at = static_cast<size_t>(f);
    ASSERT_EQ(Widen(expert.gate_bias)[at], static_cast<float>(5 * 2 * kFfn + 2 * f));
    ASSERT_EQ(Widen(expert.up_bias)[at], static_cast<float>(5 * 2 * kFfn + 2 * f + 1));
  }
  EXPECT_EQ(Widen(expert.down_bias)[3], 5.0f * kDim + 3);
  // All three matrices and two biases of every expert of three layers.
  EXPECT_GE(model->converted_bytes(), 3 * 8 * (3 * kDim * kFfn + 2 * kFfn) * 4);
}

TEST(GptOss, MayHaveFloatNormsAndBiasesInBf16) {
  const auto widen = [](std::vector<TinyTensor>& tensors, const std::string& name) {
    TinyTensor& w = Named(tensors, name);
    w.type = "F32";
    std::string bytes;
    for (size_t i = 0; i < w.bytes.size(); i += 2)
      bytes += std::string(2, '\0') + w.bytes.substr(i, 2);
    w.bytes = bytes;
  };
  const auto model = Load(
      [&](Json&, std::vector<TinyTensor>& tensors) {
        for (const char* name :
             {"model.norm.weight", "model.layers.0.mlp.router.weight",
              "model.layers.0.mlp.router.bias", "model.layers.0.mlp.experts.gate_up_proj_bias",
              "model.layers.0.mlp.experts.down_proj_bias", "model.layers.0.self_attn.sinks"}) {
          widen(tensors, name);
        }
      },
      "gpt-oss-published-bf16");
  ASSERT_NE(model, nullptr);
  EXPECT_EQ(model->layers[0].experts[0].gate_bias.type, DType::kF32);
  EXPECT_EQ(model->layers[0].gate.type, DType::kF32);
}

class GptOssRefuses : public ::testing::TestWithParam<Refusal> {};
TEST_P(GptOssRefuses, ByName) {
  EXPECT_THAT(testing::LoadError(GetParam().checkpoint, GetParam().edit),
              HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    Settings, GptOssRefuses,
    ::testing::Values(
        Refusal{"Mxfp4BesideF32", kCheckpoint,
                Set("quantization_config", {{"quant_method", "mxfp4"}}),
                "model.embed_tokens.weight\" is not BF16, and packed experts go with it"},
        Refusal{"Mxfp4OfThisSize", "gpt-oss-published-bf16",
                Set("quantization_config", {{"quant_method", "mxfp4"}}),
                "experts.gate_up_proj\" would have matrices of 20 x 18, and MXFP4 takes multiples"},
        Refusal{"Fp8Experts", kCheckpoint,
                [](Json& config, std::vector<TinyTensor>& tensors) {
                  config["quantization_config"] = {{"quant_method", "fp8"},
                                                   {"weight_block_size", {128, 128}}};
                  TinyTensor& w = Named(tensors, kGateUp);
                  w.type = "F8_E4M3";
                  w.bytes.resize(w.bytes.size() / 4);
                },
                "gate_up_proj\" is F8_E4M3, supported: F32, F16, BF16"},
        Refusal{"Activation", kCheckpoint, Set("hidden_act", "gelu"), "hidden_act is \"gelu\""},
        Refusal{"NoHeadDim", kCheckpoint, Drop("head_dim"), "head_dim is missing"},
        Refusal{"NoKvHeads", kCheckpoint, Drop("num_key_value_heads"),
                "num_key_value_heads is missing"},
        Refusal{"UnevenHeads", kCheckpoint, Set("num_key_value_heads", 3),
                "num_key_value_heads 3 does not divide num_attention_heads 4"},
        Refusal{"NoRope", kCheckpoint, Set("rope_scaling", nullptr), "rope_scaling is missing"},
        Refusal{"LongRope", kCheckpoint, Set("rope_scaling", {{"rope_type", "longrope"}}),
                "rope_type is \"longrope\""},
        Refusal{"NoWindow", kCheckpoint, Drop("sliding_window"), "without a sliding_window"},
        Refusal{"NoWindowNoTypes", kCheckpoint,
                [](Json& config, auto&) {
                  config.erase("sliding_window");
                  config.erase("layer_types");
                },
                "sliding_window is missing"},
        Refusal{"WindowOfNone", kCheckpoint, Set("sliding_window", 0),
                "sliding_window is 0, expected 1 to 1048576"},
        Refusal{"FewLayerTypes", kCheckpoint, Set("layer_types", {"full_attention"}),
                "layer_types has 1 entries, num_hidden_layers is 3"},
        Refusal{"OtherLayerType", kCheckpoint,
                Set("layer_types", {"full_attention", "chunked_attention", "full_attention"}),
                "layer_types has \"chunked_attention\""},
        Refusal{"LimitOfNone", kCheckpoint, Set("swiglu_limit", 0.0), "swiglu_limit is 0"},
        Refusal{"TwoTopKs", kCheckpoint, Set("experts_per_token", 2),
                "experts_per_token is 2, expected 3 to 3"},
        Refusal{"NoExperts", kCheckpoint, Drop("num_local_experts"),
                "num_local_experts is missing"}),
    [](const auto& one) { return one.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Tensors, GptOssRefuses,
    ::testing::Values(
        Refusal{"NoSinks", kCheckpoint, Remove(kSinks), "self_attn.sinks\" is missing"},
        Refusal{"InfiniteSink", kCheckpoint,
                Change(kSinks,
                       [](TinyTensor& w) {
                         const float infinite = INFINITY;
                         std::memcpy(w.bytes.data() + 4, &infinite, 4);
                       }),
                "self_attn.sinks\" has a value that is not finite"},
        Refusal{"ManySinks", kCheckpoint,
                Change(kSinks,
                       [](TinyTensor& w) {
                         w.shape = {2, 2};
                       }),
                "self_attn.sinks\" has shape [2, 2], expected [4]"},
        Refusal{"NoRouterBias", kCheckpoint, Remove("model.layers.0.mlp.router.bias"),
                "router.bias\" is missing"},
        Refusal{"RowsNotColumns", kCheckpoint,
                Change(kGateUp, [](TinyTensor& w) { std::swap(w.shape[1], w.shape[2]); }),
                "gate_up_proj\" has shape [8, 20, 18], expected [8, 18, 20]"},
        Refusal{"OneExpertLess", kCheckpoint,
                Change(kDown,
                       [](TinyTensor& w) {
                         w.shape[0] = 7;
                         w.bytes.resize(w.bytes.size() / 8 * 7);
                       }),
                "down_proj\" has shape [7, 10, 18], expected [8, 10, 18]"},
        Refusal{"MixedTypes", kCheckpoint,
                Change(kDown,
                       [](TinyTensor& w) {
                         w.type = "BF16";
                         w.bytes.resize(w.bytes.size() / 2);
                       }),
                "down_proj\" is BF16, the embedding is F32"},
        Refusal{"NoExpertBias", kCheckpoint, Remove(std::string(kGateUp) + "_bias"),
                "gate_up_proj_bias\" is missing"}),
    [](const auto& one) { return one.param.name; });

}  // namespace
}  // namespace conclave::worker

// DeepSeek's first and third generation, and its FP8 checkpoints: what becomes of their settings
// and tensors beyond what the reference scores show, and what is refused by name.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "tests/worker/testing/edited_checkpoint.h"
#include "worker/model/converted_weights.h"
#include "worker/model/model.h"

namespace conclave::worker {
namespace {

using testing::AddTensor;
using testing::Change;
using testing::Drop;
using testing::Edit;
using ::testing::HasSubstr;
using testing::Named;
using testing::Refusal;
using testing::Remove;
using testing::Set;
using testing::TempDir;
using testing::TinyTensor;
using Json = nlohmann::json;

std::shared_ptr<const Model> Load(const std::string& name, const Edit& edit = {},
                                  const ModelOptions& options = {}) {
  TempDir dir;
  testing::WriteEdited(name, edit, dir.path());
  auto model = Model::Load(dir.path(), options);
  EXPECT_TRUE(model.ok()) << model.status();
  return model.ok() ? *model : nullptr;
}

TEST(DeepSeekV3, LeavesOutTheLayersBehindItsOwn) {
  const Edit another = [](Json&, std::vector<TinyTensor>& tensors) {
    AddTensor("model.layers.3.shared_head.head.weight")(*std::make_unique<Json>(), tensors);
  };
  const auto model = Load("deepseek-v3-plain", another);
  ASSERT_NE(model, nullptr);
  EXPECT_EQ(model->layers.size(), 3u);
}

TEST(DeepSeekV3, HasItsAuthorsDefaultsWhereItDoesNotSay) {
  const Edit silent = [](Json& config, auto&) {
    config.erase("routed_scaling_factor");
    config.erase("num_nextn_predict_layers");
  };
  const auto model = Load("deepseek-v3-plain", silent);
  ASSERT_NE(model, nullptr);
  EXPECT_EQ(model->spec.gate.scale, 2.5f);
  EXPECT_EQ(model->layers.size(), 3u) << "the one behind them is left out";
}

TEST(DeepSeekV2, AlwaysTurnsNeighbours) {
  EXPECT_TRUE(Load("deepseek-v2-greedy", Set("rope_interleave", false))->spec.rope.interleaved);
  EXPECT_FALSE(Load("deepseek-v3-plain", Set("rope_interleave", false))->spec.rope.interleaved);
}

TEST(DeepSeekV3, KeepsTheSelectionBiasInFloats) {
  const auto model = Load("deepseek-v3-yarn-bf16");
  ASSERT_NE(model, nullptr);
  EXPECT_EQ(model->spec.type, DType::kBF16);
  EXPECT_TRUE(model->layers[0].gate_bias.empty());  // no gate there
  EXPECT_EQ(model->layers[1].gate_bias.size(), 8u);
}

TEST(DeepSeekV3, ChoosesAmongAllSlotsWhereThereIsOneGroup) {
  const auto model = Load("deepseek-v3-odd");
  ASSERT_NE(model, nullptr);
  EXPECT_EQ(model->spec.gate.select, GateShape::Select::kTopK);
  EXPECT_FALSE(model->spec.gate.normalise);  // one expert: nothing to normalise
  EXPECT_EQ(model->converted_bytes(), 0);
}

float Number(const Weight& weight, int64_t row, int64_t col) {
  const char* data = static_cast<const char*>(weight.data);
  const int64_t at = row * weight.cols + col;
  float value = 0;
  if (weight.type == DType::kF32) {
    std::memcpy(&value, data + 4 * at, 4);
  } else {
    std::memcpy(reinterpret_cast<char*>(&value) + 2, data + 2 * at, 2);
  }
  return value;
}

constexpr char kUp[] = "model.layers.1.mlp.experts.3.up_proj.weight";  // [8, 24]

// All numbers of the matrix this byte, and the factors of its blocks (16 x 10: three) these.
Edit Fp8Bytes(unsigned char byte, std::vector<float> factors) {
  return [=](Json&, std::vector<TinyTensor>& tensors) {
    for (char& one : Named(tensors, kUp).bytes) one = static_cast<char>(byte);
    std::string& bytes = Named(tensors, std::string(kUp) + "_scale_inv").bytes;
    ASSERT_EQ(bytes.size(), factors.size() * sizeof(float));
    std::memcpy(bytes.data(), factors.data(), bytes.size());
  };
}

TEST(Fp8, MultipliesEveryBlockByItsFactor) {
  // 0x4a is 1.25 * 2^2.
  const auto model = Load("deepseek-v3-fp8", Fp8Bytes(0x4a, {1.0f, 0.5f, -3.0f}));
  ASSERT_NE(model, nullptr);
  const Weight& up = model->layers[1].experts[3].up;
  EXPECT_EQ(up.type, DType::kF32);
  for (int64_t r = 0; r < 8; ++r) {
    for (int64_t c = 0; c < 24; ++c) {
      ASSERT_EQ(Number(up, r, c), 5.0f * (c < 10 ? 1.0f : c < 20 ? 0.5f : -3.0f)) << r << "," << c;
    }
  }
}

TEST(Fp8, MayHaveFactorsInBf16) {
  const auto model = Load("deepseek-v3-fp8", [](Json&, std::vector<TinyTensor>& tensors) {
    for (char& one : Named(tensors, kUp).bytes) one = 0x38;  // 1
    TinyTensor& factors = Named(tensors, std::string(kUp) + "_scale_inv");
    factors.type = "BF16";
    factors.bytes = testing::Encode(DType::kBF16, {2.0f, 0.5f, 0.25f});
  });
  ASSERT_NE(model, nullptr);
  const Weight& up = model->layers[1].experts[3].up;
  EXPECT_EQ(Number(up, 7, 9), 2.0f);
  EXPECT_EQ(Number(up, 7, 10), 0.5f);
  EXPECT_EQ(Number(up, 7, 23), 0.25f);
}

TEST(Fp8, ReadsEveryByteOfTheFormat) {
  const std::array<float, 256>& values = Fp8Values();
  EXPECT_EQ(values[0x00], 0.0f);
  EXPECT_EQ(values[0x01], 0x1p-9f);  // the smallest
  EXPECT_EQ(values[0x07], 7 * 0x1p-9f);
  EXPECT_EQ(values[0x08], 0x1p-6f);  // the smallest normal one
  EXPECT_EQ(values[0x38], 1.0f);
  EXPECT_EQ(values[0x7e], 448.0f);  // the largest
  EXPECT_TRUE(std::isnan(values[0x7f]));
  for (size_t byte = 0; byte < 127; ++byte) {
    EXPECT_EQ(values[byte + 128], -values[byte]);
    EXPECT_TRUE(byte == 0 || values[byte] > values[byte - 1]) << byte;
  }
}

TEST(Fp8, RoundsToBf16AsItsAuthorsDo) {
  // 0x39 is 1.125; times 1 + 2^-8 that lies between two numbers of BF16, nearer to the lower.
  const Edit edit = [](Json&, std::vector<TinyTensor>& tensors) {
    for (char& one : Named(tensors, kUp).bytes) one = 0x39;
    const float factor = 1 + 0x1p-8f;
    std::memcpy(Named(tensors, std::string(kUp) + "_scale_inv").bytes.data(), &factor, 4);
  };
  const auto model = Load("deepseek-v3-fp8-bf16", edit);
  ASSERT_NE(model, nullptr);
  const Weight& up = model->layers[1].experts[3].up;
  EXPECT_EQ(up.type, DType::kBF16);
  EXPECT_EQ(Number(up, 0, 0), 1.1328125f);
}

TEST(Fp8, TakesNoMoreMemoryThanAllowed) {
  const auto model = Load("deepseek-v3-fp8");
  ASSERT_NE(model, nullptr);
  const int64_t needed = model->converted_bytes();
  EXPECT_GT(needed, 0);
  EXPECT_NE(Load("deepseek-v3-fp8", {}, {.converted_bytes = needed}), nullptr);
  TempDir dir;
  testing::WriteEdited("deepseek-v3-fp8", {}, dir.path());
  const absl::Status status = Model::Load(dir.path(), {.converted_bytes = needed - 1}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("must be converted at load, which takes more than the limit of " +
                        std::to_string(needed - 1) + " bytes: raise converted-bytes"));
}

Edit Quantisation(const std::string& key, const Json& value) {
  return [=](Json& config, auto&) { config["quantization_config"][key] = value; };
}
Edit Factors(const std::function<void(TinyTensor&)>& change) {
  return Change(std::string(kUp) + "_scale_inv", change);
}

class DeepSeekRefuses : public ::testing::TestWithParam<Refusal> {};
TEST_P(DeepSeekRefuses, ByName) {
  EXPECT_THAT(testing::LoadError(GetParam().checkpoint, GetParam().edit),
              HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    V1, DeepSeekRefuses,
    ::testing::Values(Refusal{"ScoringFunction", "deepseek-plain", Set("scoring_func", "sigmoid"),
                              "scoring_func is \"sigmoid\", supported: softmax"},
                      Refusal{"DenseModel", "deepseek-plain", Set("n_routed_experts", nullptr),
                              "n_routed_experts is missing"},
                      Refusal{"UnevenHeads", "deepseek-plain", Set("num_attention_heads", 5),
                              "num_key_value_heads 4 does not divide num_attention_heads 5"},
                      Refusal{"DynamicRope", "deepseek-plain",
                              Set("rope_scaling", {{"type", "dynamic"}, {"factor", 2.0}}),
                              "rope_type is \"dynamic\""},
                      Refusal{"SlidingWindow", "deepseek-plain", Set("sliding_window", 64),
                              "sliding_window is set"},
                      Refusal{"BiasWithoutTensors", "deepseek-plain", Set("attention_bias", true),
                              "q_proj.bias\" is missing"},
                      Refusal{"Activation", "deepseek-plain", Set("hidden_act", "relu"),
                              "hidden_act is \"relu\", supported: silu"}),
    [](const auto& one) { return one.param.name; });

INSTANTIATE_TEST_SUITE_P(
    V3, DeepSeekRefuses,
    ::testing::Values(
        Refusal{"NetBiases", "deepseek-v3-plain", Set("mlp_bias", true), "mlp_bias is true"},
        Refusal{"NoNetBias", "deepseek-v2-bias",
                Remove("model.layers.2.mlp.shared_experts.up_proj.bias"),
                "shared_experts.up_proj.bias\" is missing"},
        Refusal{"ScoringFunction", "deepseek-v3-plain", Set("scoring_func", "softmax"),
                "scoring_func is \"softmax\", supported: sigmoid"},
        Refusal{"SelectionMethod", "deepseek-v3-plain", Set("topk_method", "group_limited_greedy"),
                "topk_method is \"group_limited_greedy\", supported: noaux_tc"},
        Refusal{"NoGroups", "deepseek-v3-plain", Drop("n_group"), "n_group is missing"},
        Refusal{"GroupsOfOne", "deepseek-v3-plain",
                [](Json& c, auto&) {
                  c.update({{"n_group", 8}, {"topk_group", 4}});
                },
                "n_group 8 leaves one of n_routed_experts 8 in a group"},
        Refusal{"UnevenGroups", "deepseek-v3-plain", Set("n_group", 3),
                "n_group 3 does not divide n_routed_experts 8"},
        Refusal{"NoSelectionBias", "deepseek-v3-plain",
                Remove("model.layers.1.mlp.gate.e_score_correction_bias"),
                "e_score_correction_bias\" is missing"},
        Refusal{"ShortSelectionBias", "deepseek-v3-plain",
                Change("model.layers.1.mlp.gate.e_score_correction_bias",
                       [](TinyTensor& w) {
                         w.shape = {7};
                         w.bytes.resize(28);
                       }),
                "e_score_correction_bias\" has shape [7], expected [8]"},
        Refusal{"LayerBehindUnannounced", "deepseek-v3-plain", Set("num_nextn_predict_layers", 0),
                "model.layers.3."},
        Refusal{"SecondLayerBehind", "deepseek-v3-plain", AddTensor("model.layers.4.enorm.weight"),
                "model.layers.4.enorm.weight\" is not part"},
        Refusal{"ManyLayersBehind", "deepseek-v3-plain", Set("num_nextn_predict_layers", 513),
                "num_nextn_predict_layers is 513, expected 0 to 512"}),
    [](const auto& one) { return one.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Fp8, DeepSeekRefuses,
    ::testing::Values(
        Refusal{"Method", "deepseek-v3-fp8", Quantisation("quant_method", "nvfp4"),
                "quantization_config: quant_method is \"nvfp4\", supported: fp8, mxfp4, mxint8"},
        Refusal{"Format", "deepseek-v3-fp8", Quantisation("fmt", "e5m2"),
                "fmt is \"e5m2\", supported: e4m3"},
        Refusal{"StaticActivations", "deepseek-v3-fp8", Quantisation("activation_scheme", "static"),
                "activation_scheme is \"static\", supported: dynamic"},
        Refusal{"Fp4Experts", "deepseek-v3-fp8", Quantisation("expert_dtype", "fp4"),
                "expert_dtype is \"fp4\", supported: fp8"},
        Refusal{"NoBlocks", "deepseek-v3-fp8", Quantisation("weight_block_size", nullptr),
                "weight_block_size is not two numbers"},
        Refusal{"OneBlockSide", "deepseek-v3-fp8", Quantisation("weight_block_size", {16}),
                "weight_block_size is not two numbers"},
        Refusal{"ThreeBlockSides", "deepseek-v3-fp8", Quantisation("weight_block_size", {1, 2, 3}),
                "weight_block_size has 3 numbers, the limit is 2"},
        Refusal{"BlockOfNone", "deepseek-v3-fp8", Quantisation("weight_block_size", {16, 0}),
                "weight_block_size is 0, expected 1 to 65536"},
        Refusal{"NoObject", "deepseek-v3-fp8", Set("quantization_config", "fp8"),
                "quantization_config: is string, expected an object"},
        Refusal{"OtherBlocks", "deepseek-v3-fp8", Quantisation("weight_block_size", {16, 12}),
                "_scale_inv\" has shape"},
        Refusal{"NoFactors", "deepseek-v3-fp8", Remove(std::string(kUp) + "_scale_inv"),
                "up_proj.weight_scale_inv\" is missing"},
        Refusal{"EightBitFactors", "deepseek-v3-fp8", Factors([](TinyTensor& w) {
                  w.type = "F8_E8M0";
                  w.bytes.resize(w.bytes.size() / 4);
                }),
                "up_proj.weight_scale_inv\" is F8_E8M0, supported: F32, F16, BF16"},
        Refusal{"InfiniteFactor", "deepseek-v3-fp8", Fp8Bytes(0x38, {1.0f, INFINITY, 1.0f}),
                "up_proj.weight_scale_inv\" has a value that is not finite, number 1"},
        Refusal{"NotANumber", "deepseek-v3-fp8", Fp8Bytes(0xff, {1.0f, 1.0f, 1.0f}),
                "up_proj.weight\" has a value that is not finite, number 0"},
        Refusal{"Overflow", "deepseek-v3-fp8", Fp8Bytes(0x7e, {1.0f, 1.0f, 1e38f}),
                "up_proj.weight\" has a value that is not finite, number 20"},
        Refusal{"OtherEightBits", "deepseek-v3-fp8",
                Change(kUp, [](TinyTensor& w) { w.type = "F8_E5M2"; }),
                "up_proj.weight\" is F8_E5M2, supported: F32, F16, BF16"},
        Refusal{"EightBitNorm", "deepseek-v3-fp8",
                Change("model.layers.1.input_layernorm.weight",
                       [](TinyTensor& w) {
                         w.type = "F8_E4M3";
                         w.bytes.resize(24);
                       }),
                "input_layernorm.weight\" is F8_E4M3, supported: F32, F16, BF16"},
        Refusal{"EightBitsUnannounced", "deepseek-v3-fp8", Drop("quantization_config"),
                "is F8_E4M3, supported: F32, F16, BF16"},
        Refusal{"FactorsOfNothing", "deepseek-v3-plain",
                AddTensor("model.layers.1.mlp.experts.3.up_proj.weight_scale_inv"),
                "up_proj.weight_scale_inv\" is not part of this family"}),
    [](const auto& one) { return one.param.name; });

}  // namespace
}  // namespace conclave::worker

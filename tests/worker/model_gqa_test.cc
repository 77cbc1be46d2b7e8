// Mixtral, Qwen's two families and GLM-4.5: what becomes of their settings and tensors beyond what
// the reference scores show, and what is refused by name.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "tests/worker/testing/edited_checkpoint.h"
#include "worker/model/model.h"

namespace conclave::worker {
namespace {

using testing::AddTensor;
using testing::Change;
using testing::Drop;
using testing::Edit;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
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

Edit SetAll(const Json& settings) {
  return [=](Json& config, auto&) { config.update(settings); };
}

Edit Share(double share) {
  return [=](Json& config, auto&) { config["rope_parameters"]["partial_rotary_factor"] = share; };
}

std::vector<int32_t> Windows(const Model& model) {
  std::vector<int32_t> windows;
  for (const LayerSpec& layer : model.spec.layers) windows.push_back(layer.window);
  return windows;
}

TEST(Mixtral, IsReadFromBothLayouts) {
  const auto separate = Load("mixtral-plain");
  ASSERT_NE(separate, nullptr);
  EXPECT_TRUE(separate->spec.gate.normalise);
  EXPECT_EQ(separate->spec.attention.kv_heads, 2);
  EXPECT_EQ(separate->spec.attention.head_dim, 6);
  EXPECT_THAT(Windows(*separate), ElementsAre(0, 0));

  const auto fused = Load("mixtral-window");
  ASSERT_NE(fused, nullptr);
  EXPECT_THAT(Windows(*fused), ElementsAre(24, 24));
  EXPECT_EQ(fused->spec.attention.head_dim, 10);
  EXPECT_EQ(fused->head.data, fused->embedding.data);
  const std::vector<FfnWeights>& experts = fused->layers[1].experts;
  ASSERT_EQ(experts.size(), 8u);
  const auto offset = [](const Weight& from, const Weight& to) {
    return static_cast<const char*>(to.data) - static_cast<const char*>(from.data);
  };
  constexpr int64_t kMatrix = 12 * 24 * 4;  // bytes of one projection
  EXPECT_EQ(offset(experts[0].gate, experts[0].up), kMatrix);
  EXPECT_EQ(offset(experts[0].gate, experts[3].gate), 3 * 2 * kMatrix);
  EXPECT_EQ(offset(experts[0].down, experts[3].down), 3 * kMatrix);
  EXPECT_EQ(experts[7].up.rows, 12);
  EXPECT_EQ(experts[7].up.cols, 24);
  EXPECT_EQ(experts[7].down.rows, 24);
}

TEST(Mixtral, HasAsManyKeyHeadsAsHeadsUnlessItSays) {
  const auto model = Load("mixtral-window", Drop("num_key_value_heads"));
  ASSERT_NE(model, nullptr);
  EXPECT_EQ(model->spec.attention.kv_heads, 4);
}

TEST(Families, ReachAsFarAsTheirRopeScalingStretchesThem) {
  EXPECT_EQ(Load("mixtral-window")->spec.context_limit, 256) << "64 positions, linear by 4";
  EXPECT_EQ(Load("qwen3-moe-yarn")->spec.context_limit, 192) << "48 positions, YaRN by 4";
  EXPECT_EQ(Load("mixtral-llama3")->spec.context_limit, 256) << "Llama 3 says it with the length";
  const auto lowered = Load("mixtral-window", {}, {.context_limit = 100});
  EXPECT_EQ(lowered->spec.context_limit, 100);
  EXPECT_EQ(lowered->spec.rope.positions, 100);
}

TEST(Qwen2Moe, LooksThroughTheWindowWhereLayerTypesSay) {
  EXPECT_THAT(Windows(*Load("qwen2-moe-window")), ElementsAre(0, 17, 17));
}

TEST(Qwen2Moe, ReadsMaxWindowLayersAsTransformersDoes) {
  const Edit without = [](Json& config, auto&) {
    config.erase("layer_types");
    config["max_window_layers"] = 3;
  };
  EXPECT_THAT(Windows(*Load("qwen2-moe-window", without)), ElementsAre(17, 0, 17));
}

TEST(Qwen2Moe, MayHaveASharedExpertOfNoWidth) {
  const Edit empty = [](Json& config, std::vector<TinyTensor>& tensors) {
    config["shared_expert_intermediate_size"] = 0;
    for (TinyTensor& tensor : tensors) {
      if (tensor.name.find(".shared_expert.") == std::string::npos) continue;
      const bool down = tensor.name.find("down_proj") != std::string::npos;
      tensor.shape[down ? 1 : 0] = 0;
      tensor.bytes.clear();
    }
  };
  const auto model = Load("qwen2-moe-sparse", empty);
  ASSERT_NE(model, nullptr);
  EXPECT_EQ(model->spec.shared_ffn_dim, 0);
  EXPECT_FALSE(model->layers[1].shared.up);
}

TEST(Qwen2Moe, PlacesExpertsByStepAndList) {
  const auto model = Load("qwen2-moe-sparse");
  ASSERT_NE(model, nullptr);
  std::vector<bool> moe;
  for (const LayerSpec& layer : model->spec.layers) moe.push_back(layer.moe);
  EXPECT_THAT(moe, ElementsAre(false, true, false, false));
  EXPECT_TRUE(model->layers[1].shared_gate);
  EXPECT_FALSE(model->layers[0].shared_gate);
  EXPECT_TRUE(model->layers[0].attention.q_bias);
  EXPECT_FALSE(model->layers[0].attention.o_bias);
}

TEST(Qwen3Moe, SeesEverythingBelowMaxWindowLayers) {
  EXPECT_THAT(Windows(*Load("qwen3-moe-yarn")), ElementsAre(0, 29, 29));
  EXPECT_THAT(Windows(*Load("qwen3-moe-yarn", Drop("max_window_layers"))), ElementsAre(29, 29, 29));
  EXPECT_THAT(Windows(*Load("qwen3-moe-yarn", Set("max_window_layers", 48))), ElementsAre(0, 0, 0));
  EXPECT_THAT(Windows(*Load("qwen3-moe-yarn", Set("use_sliding_window", false))),
              ElementsAre(0, 0, 0));
}

TEST(Qwen3Moe, HasTransformersWindowUnlessItSaysNone) {
  EXPECT_THAT(Windows(*Load("qwen3-moe-yarn", Set("sliding_window", nullptr))),
              ElementsAre(0, 0, 0));
  EXPECT_THAT(Windows(*Load("qwen3-moe-yarn", Drop("sliding_window"))), ElementsAre(0, 4096, 4096));
}

TEST(Qwen3Moe, NormsEveryHead) {
  const auto model = Load("qwen3-moe-bias");
  ASSERT_NE(model, nullptr);
  EXPECT_EQ(model->spec.attention.qk_norm, AttentionSpec::QkNorm::kHeads);
  EXPECT_EQ(model->layers[0].attention.q_norm.cols, 12);
  EXPECT_TRUE(model->layers[0].attention.o_bias);
}

TEST(Glm4Moe, TurnsAShareOfAHead) {
  EXPECT_EQ(Load("glm4-moe-plain")->spec.rope.dim, 6);
  EXPECT_EQ(Load("glm4-moe-plain", Drop("partial_rotary_factor"))->spec.rope.dim, 6);
  EXPECT_EQ(Load("glm4-moe-one")->spec.rope.dim, 6) << "0.42 of 12 are 5, which turn one more";
}

TEST(Glm4Moe, GivesTheOnlyExpertItsFullWeight) {
  EXPECT_TRUE(Load("glm4-moe-one")->spec.gate.normalise);
}

TEST(Glm4Moe, IgnoresTheLayerThatPredictsFurtherTokens) {
  const auto model = Load("glm4-moe-plain", AddTensor("model.layers.3.shared_head.norm.weight"));
  ASSERT_NE(model, nullptr);
  EXPECT_EQ(model->layers.size(), 3u);
}

class GqaRefuses : public ::testing::TestWithParam<Refusal> {};
TEST_P(GqaRefuses, ByName) {
  EXPECT_THAT(testing::LoadError(GetParam().checkpoint, GetParam().edit),
              HasSubstr(GetParam().message));
}

Edit Scaling(const Json& settings) {
  return [=](Json& config, auto&) {
    config.erase("rope_parameters");
    config["rope_scaling"] = settings;
  };
}

INSTANTIATE_TEST_SUITE_P(
    Any, GqaRefuses,
    ::testing::Values(
        Refusal{"UnknownFamily", "mixtral-plain", Set("model_type", "mixtral2"),
                "model_type is \"mixtral2\", supported: "},
        Refusal{"Activation", "qwen3-moe-bias", Set("hidden_act", "gelu_pytorch_tanh"),
                "hidden_act is \"gelu_pytorch_tanh\", supported: silu, swish"},
        Refusal{"Softcapping", "mixtral-plain", Set("final_logit_softcapping", 30.0),
                "final_logit_softcapping is set"},
        Refusal{"Multiplier", "qwen2-moe-sparse", Set("embedding_multiplier", 12.0),
                "embedding_multiplier is set"},
        Refusal{"DynamicRope", "mixtral-plain", Scaling({{"type", "dynamic"}, {"factor", 2.0}}),
                "rope_type is \"dynamic\""},
        Refusal{"LongRope", "qwen3-moe-bias", Scaling({{"rope_type", "longrope"}, {"factor", 2.0}}),
                "rope_type is \"longrope\""},
        Refusal{"PartialRotary", "qwen3-moe-bias", Set("partial_rotary_factor", 0.5),
                "partial_rotary_factor is below 1"},
        Refusal{"HugeHead", "qwen3-moe-bias", Set("head_dim", 4097),
                "head_dim is 4097, expected 1 to 4096"},
        Refusal{"OddHead", "qwen3-moe-bias", Set("head_dim", 11), "rotary embedding of 11 columns"},
        Refusal{"NoHeadWidth", "mixtral-plain", Set("num_attention_heads", 14),
                "num_attention_heads 14 does not divide hidden_size 24"},
        Refusal{"UnevenHeads", "mixtral-plain", Set("num_key_value_heads", 3),
                "num_key_value_heads 3 does not divide num_attention_heads 4"}),
    [](const auto& one) { return one.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Mixtral, GqaRefuses,
    ::testing::Values(
        Refusal{"WindowZero", "mixtral-plain", Set("sliding_window", 0), "sliding_window is 0"},
        Refusal{"FullLayerInWindow", "mixtral-window",
                Set("layer_types", {"sliding_attention", "full_attention"}),
                "layer_types has full_attention for layer 1, which has a window of 24"},
        Refusal{"WindowText", "mixtral-plain", Set("sliding_window", "all"),
                "sliding_window is string"},
        Refusal{"Biases", "mixtral-plain", Set("attention_bias", true), "attention_bias is true"},
        Refusal{"NoExperts", "mixtral-plain", Drop("num_local_experts"),
                "num_local_experts is missing"},
        Refusal{"MissingExpert", "mixtral-plain",
                Remove("model.layers.1.block_sparse_moe.experts.3.w3.weight"),
                "model.layers.1.block_sparse_moe.experts.3.w3.weight\" is missing"},
        Refusal{"MissingGate", "mixtral-plain",
                Remove("model.layers.1.block_sparse_moe.gate.weight"),
                "model.layers.1.block_sparse_moe.gate.weight\" is missing"},
        Refusal{"MissingFusedExperts", "mixtral-window",
                Remove("model.layers.0.mlp.experts.down_proj"),
                "model.layers.0.mlp.experts.down_proj\" is missing"},
        Refusal{"FusedTransposed", "mixtral-window",
                Change("model.layers.0.mlp.experts.down_proj",
                       [](TinyTensor& w) { std::swap(w.shape[1], w.shape[2]); }),
                "has shape [8, 12, 24], expected [8, 24, 12]"},
        Refusal{"BothLayouts", "mixtral-plain", AddTensor("model.layers.0.mlp.experts.down_proj"),
                "model.layers.0.mlp.experts.down_proj\" is not part of this family"}),
    [](const auto& one) { return one.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Qwen, GqaRefuses,
    ::testing::Values(
        Refusal{"NoWindow", "qwen2-moe-window", Drop("sliding_window"),
                "sliding_window is missing"},
        Refusal{"FewLayerTypes", "qwen2-moe-window", Set("layer_types", {"full_attention"}),
                "layer_types has 1 entries, num_hidden_layers is 3"},
        Refusal{"UnknownLayerType", "qwen2-moe-window",
                Set("layer_types", {"full_attention", "linear_attention", "full_attention"}),
                "layer_types has \"linear_attention\", supported: full_attention"},
        Refusal{"LayerTypeNumber", "qwen2-moe-window", Set("layer_types", {1, 2, 3}),
                "layer_types has number in it"},
        Refusal{"SlidingUnused", "qwen2-moe-window", Set("use_sliding_window", false),
                "layer_types has sliding_attention without a sliding_window"},
        Refusal{"FullLayerInWindow", "qwen3-moe-window-bf16",
                Set("layer_types", {"sliding_attention", "full_attention"}),
                "layer_types has full_attention for layer 1, which has a window of 40"},
        Refusal{"SlidingWithoutWindow", "qwen3-moe-bias",
                Set("layer_types", {"sliding_attention", "full_attention"}),
                "layer_types has sliding_attention without a sliding_window"},
        Refusal{"AttentionBias", "qwen2-moe-sparse", Set("attention_bias", true),
                "attention_bias is true"},
        Refusal{"NoSharedExpert", "qwen2-moe-sparse", Drop("shared_expert_intermediate_size"),
                "shared_expert_intermediate_size is missing"},
        Refusal{"NoSharedGate", "qwen2-moe-sparse",
                Remove("model.layers.1.mlp.shared_expert_gate.weight"),
                "shared_expert_gate.weight\" is missing"},
        Refusal{"NoBias", "qwen2-moe-sparse", Remove("model.layers.2.self_attn.k_proj.bias"),
                "k_proj.bias\" is missing"},
        Refusal{"StepZero", "qwen2-moe-sparse", Set("decoder_sparse_step", 0),
                "decoder_sparse_step is 0"},
        Refusal{"DenseLayerText", "qwen3-moe-bias", Set("mlp_only_layers", {"0"}),
                "mlp_only_layers is string"},
        Refusal{"TwoCounts", "qwen3-moe-bias", Set("num_experts", 7),
                "num_experts is 7, expected 8 to 8"},
        Refusal{"NoNorm", "qwen3-moe-bias", Remove("model.layers.1.self_attn.k_norm.weight"),
                "k_norm.weight\" is missing"},
        Refusal{"WholeNorm", "qwen3-moe-bias",
                Change("model.layers.1.self_attn.q_norm.weight",
                       [](TinyTensor& w) {
                         w.shape = {48};
                         w.bytes.resize(4 * 48);
                       }),
                "q_norm.weight\" has shape [48], expected [12]"}),
    [](const auto& one) { return one.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Glm, GqaRefuses,
    ::testing::Values(
        Refusal{"Window", "glm4-moe-plain", Set("sliding_window", 64), "sliding_window is set"},
        Refusal{"OddShareUnderYarn", "glm4-moe-group", Share(0.25),
                "rotary embedding of 3 columns"},
        Refusal{"SlidingLayers", "glm4-moe-plain",
                Set("layer_types", {"full_attention", "full_attention", "sliding_attention"}),
                "layer_types has sliding_attention without a sliding_window"},
        Refusal{"NoShare", "glm4-moe-plain", Set("partial_rotary_factor", 0.05),
                "rotary embedding of 0 columns"},
        Refusal{"GroupsOfOne", "glm4-moe-plain", SetAll({{"n_group", 8}, {"topk_group", 4}}),
                "n_group 8 leaves one of n_routed_experts 8 in a group"},
        Refusal{"NormWithoutTensors", "glm4-moe-plain", Set("use_qk_norm", true),
                "q_norm.weight\" is missing"},
        Refusal{"NoSelectionBias", "glm4-moe-plain",
                Remove("model.layers.1.mlp.gate.e_score_correction_bias"),
                "e_score_correction_bias\" is missing"},
        Refusal{"InfiniteSelectionBias", "glm4-moe-plain",
                Change("model.layers.1.mlp.gate.e_score_correction_bias",
                       [](TinyTensor& w) {
                         const float infinite = INFINITY;
                         std::memcpy(w.bytes.data() + 8, &infinite, 4);
                       }),
                "e_score_correction_bias\" has a value that is not finite"}),
    [](const auto& one) { return one.param.name; });

}  // namespace
}  // namespace conclave::worker

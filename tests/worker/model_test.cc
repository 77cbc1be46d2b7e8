// Whole checkpoints: what a family makes of its settings, which tensors become what, and what is
// refused by name.

#include "worker/model/model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/worker/testing/edited_checkpoint.h"
#include "tests/worker/testing/tiny_checkpoint.h"

namespace conclave::worker {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::TempDir;
using testing::TinyOptions;
using testing::TinyTensor;
using testing::WriteTinyDeepSeekV2;
using testing::WriteTinyOlmoe;
using Json = nlohmann::json;

using Edit = std::function<void(Json& config, std::vector<TinyTensor>& tensors)>;

std::shared_ptr<const Model> LoadOrDie(const TempDir& dir, const ModelOptions& options = {}) {
  auto model = Model::Load(dir.path(), options);
  EXPECT_TRUE(model.ok()) << model.status();
  return model.ok() ? *model : nullptr;
}

std::shared_ptr<const Model> DeepSeek(const TinyOptions& options, const ModelOptions& load = {}) {
  TempDir dir;
  WriteTinyDeepSeekV2(dir.path(), 1, options);
  return LoadOrDie(dir, load);  // the mapping outlives the directory
}

std::shared_ptr<const Model> Olmoe(const TinyOptions& options) {
  TempDir dir;
  WriteTinyOlmoe(dir.path(), 1, options);
  return LoadOrDie(dir);
}

void ExpectShape(const Weight& weight, int64_t rows, int64_t cols) {
  EXPECT_TRUE(weight);
  EXPECT_EQ(weight.rows, rows);
  EXPECT_EQ(weight.cols, cols);
}

TEST(Model, MakesOfADeepSeekV2WhatItsAuthorsMean) {
  const auto model = DeepSeek({.layers = 4,
                               .dense_layers = 2,
                               .q_lora_rank = 20,
                               .groups = 4,
                               .top_groups = 2,
                               .yarn = true});
  const ModelSpec& spec = model->spec;
  EXPECT_EQ(spec.family, "deepseek_v2");
  EXPECT_EQ(spec.vocab, 260);
  EXPECT_EQ(spec.dim, 32);
  EXPECT_EQ(spec.context_limit, 1024);
  EXPECT_EQ(spec.norm_eps, 1e-5f);
  EXPECT_EQ(spec.type, DType::kF32);
  EXPECT_THAT(spec.eos, ElementsAre(257));
  ASSERT_EQ(spec.layers.size(), 4u);
  EXPECT_FALSE(spec.layers[1].moe);
  EXPECT_TRUE(spec.layers[2].moe);
  EXPECT_EQ(spec.attention.kind, AttentionSpec::Kind::kMla);
  EXPECT_EQ(spec.attention.latent_norm_eps, 1e-6f);
  EXPECT_FALSE(spec.attention.bias);
  const double mscale = 0.1 * 0.6 * std::log(8.0) + 1;
  EXPECT_FLOAT_EQ(spec.attention.scale, static_cast<float>(mscale * mscale / std::sqrt(20.0)));
  EXPECT_TRUE(spec.rope.interleaved);
  EXPECT_EQ(spec.rope.dim, 8);
  EXPECT_EQ(spec.rope.positions, 1024);
  EXPECT_EQ(spec.dense_ffn_dim, 48);
  EXPECT_EQ(spec.expert_ffn_dim, 12);
  EXPECT_EQ(spec.shared_ffn_dim, 24);
  EXPECT_EQ(spec.gate.slots, 8);
  EXPECT_EQ(spec.gate.top_k, 2);
  EXPECT_EQ(spec.gate.score, GateShape::Score::kSoftmax);
  EXPECT_EQ(spec.gate.select, GateShape::Select::kGroupMax);
  EXPECT_EQ(spec.gate.groups, 4);
  EXPECT_EQ(spec.gate.top_groups, 2);
  EXPECT_FALSE(spec.gate.normalise);
  EXPECT_EQ(spec.gate.scale, 1.5f);

  const LayerWeights& dense = model->layers[0];
  ExpectShape(dense.dense.down, 32, 48);
  EXPECT_FALSE(dense.gate);
  EXPECT_TRUE(dense.experts.empty());
  const LayerWeights& moe = model->layers[3];
  ExpectShape(moe.gate, 8, 32);
  ASSERT_EQ(moe.experts.size(), 8u);
  ExpectShape(moe.experts[7].gate, 12, 32);
  ExpectShape(moe.experts[7].up, 12, 32);
  ExpectShape(moe.experts[7].down, 32, 12);
  ExpectShape(moe.shared.up, 24, 32);
  EXPECT_FALSE(moe.dense.gate);
  ExpectShape(moe.attention_norm, 1, 32);
  ExpectShape(moe.ffn_norm, 1, 32);
  EXPECT_FALSE(moe.attention.q);
  ExpectShape(moe.attention.q_a, 20, 32);
  ExpectShape(moe.attention.q_a_norm, 1, 20);
  ExpectShape(moe.attention.q_b, 80, 20);
  ExpectShape(moe.attention.kv_a, 24, 32);
  ExpectShape(moe.attention.kv_a_norm, 1, 16);
  ExpectShape(moe.attention.kv_b, 96, 16);
  ExpectShape(moe.attention.o, 32, 48);
  ExpectShape(model->embedding, 260, 32);
  ExpectShape(model->final_norm, 1, 32);
  ExpectShape(model->head, 260, 32);
  EXPECT_NE(model->head.data, model->embedding.data);
}

TEST(Model, MakesOfAnOlmoeWhatItsAuthorsMean) {
  const auto model = Olmoe({.type = DType::kBF16,
                            .attention_bias = true,
                            .clip_qkv = 2.5f,
                            .edit = [](Json& config, auto&) { config["norm_topk_prob"] = true; }});
  const ModelSpec& spec = model->spec;
  EXPECT_EQ(spec.family, "olmoe");
  EXPECT_EQ(spec.type, DType::kBF16);
  EXPECT_EQ(spec.attention.kind, AttentionSpec::Kind::kGqa);
  EXPECT_EQ(spec.attention.heads, 4);
  EXPECT_EQ(spec.attention.kv_heads, 2);
  EXPECT_EQ(spec.attention.head_dim, 8);
  EXPECT_EQ(spec.attention.qk_norm, AttentionSpec::QkNorm::kWhole);
  EXPECT_TRUE(spec.attention.bias);
  EXPECT_EQ(spec.attention.clip_qkv, 2.5f);
  EXPECT_FLOAT_EQ(spec.attention.scale, 1.0f / std::sqrt(8.0f));
  EXPECT_FALSE(spec.rope.interleaved);
  EXPECT_EQ(spec.rope.dim, 8);
  EXPECT_EQ(spec.expert_ffn_dim, 12);
  EXPECT_EQ(spec.shared_ffn_dim, 0);
  EXPECT_TRUE(spec.gate.normalise);
  EXPECT_EQ(spec.gate.scale, 1.0f);
  for (const LayerSpec& layer : spec.layers) EXPECT_TRUE(layer.moe);

  const AttentionWeights& attention = model->layers[2].attention;
  ExpectShape(attention.q, 32, 32);
  ExpectShape(attention.k, 16, 32);
  ExpectShape(attention.v, 16, 32);
  ExpectShape(attention.o, 32, 32);
  ExpectShape(attention.q_norm, 1, 32);
  ExpectShape(attention.k_norm, 1, 16);
  ExpectShape(attention.q_bias, 1, 32);
  ExpectShape(attention.k_bias, 1, 16);
  ExpectShape(attention.v_bias, 1, 16);
  ExpectShape(attention.o_bias, 1, 32);
  EXPECT_FALSE(model->layers[2].shared.gate);
}

TEST(Model, ScalesOrNormalisesDeepSeeksWeightsButNotBoth) {
  const auto gate = [](bool normalise, int top_k) {
    return DeepSeek({.top_k = top_k,
                     .edit = [=](Json& config, auto&) { config["norm_topk_prob"] = normalise; }})
        ->spec.gate;
  };
  EXPECT_EQ(gate(true, 2).scale, 1.0f);
  EXPECT_TRUE(gate(true, 2).normalise);
  EXPECT_EQ(gate(false, 2).scale, 1.5f);
  EXPECT_EQ(gate(true, 1).scale, 1.5f);
  EXPECT_FALSE(gate(true, 1).normalise);
}

TEST(Model, PlacesExpertsByFirstDenseLayersAndFrequency) {
  const auto model = DeepSeek(
      {.layers = 5, .dense_layers = 1, .edit = [](Json& config, std::vector<TinyTensor>& tensors) {
         config["moe_layer_freq"] = 2;  // layers 2 and 4; what layer 0 has serves 1 and 3
         std::erase_if(tensors, [](const TinyTensor& t) {
           return (t.name.starts_with("model.layers.1.") ||
                   t.name.starts_with("model.layers.3.")) &&
                  t.name.find(".mlp.") != std::string::npos;
         });
         for (const char* layer : {"1", "3"}) {
           const size_t count = tensors.size();
           for (size_t i = 0; i < count; ++i) {
             if (!tensors[i].name.starts_with("model.layers.0.mlp.")) continue;
             TinyTensor copy = tensors[i];
             copy.name.replace(std::strlen("model.layers."), 1, layer);
             tensors.push_back(std::move(copy));
           }
         }
       }});
  ASSERT_NE(model, nullptr);
  std::vector<bool> moe;
  for (const LayerSpec& layer : model->spec.layers) moe.push_back(layer.moe);
  EXPECT_THAT(moe, ElementsAre(false, false, true, false, true));
}

TEST(Model, LeavesWeightsWhereTheyAreMapped) {
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16}) {
    std::string expected;
    const auto model =
        DeepSeek({.type = type, .edit = [&](Json&, std::vector<TinyTensor>& tensors) {
                    for (const TinyTensor& tensor : tensors) {
                      if (tensor.name == "model.layers.2.mlp.experts.5.down_proj.weight")
                        expected = tensor.bytes;
                    }
                  }});
    const Weight& down = model->layers[2].experts[5].down;
    EXPECT_EQ(down.type, type);
    ASSERT_EQ(expected.size(), 32u * 12 * SizeOf(type));
    EXPECT_EQ(std::memcmp(down.data, expected.data(), expected.size()), 0);
  }
}

TEST(Model, ReadsShardedCheckpointsWithAndWithoutAnIndex) {
  TempDir dir;
  WriteTinyOlmoe(dir.path(), 1, {.shards = 3});
  ASSERT_NE(LoadOrDie(dir), nullptr);
  std::filesystem::remove(dir.File("model.safetensors.index.json"));
  ASSERT_NE(LoadOrDie(dir), nullptr);
  std::filesystem::remove(dir.File("model-00002-of-00003.safetensors"));
  EXPECT_THAT(std::string(Model::Load(dir.path()).status().message()), HasSubstr("is missing"));
}

TEST(Model, TiesTheHeadToTheEmbeddingWhicheverIsStored) {
  const auto by_embedding = DeepSeek({.tied_embeddings = true});
  EXPECT_EQ(by_embedding->head.data, by_embedding->embedding.data);
  const auto by_head =
      DeepSeek({.tied_embeddings = true, .edit = [](Json&, std::vector<TinyTensor>& tensors) {
                  testing::Named(tensors, "model.embed_tokens.weight").name = "lm_head.weight";
                }});
  EXPECT_EQ(by_head->head.data, by_head->embedding.data);
  ExpectShape(by_head->head, 260, 32);
}

TEST(Model, UsesAStoredHeadEvenWhereTheSettingsTieIt) {
  const auto tie = [](Json& config, auto&) { config["tie_word_embeddings"] = true; };
  const auto untied = DeepSeek({});
  const auto stored = DeepSeek({.edit = tie});
  EXPECT_NE(stored->head.data, stored->embedding.data);
  EXPECT_EQ(std::memcmp(stored->head.data, untied->head.data, 260u * 32 * 4), 0);
  EXPECT_NE(std::memcmp(stored->head.data, stored->embedding.data, 260u * 32 * 4), 0);
}

TEST(Model, RefusesAStoredHeadOfAnotherShapeEvenWhereTheSettingsTieIt) {
  TempDir dir;
  WriteTinyDeepSeekV2(dir.path(), 1, {.edit = [](Json& config, std::vector<TinyTensor>& tensors) {
                        config["tie_word_embeddings"] = true;
                        testing::Named(tensors, "lm_head.weight").shape = {32, 260};
                      }});
  EXPECT_THAT(std::string(Model::Load(dir.path()).status().message()),
              HasSubstr("\"lm_head.weight\" has shape [32, 260], expected [260, 32]"));
}

TEST(Model, AcceptsBiasesWhereTheFamilyHasThem) {
  const auto model = DeepSeek({.attention_bias = true, .q_lora_rank = 20});
  const AttentionWeights& attention = model->layers[1].attention;
  ExpectShape(attention.q_a_bias, 1, 20);
  ExpectShape(attention.kv_a_bias, 1, 24);
  ExpectShape(attention.o_bias, 1, 32);
}

TEST(Model, AcceptsNormsAndGatesInFullPrecision) {
  const auto model = DeepSeek(
      {.type = DType::kBF16, .edit = [](Json&, std::vector<TinyTensor>& tensors) {
         for (TinyTensor& tensor : tensors) {
           if (!tensor.name.ends_with("norm.weight") && !tensor.name.ends_with("mlp.gate.weight"))
             continue;
           tensor.type = "F32";
           tensor.bytes += tensor.bytes;
         }
       }});
  EXPECT_EQ(model->spec.type, DType::kBF16);
  EXPECT_EQ(model->layers[1].gate.type, DType::kF32);
  EXPECT_EQ(model->final_norm.type, DType::kF32);
}

TEST(Model, IgnoresWhatOldReleasesSavedBeside) {
  EXPECT_NE(DeepSeek({.edit =
                          [](Json&, std::vector<TinyTensor>& tensors) {
                            tensors.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq",
                                               "F32",
                                               {1},
                                               std::string(4, '\0')});
                          }}),
            nullptr);
}

TEST(Model, BelievesTheTensorsAboutTheirType) {
  const auto model = DeepSeek({.type = DType::kF16, .edit = [](Json& config, auto&) {
                                 config["torch_dtype"] = "bfloat16";
                               }});
  EXPECT_EQ(model->spec.type, DType::kF16);
}

TEST(Model, LowersTheContextLimitOnRequest) {
  const auto model = DeepSeek({}, {.context_limit = 100});
  EXPECT_EQ(model->spec.context_limit, 100);
  EXPECT_EQ(model->spec.rope.positions, 100);
  EXPECT_EQ(DeepSeek({}, {.context_limit = 5000})->spec.context_limit, 1024);
}

TEST(Model, IsNamedAfterItsDirectory) {
  TempDir dir;
  std::filesystem::create_directory(dir.File("some-model"));
  WriteTinyOlmoe(dir.File("some-model"), 1);
  EXPECT_EQ((*Model::Load(dir.File("some-model")))->spec.name, "some-model");
  EXPECT_EQ((*Model::Load(dir.File("some-model/")))->spec.name, "some-model");
  EXPECT_EQ((*Model::Load(dir.File("some-model/.")))->spec.name, "some-model");
}

TEST(Model, HasADigestOfSettingsAndWeights) {
  const auto digest = [](uint64_t seed, const TinyOptions& options) {
    TempDir dir;
    WriteTinyOlmoe(dir.path(), seed, options);
    return LoadOrDie(dir)->digest;
  };
  const std::string first = digest(1, {});
  EXPECT_EQ(digest(1, {}), first);
  EXPECT_NE(digest(2, {}), first);
  EXPECT_NE(digest(1, {.eos = -1}), first);
  EXPECT_NE(digest(1, {.edit = [](Json& config, auto&) { config["rope_theta"] = 10001.0; }}),
            first);
}

TEST(Model, TakesSamplingDefaultsFromTheGenerationConfig) {
  TempDir dir;
  WriteTinyOlmoe(dir.path(), 1, {});
  testing::WriteFileOrDie(
      dir.File("generation_config.json"),
      R"({"do_sample": true, "temperature": 0.5, "top_p": 0.9, "top_k": 7, "eos_token_id": [1, 2]})");
  const auto model = LoadOrDie(dir);
  EXPECT_EQ(model->spec.generation.temperature, 0.5f);
  EXPECT_EQ(model->spec.generation.top_p, 0.9f);
  EXPECT_EQ(model->spec.generation.top_k, 7);
  EXPECT_THAT(model->spec.eos, ElementsAre(1, 2));
  std::filesystem::remove(dir.File("generation_config.json"));
  EXPECT_EQ(LoadOrDie(dir)->spec.generation.temperature, 0.0f);
  EXPECT_THAT(LoadOrDie(dir)->spec.eos, ElementsAre(257));
}

TEST(Model, IsNotFoundWithoutAConfig) {
  EXPECT_EQ(Model::Load("/no/such/directory").status().code(), absl::StatusCode::kNotFound);
  TempDir dir;
  EXPECT_EQ(Model::Load(dir.path()).status().code(), absl::StatusCode::kNotFound);
}

TEST(Model, RefusesAConfigThatIsNoObject) {
  TempDir dir;
  for (const auto& [bytes, message] :
       {std::pair("{\"a\"", "config.json: not JSON at byte"), std::pair("[]", "is array"),
        std::pair("", "not JSON"), std::pair("{}", "model_type is missing")}) {
    testing::WriteFileOrDie(dir.File("config.json"), bytes);
    const absl::Status status = Model::Load(dir.path()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }
  testing::WriteFileOrDie(dir.File("config.json"), std::string((1 << 20) + 1, ' '));
  EXPECT_THAT(std::string(Model::Load(dir.path()).status().message()),
              HasSubstr("the limit is 1048576"));
}

struct Bad {
  const char* name;
  Edit edit;
  const char* message;
};
void PrintTo(const Bad& bad, std::ostream* out) { *out << bad.name; }

std::string LoadError(void (*write)(const std::string&, uint64_t, const TinyOptions&),
                      const Bad& bad) {
  TempDir dir;
  write(dir.path(), 1, {.edit = bad.edit});
  const absl::Status status = Model::Load(dir.path()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  return std::string(status.message());
}

Edit Set(const std::string& key, const Json& value) {
  return [=](Json& config, auto&) { config[key] = value; };
}
Edit Drop(const std::string& key) {
  return [=](Json& config, auto&) { config.erase(key); };
}
// Changes the tensor of this name, which must be there.
Edit Change(const std::string& name, const std::function<void(TinyTensor&)>& change) {
  return [=](Json&, std::vector<TinyTensor>& tensors) {
    const auto tensor =
        std::find_if(tensors.begin(), tensors.end(), [&](const auto& t) { return t.name == name; });
    ASSERT_NE(tensor, tensors.end()) << name;
    change(*tensor);
  };
}
Edit Remove(const std::string& name) {
  return [=](Json&, std::vector<TinyTensor>& tensors) {
    ASSERT_EQ(std::erase_if(tensors, [&](const TinyTensor& t) { return t.name == name; }), 1u)
        << name;
  };
}
Edit AddTensor(const std::string& name) {
  return [=](Json&, std::vector<TinyTensor>& tensors) {
    tensors.push_back({name, "F32", {1}, std::string(4, '\0')});
  };
}

class DeepSeekV2Refuses : public ::testing::TestWithParam<Bad> {};
TEST_P(DeepSeekV2Refuses, ByName) {
  EXPECT_THAT(LoadError(WriteTinyDeepSeekV2, GetParam()), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    Settings, DeepSeekV2Refuses,
    ::testing::Values(
        Bad{"UnknownFamily", Set("model_type", "mamba"),
            "model_type is \"mamba\", supported: deepseek, deepseek_v2"},
        Bad{"FamilyIsNumber", Set("model_type", 2), "model_type is number, expected a string"},
        Bad{"Activation", Set("hidden_act", "gelu"), "hidden_act is \"gelu\", supported: silu"},
        Bad{"Quantised", Set("quantization_config", {{"quant_method", "gptq"}, {"bits", 4}}),
            "quantization_config: quant_method is \"gptq\", supported: fp8"},
        Bad{"BiasWithoutTensors", Set("mlp_bias", true), "mlp.gate_proj.bias\" is missing"},
        Bad{"SlidingWindow", Set("sliding_window", 128), "sliding_window is set"},
        Bad{"ScoringFunction", Set("scoring_func", "sigmoid"),
            "scoring_func is \"sigmoid\", supported: softmax"},
        Bad{"SelectionMethod", Set("topk_method", "noaux_tc"),
            "topk_method is \"noaux_tc\", supported: greedy"},
        Bad{"RopeType", Set("rope_scaling", {{"type", "dynamic"}, {"factor", 2.0}}),
            "rope_type is \"dynamic\""},
        Bad{"KvHeads", Set("num_key_value_heads", 2), "num_key_value_heads is 2, expected 4 to 4"},
        Bad{"NoVocabulary", Drop("vocab_size"), "vocab_size is missing"},
        Bad{"HugeVocabulary", Set("vocab_size", (1 << 20) + 1),
            "vocab_size is 1048577, expected 1 to 1048576"},
        Bad{"HugeInteger", Set("hidden_size", 1e18), "hidden_size is number, expected an integer"},
        Bad{"NegativeSize", Set("hidden_size", -32), "hidden_size is -32, expected 1 to 65536"},
        Bad{"ZeroHeads", Set("num_attention_heads", 0), "num_attention_heads is 0"},
        Bad{"NoLayers", Set("num_hidden_layers", 0), "num_hidden_layers is 0, expected 1 to 512"},
        Bad{"ManyLayers", Set("num_hidden_layers", 513),
            "num_hidden_layers is 513, expected 1 to 512"},
        Bad{"LongContext", Set("max_position_embeddings", 1 << 21),
            "max_position_embeddings is 2097152"},
        Bad{"EpsilonZero", Set("rms_norm_eps", 0.0), "rms_norm_eps is 0"},
        Bad{"EpsilonText", Set("rms_norm_eps", "1e-6"),
            "rms_norm_eps is string, expected a number"},
        Bad{"OddRope", Set("qk_rope_head_dim", 7),
            "rotary embedding of 7 columns, expected an even number"},
        Bad{"RankZero", Set("kv_lora_rank", 0), "kv_lora_rank is 0, expected 1 to 65536"},
        Bad{"QueryRankZero", Set("q_lora_rank", 0), "q_lora_rank is 0, expected 1 to 65536"},
        Bad{"TopKZero", Set("num_experts_per_tok", 0), "num_experts_per_tok is 0"},
        Bad{"TopKBeyondExperts", Set("num_experts_per_tok", 9),
            "num_experts_per_tok is 9, more than n_routed_experts = 8"},
        Bad{"DenseModel", Set("n_routed_experts", nullptr), "n_routed_experts is missing"},
        Bad{"ManyExperts", Set("n_routed_experts", 4097),
            "n_routed_experts is 4097, expected 1 to 4096"},
        Bad{"NoGroups", Set("topk_method", "group_limited_greedy"), "n_group is missing"},
        Bad{"UnevenGroups",
            [](Json& c, auto&) {
              c.update(
                  {{"topk_method", "group_limited_greedy"}, {"n_group", 3}, {"topk_group", 1}});
            },
            "n_group 3 does not divide n_routed_experts 8"},
        Bad{"TooFewInGroups",
            [](Json& c, auto&) {
              c.update(
                  {{"topk_method", "group_limited_greedy"}, {"n_group", 8}, {"topk_group", 1}});
            },
            "topk_group 1 of 8 groups have only 1 experts"},
        Bad{"MoreTopGroupsThanGroups",
            [](Json& c, auto&) {
              c.update(
                  {{"topk_method", "group_limited_greedy"}, {"n_group", 4}, {"topk_group", 5}});
            },
            "topk_group is 5, expected 1 to 4"},
        Bad{"SharedExperts", Set("n_shared_experts", 1 << 20), "n_shared_experts is 1048576"}),
    [](const auto& one) { return one.param.name; });

constexpr char kExpert[] = "model.layers.1.mlp.experts.3.up_proj.weight";

INSTANTIATE_TEST_SUITE_P(
    Tensors, DeepSeekV2Refuses,
    ::testing::Values(
        Bad{"MissingExpert", Remove(kExpert),
            "tensor \"model.layers.1.mlp.experts.3.up_proj.weight\" is missing"},
        Bad{"MissingEmbedding", Remove("model.embed_tokens.weight"),
            "tensor \"model.embed_tokens.weight\" is missing"},
        Bad{"MissingHead", Remove("lm_head.weight"), "tensor \"lm_head.weight\" is missing"},
        Bad{"MissingGate", Remove("model.layers.2.mlp.gate.weight"),
            "mlp.gate.weight\" is missing"},
        Bad{"OneExpertMore", AddTensor("model.layers.1.mlp.experts.8.up_proj.weight"),
            "experts.8.up_proj.weight\" is not part of this family with these settings"},
        Bad{"UnknownTensor", AddTensor("model.layers.0.self_attn.q_proj.bias"),
            "q_proj.bias\" is not part of this family"},
        Bad{"OneLayerMore", AddTensor("model.layers.3.input_layernorm.weight"),
            "layers.3.input_layernorm.weight\" is not part"},
        Bad{"FusedExperts",
            [](Json&, std::vector<TinyTensor>& tensors) {
              std::erase_if(tensors, [](const TinyTensor& w) {
                return w.name.find(".experts.") != std::string::npos;
              });
              tensors.push_back(
                  {"model.layers.1.mlp.experts.gate_up_proj", "F32", {1}, std::string(4, '\0')});
            },
            "tensor \"model.layers.1.mlp.experts.gate_up_proj\" has shape [1], expected [8, 24, "
            "32]"},
        Bad{"Transposed", Change(kExpert, [](TinyTensor& w) { std::swap(w.shape[0], w.shape[1]); }),
            "up_proj.weight\" has shape [32, 12], expected [12, 32]"},
        Bad{"Flat", Change(kExpert, [](TinyTensor& w) { w.shape = {12 * 32}; }),
            "has shape [384], expected [12, 32]"},
        Bad{"ThreeDimensions",
            Change(kExpert,
                   [](TinyTensor& w) {
                     w.shape = {1, 12, 32};
                   }),
            "has shape [1, 12, 32], expected [12, 32]"},
        Bad{"NormAsMatrix",
            Change("model.norm.weight",
                   [](TinyTensor& w) {
                     w.shape = {1, 32};
                   }),
            "tensor \"model.norm.weight\" has shape [1, 32], expected [32]"},
        Bad{"Vocabulary", Set("vocab_size", 259),
            "tensor \"model.embed_tokens.weight\" has shape [260, 32], expected [259, 32]"},
        Bad{"IntegerWeights", Change(kExpert, [](TinyTensor& w) { w.type = "I32"; }),
            "up_proj.weight\" is I32, supported: F32, F16, BF16"},
        Bad{"EightBitWeights",
            Change(kExpert,
                   [](TinyTensor& w) {
                     w.type = "F8_E4M3";
                     w.bytes.resize(12 * 32);
                   }),
            "is F8_E4M3, supported: F32, F16, BF16"},
        Bad{"MixedTypes",
            Change(kExpert,
                   [](TinyTensor& w) {
                     w.type = "BF16";
                     w.bytes.resize(2 * 12 * 32);
                   }),
            "is BF16, the embedding is F32"},
        Bad{"TruncatedData", Change(kExpert, [](TinyTensor& w) { w.bytes.pop_back(); }),
            "model.safetensors: tensor \"model.layers.1.mlp.experts.3.up_proj.weight\": "
            "data_offsets span 1535 bytes"}),
    [](const auto& one) { return one.param.name; });

class OlmoeRefuses : public ::testing::TestWithParam<Bad> {};
TEST_P(OlmoeRefuses, ByName) {
  EXPECT_THAT(LoadError(WriteTinyOlmoe, GetParam()), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    Settings, OlmoeRefuses,
    ::testing::Values(
        Bad{"LongRope", Set("rope_scaling", {{"type", "longrope"}, {"factor", 2.0}}),
            "rope_type is \"longrope\", supported: default, linear, llama3, yarn"},
        Bad{"HeadDim", Set("head_dim", 16), "head_dim is 16, expected 8 to 8"},
        Bad{"KvHeads", Set("num_key_value_heads", 3),
            "num_key_value_heads 3 does not divide num_attention_heads 4"},
        Bad{"MoreKvHeads", Set("num_key_value_heads", 5),
            "num_key_value_heads is 5, expected 1 to 4"},
        Bad{"NegativeClip", Set("clip_qkv", -1.0), "clip_qkv is -1"},
        Bad{"NoExperts", Drop("num_experts"), "num_experts is missing"},
        Bad{"BiasWithoutTensors", Set("attention_bias", true), "q_proj.bias\" is missing"},
        Bad{"TopKBeyondExperts", Set("num_experts_per_tok", 9), "more than num_experts = 8"}),
    [](const auto& one) { return one.param.name; });

TEST(Model, NeverCrashesOnATruncatedFile) {
  TempDir dir;
  WriteTinyDeepSeekV2(dir.path(), 1, {.layers = 2});
  const std::string bytes = testing::ReadFileOrDie(dir.File("model.safetensors"));
  for (const size_t kept :
       {size_t{0}, size_t{7}, size_t{8}, size_t{100}, bytes.size() / 2, bytes.size() - 1}) {
    testing::WriteFileOrDie(dir.File("model.safetensors"), bytes.substr(0, kept));
    const absl::Status status = Model::Load(dir.path()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << kept;
    EXPECT_THAT(std::string(status.message()), HasSubstr("model.safetensors"));
  }
}

}  // namespace
}  // namespace conclave::worker

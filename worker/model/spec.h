#pragma once
// What a family of models is: a declarative description over the shared operations of a step. A
// family file turns config.json into one of these; nothing else knows families.

#include <cstdint>
#include <string>
#include <vector>

#include "worker/device/device.h"
#include "worker/device/tensor.h"

namespace conclave::worker {

struct AttentionSpec {
  enum class Kind : uint8_t { kGqa, kMla };
  Kind kind = Kind::kGqa;
  int32_t heads = 0;
  int32_t kv_heads = 0;  // kGqa
  int32_t head_dim = 0;  // kGqa: of queries, keys and values
  // kGqa: RMS norms of queries and keys, over the whole projection before heads are split (OLMoE)
  // or over each head (Qwen3).
  enum class QkNorm : uint8_t { kNone, kWhole, kHeads };
  QkNorm qk_norm = QkNorm::kNone;
  float clip_qkv = 0.0f;     // kGqa: 0 is off
  bool bias = false;         // q, k, v have biases (kGqa); the two down projections and o (kMla)
  bool output_bias = false;  // kGqa: o has one
  int32_t q_lora_rank = 0;   // kMla: 0 is a full-rank query
  int32_t kv_lora_rank = 0;  // kMla
  int32_t qk_nope_dim = 0;   // kMla
  int32_t qk_rope_dim = 0;   // kMla
  int32_t value_dim = 0;     // kMla: of a head
  float latent_norm_eps = 1e-6f;  // kMla: of the norms over the low-rank query and the latent
  float scale = 1.0f;             // of q k
};

struct LayerSpec {
  bool moe = false;
  int32_t window = 0;  // kGqa: positions a row sees, its own included; 0: all
};

// What Generate does when a request leaves it open.
struct GenerationDefaults {
  float temperature = 0.0f;
  float top_p = 1.0f;
  int32_t top_k = 0;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
  int32_t max_new_tokens = 0;  // 0: the server's default
};

struct ModelSpec {
  std::string family;  // config.json's model_type
  std::string name;    // directory's last component
  int32_t vocab = 0;
  int32_t dim = 0;
  int32_t context_limit = 0;
  float norm_eps = 1e-6f;
  bool tied_embeddings = false;
  DType type = DType::kBF16;         // of the checkpoint
  DType expert_type = DType::kBF16;  // what experts' matrices are held as: the same, or packed
  DType dense_type = DType::kBF16;   // likewise the others, where they fit and no head's are alone
  std::vector<LayerSpec> layers;
  AttentionSpec attention;
  RopeTable rope;  // for context_limit positions
  int32_t dense_ffn_dim = 0;
  int32_t expert_ffn_dim = 0;
  int32_t shared_ffn_dim = 0;  // 0: no shared expert
  bool ffn_bias = false;       // dense and shared nets have biases
  bool expert_bias = false;    // experts have
  GateShape gate;
  FfnActivation activation;  // of all feed-forward nets
  std::vector<int32_t> eos;
  GenerationDefaults generation;

  // What rows are rounded to where they enter a product, leave an expert or rest in the cache. An
  // F16 checkpoint computes in fp32: its weights widen exactly, and rounding activations to F16
  // could overflow.
  DType activation_type() const { return type == DType::kBF16 ? DType::kBF16 : DType::kF32; }
};

}  // namespace conclave::worker

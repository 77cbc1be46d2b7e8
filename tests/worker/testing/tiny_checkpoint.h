#pragma once
// Tiny random checkpoints for tests: complete Hugging Face directories of either family, a function
// of the seed and the options only. Written independently of worker/model/families, so that a wrong
// name or shape there shows. Every function aborts on an I/O error, which in a test is the end of
// it.

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "worker/device/tensor.h"

namespace conclave::worker::testing {

// A directory of its own under the system's temporary one, removed with everything in it at the
// end.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::string& path() const { return path_; }
  std::string File(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

std::string ReadFileOrDie(const std::string& path);
void WriteFileOrDie(const std::string& path, const std::string& bytes);

// A tensor as it stands in a file: type is the format's word ("F32", "BF16"), bytes are its data.
struct TinyTensor {
  std::string name;
  std::string type;
  std::vector<int64_t> shape;
  std::string bytes;
};

// The bytes of a safetensors file. The second takes any header, true or not.
std::string SafetensorsBytes(const std::vector<TinyTensor>& tensors);
std::string SafetensorsBytes(const std::string& header, const std::string& data);
// What the first made them of.
std::vector<TinyTensor> TensorsOf(const std::string& safetensors_bytes);

// Values in the type's encoding, rounded to nearest even.
std::string Encode(DType type, const std::vector<float>& values);

struct TinyOptions {
  DType type = DType::kF32;
  int32_t vocab = 260;  // bytes 0..255, then <|bos|> 256, <|eos|> 257, <|user|> 258, <|end|> 259
  int32_t dim = 32;
  int32_t layers = 3;
  int32_t heads = 4;
  int32_t context_limit = 1024;
  int32_t experts = 8;
  int32_t top_k = 2;
  int32_t expert_ffn_dim = 12;
  int32_t eos = 257;      // -1: none
  bool tokenizer = true;  // tokenizer.json: byte-level BPE without merges
  bool tied_embeddings = false;
  bool attention_bias = false;
  int32_t shards = 1;  // more: with model.safetensors.index.json

  // DeepSeek-V2 only.
  int32_t dense_layers = 1;
  int32_t dense_ffn_dim = 48;
  int32_t shared_experts = 2;
  int32_t q_lora_rank = 0;  // 0: none
  int32_t kv_lora_rank = 16;
  int32_t qk_nope_dim = 12;
  int32_t qk_rope_dim = 8;
  int32_t value_dim = 12;
  int32_t groups = 0;  // 0: topk_method greedy; else group_limited_greedy
  int32_t top_groups = 1;
  bool yarn = false;

  // OLMoE only.
  int32_t kv_heads = 2;
  float clip_qkv = 0.0f;  // 0: none

  // The last word on both, before they are written.
  std::function<void(nlohmann::json& config, std::vector<TinyTensor>& tensors)> edit;
};

// config.json, generation_config.json, model.safetensors (or shards) and tokenizer.json in an
// existing directory.
void WriteTinyDeepSeekV2(const std::string& directory, uint64_t seed,
                         const TinyOptions& options = {});
void WriteTinyOlmoe(const std::string& directory, uint64_t seed, const TinyOptions& options = {});

}  // namespace conclave::worker::testing

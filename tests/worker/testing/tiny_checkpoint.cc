#include "tests/worker/testing/tiny_checkpoint.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>

#include "scheduler/check.h"

namespace conclave::worker::testing {
namespace {

using Json = nlohmann::json;

// Normal and subnormal range; tests write no infinities.
uint16_t ToF16(float value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const float magnitude = std::fabs(value);
  CONCLAVE_CHECK(magnitude < 65504.0f);
  if (magnitude == 0.0f) return sign;
  const int exponent = std::max(std::ilogb(magnitude), -14);
  // nearbyint rounds to even; a carry out of the fraction raises the exponent, as it should.
  const auto units = static_cast<int>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
  return static_cast<uint16_t>(sign + ((exponent + 14) << 10) + units);
}

const char* Name(DType type) {
  switch (type) {
    case DType::kF32:
      return "F32";
    case DType::kBF16:
      return "BF16";
    case DType::kF16:
      return "F16";
    case DType::kMxInt8:
    case DType::kMxFp4:
      break;
  }
  return "";
}

const char* TorchName(DType type) {
  switch (type) {
    case DType::kF32:
      return "float32";
    case DType::kBF16:
      return "bfloat16";
    case DType::kF16:
      return "float16";
    case DType::kMxInt8:
    case DType::kMxFp4:
      break;
  }
  return "";
}

// Writes the tensors of one checkpoint, in the order of the calls.
class Tensors {
 public:
  Tensors(DType type, uint64_t seed) : type_(type), random_(seed) {}

  // Uniform with variance gain^2 / cols: a product keeps the scale of what goes in.
  void Matrix(const std::string& name, int64_t rows, int64_t cols, double gain = 1.0) {
    const double bound = gain * std::sqrt(3.0 / static_cast<double>(cols));
    Write(name, {rows, cols}, rows * cols, 0.0, bound);
  }
  void Norm(const std::string& name, int64_t cols) { Write(name, {cols}, cols, 1.0, 0.3); }
  void Bias(const std::string& name, int64_t cols) { Write(name, {cols}, cols, 0.0, 0.3); }
  void Ffn(const std::string& prefix, int64_t ffn, int64_t dim) {
    Matrix(prefix + ".gate_proj.weight", ffn, dim);
    Matrix(prefix + ".up_proj.weight", ffn, dim);
    Matrix(prefix + ".down_proj.weight", dim, ffn);
  }

  std::vector<TinyTensor>& all() { return tensors_; }

 private:
  void Write(const std::string& name, std::vector<int64_t> shape, int64_t count, double middle,
             double bound) {
    std::vector<float> values(static_cast<size_t>(count));
    // Not std::uniform_real_distribution, whose numbers are the library's choice.
    for (float& value : values) {
      const double unit = static_cast<double>(random_() >> 11) * 0x1p-53;
      value = static_cast<float>(middle + bound * (2.0 * unit - 1.0));
    }
    tensors_.push_back({name, Name(type_), std::move(shape), Encode(type_, values)});
  }

  DType type_;
  std::mt19937_64 random_;
  std::vector<TinyTensor> tensors_;
};

Json CommonConfig(const TinyOptions& o) {
  Json config = {{"hidden_act", "silu"},
                 {"hidden_size", o.dim},
                 {"max_position_embeddings", o.context_limit},
                 {"num_attention_heads", o.heads},
                 {"num_experts_per_tok", o.top_k},
                 {"num_hidden_layers", o.layers},
                 {"norm_topk_prob", false},
                 {"rms_norm_eps", 1e-5},
                 {"rope_scaling", nullptr},
                 {"rope_theta", 10000.0},
                 {"tie_word_embeddings", o.tied_embeddings},
                 {"attention_bias", o.attention_bias},
                 {"torch_dtype", TorchName(o.type)},
                 {"bos_token_id", 256},
                 {"vocab_size", o.vocab}};
  if (o.eos >= 0) config["eos_token_id"] = o.eos;
  return config;
}

// GPT-2's printable stand-in for a byte, in UTF-8.
std::string ByteSymbol(int byte) {
  const auto printable = [](int b) {
    return (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
  };
  int code = byte;
  if (!printable(byte)) {
    code = 256;
    for (int b = 0; b < byte; ++b) code += printable(b) ? 0 : 1;
  }
  if (code < 0x80) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xc0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3f))};
}

Json TokenizerJson(const TinyOptions& o) {
  Json vocab = Json::object();
  for (int byte = 0; byte < 256; ++byte) vocab[ByteSymbol(byte)] = byte;
  Json added = Json::array();
  const char* const specials[] = {"<|bos|>", "<|eos|>", "<|user|>", "<|end|>"};
  for (int i = 0; i < 4 && 256 + i < o.vocab; ++i) {
    added.push_back({{"id", 256 + i},
                     {"content", specials[i]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  }
  const auto byte_level = [](bool prefix) {
    return Json{{"type", "ByteLevel"},
                {"add_prefix_space", prefix},
                {"trim_offsets", true},
                {"use_regex", true}};
  };
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", added},
          {"normalizer", nullptr},
          {"pre_tokenizer", byte_level(false)},
          {"post_processor", nullptr},
          {"decoder", byte_level(true)},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", false},
            {"vocab", vocab},
            {"merges", Json::array()}}}};
}

void WriteShards(const std::string& directory, const std::vector<TinyTensor>& tensors,
                 int32_t shards) {
  if (shards <= 1) {
    WriteFileOrDie(directory + "/model.safetensors", SafetensorsBytes(tensors));
    return;
  }
  std::vector<std::vector<TinyTensor>> parts(static_cast<size_t>(shards));
  for (size_t i = 0; i < tensors.size(); ++i)
    parts[i * parts.size() / tensors.size()].push_back(tensors[i]);
  Json map = Json::object();
  for (size_t i = 0; i < parts.size(); ++i) {
    char name[64];
    std::snprintf(name, sizeof(name), "model-%05zu-of-%05zu.safetensors", i + 1, parts.size());
    for (const TinyTensor& tensor : parts[i]) map[tensor.name] = name;
    WriteFileOrDie(directory + "/" + name, SafetensorsBytes(parts[i]));
  }
  WriteFileOrDie(directory + "/model.safetensors.index.json",
                 Json{{"metadata", Json::object()}, {"weight_map", map}}.dump());
}

void WriteDirectory(const std::string& directory, const TinyOptions& o, Json config,
                    std::vector<TinyTensor>& tensors) {
  if (o.edit) o.edit(config, tensors);
  WriteFileOrDie(directory + "/config.json", config.dump(2));
  Json generation = {{"bos_token_id", 256}};
  if (o.eos >= 0) generation["eos_token_id"] = o.eos;
  WriteFileOrDie(directory + "/generation_config.json", generation.dump(2));
  if (o.tokenizer) WriteFileOrDie(directory + "/tokenizer.json", TokenizerJson(o).dump());
  WriteShards(directory, tensors, o.shards);
}

void AddMla(const TinyOptions& o, const std::string& attention, Tensors& t) {
  const int64_t q_rows = int64_t{o.heads} * (o.qk_nope_dim + o.qk_rope_dim);
  if (o.q_lora_rank > 0) {
    t.Matrix(attention + ".q_a_proj.weight", o.q_lora_rank, o.dim);
    if (o.attention_bias) t.Bias(attention + ".q_a_proj.bias", o.q_lora_rank);
    t.Norm(attention + ".q_a_layernorm.weight", o.q_lora_rank);
    t.Matrix(attention + ".q_b_proj.weight", q_rows, o.q_lora_rank, 2.0);
  } else {
    t.Matrix(attention + ".q_proj.weight", q_rows, o.dim, 2.0);
  }
  t.Matrix(attention + ".kv_a_proj_with_mqa.weight", o.kv_lora_rank + o.qk_rope_dim, o.dim);
  if (o.attention_bias)
    t.Bias(attention + ".kv_a_proj_with_mqa.bias", o.kv_lora_rank + o.qk_rope_dim);
  t.Norm(attention + ".kv_a_layernorm.weight", o.kv_lora_rank);
  t.Matrix(attention + ".kv_b_proj.weight", int64_t{o.heads} * (o.qk_nope_dim + o.value_dim),
           o.kv_lora_rank);
  t.Matrix(attention + ".o_proj.weight", o.dim, int64_t{o.heads} * o.value_dim);
  if (o.attention_bias) t.Bias(attention + ".o_proj.bias", o.dim);
}

void AddGqa(const TinyOptions& o, const std::string& attention, Tensors& t) {
  const int64_t head_dim = o.dim / o.heads;
  const std::pair<const char*, int64_t> projections[] = {
      {"q", o.heads * head_dim}, {"k", o.kv_heads * head_dim}, {"v", o.kv_heads * head_dim}};
  for (const auto& [name, rows] : projections) {
    t.Matrix(attention + "." + name + "_proj.weight", rows, o.dim);
    if (o.attention_bias) t.Bias(attention + "." + name + "_proj.bias", rows);
  }
  t.Norm(attention + ".q_norm.weight", o.heads * head_dim);
  t.Norm(attention + ".k_norm.weight", o.kv_heads * head_dim);
  t.Matrix(attention + ".o_proj.weight", o.dim, o.heads * head_dim);
  if (o.attention_bias) t.Bias(attention + ".o_proj.bias", o.dim);
}

void AddExperts(const TinyOptions& o, const std::string& mlp, Tensors& t) {
  t.Matrix(mlp + ".gate.weight", o.experts, o.dim, 2.0);
  for (int e = 0; e < o.experts; ++e)
    t.Ffn(mlp + ".experts." + std::to_string(e), o.expert_ffn_dim, o.dim);
}

void AddEnds(const TinyOptions& o, Tensors& t) {
  t.Norm("model.norm.weight", o.dim);
  if (!o.tied_embeddings) t.Matrix("lm_head.weight", o.vocab, o.dim, 2.0);
}

}  // namespace

TempDir::TempDir() {
  std::string name = (std::filesystem::temp_directory_path() / "conclave-test-XXXXXX").string();
  CONCLAVE_CHECK(mkdtemp(name.data()) != nullptr);
  path_ = name;
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string ReadFileOrDie(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  CONCLAVE_CHECK(file.good());
  return {std::istreambuf_iterator<char>(file), {}};
}

void WriteFileOrDie(const std::string& path, const std::string& bytes) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  file.close();
  CONCLAVE_CHECK(file.good());
}

std::string Encode(DType type, const std::vector<float>& values) {
  std::string bytes(values.size() * SizeOf(type), '\0');
  for (size_t i = 0; i < values.size(); ++i) {
    if (type == DType::kF32) {
      std::memcpy(&bytes[i * 4], &values[i], 4);
    } else {
      const uint16_t half = type == DType::kBF16 ? ToBf16(values[i]) : ToF16(values[i]);
      std::memcpy(&bytes[i * 2], &half, 2);
    }
  }
  return bytes;
}

std::string SafetensorsBytes(const std::string& header, const std::string& data) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<char>((header.size() >> (8 * i)) & 0xff));
  return bytes + header + data;
}

std::string SafetensorsBytes(const std::vector<TinyTensor>& tensors) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  header["__metadata__"] = {{"format", "pt"}};
  std::string data;
  for (const TinyTensor& tensor : tensors) {
    const size_t end = data.size() + tensor.bytes.size();
    header[tensor.name] = {
        {"dtype", tensor.type}, {"shape", tensor.shape}, {"data_offsets", {data.size(), end}}};
    data += tensor.bytes;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // as the reference implementation pads it
  return SafetensorsBytes(text, data);
}

std::vector<TinyTensor> TensorsOf(const std::string& bytes) {
  uint64_t length = 0;
  for (size_t i = 8; i-- > 0;) length = length << 8 | static_cast<unsigned char>(bytes[i]);
  const Json header = Json::parse(bytes.substr(8, length));
  std::vector<TinyTensor> tensors;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    const auto span = entry["data_offsets"].get<std::vector<size_t>>();
    tensors.push_back({name, entry["dtype"], entry["shape"].get<std::vector<int64_t>>(),
                       bytes.substr(8 + length + span[0], span[1] - span[0])});
  }
  return tensors;
}

void WriteTinyDeepSeekV2(const std::string& directory, uint64_t seed, const TinyOptions& o) {
  Json config = CommonConfig(o);
  config.update({{"architectures", {"DeepseekV2ForCausalLM"}},
                 {"model_type", "deepseek_v2"},
                 {"first_k_dense_replace", o.dense_layers},
                 {"moe_layer_freq", 1},
                 {"intermediate_size", o.dense_ffn_dim},
                 {"moe_intermediate_size", o.expert_ffn_dim},
                 {"n_routed_experts", o.experts},
                 {"n_shared_experts", o.shared_experts},
                 {"num_key_value_heads", o.heads},
                 {"q_lora_rank", o.q_lora_rank > 0 ? Json(o.q_lora_rank) : Json()},
                 {"kv_lora_rank", o.kv_lora_rank},
                 {"qk_nope_head_dim", o.qk_nope_dim},
                 {"qk_rope_head_dim", o.qk_rope_dim},
                 {"v_head_dim", o.value_dim},
                 {"routed_scaling_factor", 1.5},
                 {"scoring_func", "softmax"},
                 {"topk_method", o.groups > 0 ? "group_limited_greedy" : "greedy"},
                 {"n_group", o.groups > 0 ? Json(o.groups) : Json()},
                 {"topk_group", o.groups > 0 ? Json(o.top_groups) : Json()}});
  if (o.yarn) {
    config["rope_scaling"] = {
        {"type", "yarn"},       {"factor", 8.0},  {"original_max_position_embeddings", 128},
        {"beta_fast", 32},      {"beta_slow", 1}, {"mscale", 0.9},
        {"mscale_all_dim", 0.6}};
  }

  Tensors t(o.type, seed);
  t.Matrix("model.embed_tokens.weight", o.vocab, o.dim, std::sqrt(static_cast<double>(o.dim)));
  for (int l = 0; l < o.layers; ++l) {
    const std::string layer = "model.layers." + std::to_string(l);
    t.Norm(layer + ".input_layernorm.weight", o.dim);
    AddMla(o, layer + ".self_attn", t);
    t.Norm(layer + ".post_attention_layernorm.weight", o.dim);
    if (l < o.dense_layers) {
      t.Ffn(layer + ".mlp", o.dense_ffn_dim, o.dim);
    } else {
      AddExperts(o, layer + ".mlp", t);
      if (o.shared_experts > 0) {
        t.Ffn(layer + ".mlp.shared_experts", int64_t{o.shared_experts} * o.expert_ffn_dim, o.dim);
      }
    }
  }
  AddEnds(o, t);
  WriteDirectory(directory, o, std::move(config), t.all());
}

void WriteTinyOlmoe(const std::string& directory, uint64_t seed, const TinyOptions& o) {
  Json config = CommonConfig(o);
  config.update({{"architectures", {"OlmoeForCausalLM"}},
                 {"model_type", "olmoe"},
                 {"intermediate_size", o.expert_ffn_dim},
                 {"num_experts", o.experts},
                 {"num_key_value_heads", o.kv_heads},
                 {"clip_qkv", o.clip_qkv > 0 ? Json(o.clip_qkv) : Json()}});

  Tensors t(o.type, seed);
  t.Matrix("model.embed_tokens.weight", o.vocab, o.dim, std::sqrt(static_cast<double>(o.dim)));
  for (int l = 0; l < o.layers; ++l) {
    const std::string layer = "model.layers." + std::to_string(l);
    t.Norm(layer + ".input_layernorm.weight", o.dim);
    AddGqa(o, layer + ".self_attn", t);
    t.Norm(layer + ".post_attention_layernorm.weight", o.dim);
    AddExperts(o, layer + ".mlp", t);
  }
  AddEnds(o, t);
  WriteDirectory(directory, o, std::move(config), t.all());
}

}  // namespace conclave::worker::testing

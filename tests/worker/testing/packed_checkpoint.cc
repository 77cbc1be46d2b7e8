#include "tests/worker/testing/packed_checkpoint.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <ostream>
#include <random>

#include "scheduler/check.h"
#include "worker/device/packed.h"
#include "worker/model/quantization.h"

namespace conclave::worker::testing {
namespace {

using Json = nlohmann::json;
using Tensors = std::vector<TinyTensor>;

Edit Both(const Edit& first, const Edit& second) {
  return [=](Json& config, Tensors& tensors) {
    first(config, tensors);
    if (second) second(config, tensors);
  };
}

int64_t Count(const TinyTensor& tensor) {
  int64_t count = 1;
  for (const int64_t size : tensor.shape) count *= size;
  return count;
}

// Numbers that keep the scale of what goes through a matrix.
std::string RandomBytes(const TinyTensor& tensor, std::mt19937_64& random) {
  const bool matrix = tensor.shape.size() > 1;
  const double spread = matrix ? std::sqrt(3.0 / static_cast<double>(tensor.shape.back())) : 0.3;
  const double middle = tensor.name.ends_with("norm.weight") ? 1.0 : 0.0;
  std::vector<float> numbers;
  for (int64_t i = 0; i < Count(tensor); ++i) {
    const double unit = static_cast<double>(random() >> 11) * 0x1p-53;
    numbers.push_back(static_cast<float>(middle + spread * (2.0 * unit - 1.0)));
  }
  return Encode(DType::kBF16, numbers);
}

// Those of tests/reference are too small to be packed. `sizes`: of tensors' dimensions, and what
// they become.
PackableCheckpoint Resized(const char* name, const char* checkpoint,
                           const std::map<int64_t, int64_t>& sizes) {
  const Edit resize = [=](Json& config, Tensors& tensors) {
    const auto resized = [&](int64_t size) {
      const auto found = sizes.find(size);
      return found == sizes.end() ? size : found->second;
    };
    for (const char* key : {"hidden_size", "intermediate_size", "moe_intermediate_size",
                            "shared_expert_intermediate_size"}) {
      if (config.contains(key)) config[key] = resized(config[key].get<int64_t>());
    }
    std::mt19937_64 random(1);
    for (TinyTensor& tensor : tensors) {
      CONCLAVE_CHECK(tensor.type == "BF16");
      for (int64_t& size : tensor.shape) size = resized(size);
      tensor.bytes = RandomBytes(tensor, random);
    }
  };
  return {name, [=](const std::string& directory, const Edit& edit) {
            WriteEdited(checkpoint, Both(resize, edit), directory);
          }};
}

PackableCheckpoint Tiny(const char* name,
                        void (*write)(const std::string&, uint64_t, const TinyOptions&),
                        const Edit& first) {
  return {name, [=](const std::string& directory, const Edit& edit) {
            TinyOptions options = {.type = DType::kBF16,
                                   .vocab = 272,
                                   .dim = 96,
                                   .expert_ffn_dim = 32,
                                   .dense_ffn_dim = 64,
                                   .kv_lora_rank = 24,
                                   .value_dim = 16};
            options.edit = first ? Both(first, edit) : edit;
            write(directory, 1, options);
          }};
}

// All of a layer in two tensors, as transformers 5 holds them.
void Fuse(Json&, Tensors& tensors) {
  Tensors fused, rest;
  const auto append = [&](const std::string& name, std::vector<int64_t> shape, const TinyTensor& t,
                          int64_t at) {
    const auto is = [&](const TinyTensor& one) { return one.name == name; };
    auto found = std::find_if(fused.begin(), fused.end(), is);
    if (found == fused.end()) {
      fused.push_back(
          {name, "BF16", shape,
           std::string(static_cast<size_t>(8 * 2) * static_cast<size_t>(shape[1] * shape[2]),
                       '\0')});
      found = fused.end() - 1;
    }
    found->bytes.replace(static_cast<size_t>(at) * 2, t.bytes.size(), t.bytes);
  };
  for (const TinyTensor& tensor : tensors) {
    const size_t at = tensor.name.find(".experts.");
    if (at == tensor.name.npos) {
      rest.push_back(tensor);
      continue;
    }
    const std::string layer = tensor.name.substr(0, at + 9);
    const int64_t slot = std::stoi(tensor.name.substr(at + 9));
    const int64_t rows = tensor.shape[0], cols = tensor.shape[1];
    if (tensor.name.ends_with("down_proj.weight")) {
      append(layer + "down_proj", {8, rows, cols}, tensor, slot * rows * cols);
    } else {
      const int64_t half = tensor.name.ends_with("up_proj.weight") ? 1 : 0;
      append(layer + "gate_up_proj", {8, 2 * rows, cols}, tensor, (2 * slot + half) * rows * cols);
    }
  }
  rest.insert(rest.end(), fused.begin(), fused.end());
  tensors = std::move(rest);
}

void MakeFp8(Json& config, Tensors& tensors) {
  config["quantization_config"] = {{"quant_method", "fp8"}, {"weight_block_size", {128, 128}}};
  std::mt19937_64 random(2);
  Tensors factors;
  for (TinyTensor& tensor : tensors) {
    if (!CanBePacked(tensor.name)) continue;
    tensor.type = "F8_E4M3";
    tensor.bytes.clear();
    for (int64_t i = 0; i < Count(tensor); ++i)
      tensor.bytes.push_back(static_cast<char>((random() & 0x80) | (random() % 0x40)));
    factors.push_back({tensor.name + "_scale_inv", "F32", {1, 1}, Encode(DType::kF32, {0.2f})});
  }
  tensors.insert(tensors.end(), factors.begin(), factors.end());
}

// As BF16, with all that belongs to it.
void Dequantise(TinyTensor& tensor, const Tensors& all) {
  float factor = 0.0f;
  for (const TinyTensor& other : all) {
    if (other.name == tensor.name + "_scale_inv") std::memcpy(&factor, other.bytes.data(), 4);
  }
  std::vector<float> numbers;
  for (const char byte : tensor.bytes)
    numbers.push_back(Fp8Values()[static_cast<unsigned char>(byte)] * factor);
  tensor.type = "BF16";
  tensor.bytes = Encode(DType::kBF16, numbers);
}

// Rows of a product run along `cols` numbers that lie `step` apart.
void PackAndUnpack(TinyTensor& tensor, DType form, int64_t cols, int64_t step) {
  std::vector<uint16_t> numbers(tensor.bytes.size() / 2);
  std::memcpy(numbers.data(), tensor.bytes.data(), tensor.bytes.size());
  // A row at a time: the rest of its band is zeros.
  std::vector<uint16_t> row(static_cast<size_t>(kBand * cols));
  std::vector<uint8_t> data(row.size()), scales(row.size());
  const Weight packed = {data.data(), form, kBand, cols, scales.data()};
  for (int64_t r = 0; r < std::ssize(numbers) / cols; ++r) {
    const int64_t first = r / step * step * cols + r % step;
    const auto at = [&](int64_t c) -> uint16_t& {
      return numbers[static_cast<size_t>(first + c * step)];
    };
    for (int64_t c = 0; c < cols; ++c) row[static_cast<size_t>(c)] = at(c);
    CONCLAVE_CHECK(!PackNumbers(row.data(), packed));
    UnpackNumbers(packed, row.data());
    for (int64_t c = 0; c < cols; ++c) at(c) = row[static_cast<size_t>(c)];
  }
  std::memcpy(tensor.bytes.data(), numbers.data(), tensor.bytes.size());
}

}  // namespace

const std::vector<PackableCheckpoint>& PackableCheckpoints() {
  static const auto* const checkpoints = new std::vector<PackableCheckpoint>{
      Tiny("olmoe", WriteTinyOlmoe, nullptr),
      Tiny("olmoe_fused", WriteTinyOlmoe, Fuse),
      Tiny("deepseek_v2", WriteTinyDeepSeekV2, nullptr),
      Tiny("deepseek_v2_fp8", WriteTinyDeepSeekV2, MakeFp8),
      Resized("mixtral", "mixtral-llama3-bf16", {{24, 64}, {12, 32}, {6, 16}}),
      Resized("qwen2_moe", "qwen2-moe-window-bf16", {{24, 64}, {10, 32}, {20, 96}, {12, 32}}),
      Resized("gpt_oss", "gpt-oss-published-bf16", {{18, 96}, {10, 64}, {20, 128}}),
  };
  return *checkpoints;
}

void PrintTo(const PackableCheckpoint& checkpoint, std::ostream* out) { *out << checkpoint.name; }

bool CanBePacked(const std::string& tensor) {
  const bool expert = tensor.find(".experts.") != tensor.npos ||
                      tensor.find(".shared_expert.") != tensor.npos ||
                      tensor.find(".shared_experts.") != tensor.npos;
  return expert && !tensor.ends_with("bias") && !tensor.ends_with("_scale_inv");
}

bool CanAllBePacked(const std::string& tensor) {
  const bool product =
      tensor.find("_proj") != tensor.npos && tensor.find("kv_b_proj") == tensor.npos;
  return CanBePacked(tensor) || (product && tensor.ends_with(".weight")) ||
         tensor == "lm_head.weight";
}

Edit Unpacked(DType form, bool (*packed)(const std::string&)) {
  return [=](Json& config, Tensors& tensors) {
    const auto named = [&](const std::string& name) {
      return std::find_if(tensors.begin(), tensors.end(),
                          [&](const TinyTensor& one) { return one.name == name; });
    };
    // A tied head is packed, the embedding is not: a head that is stored beside it counts.
    if (packed("lm_head.weight") && named("lm_head.weight") == tensors.end()) {
      TinyTensor head = *named("model.embed_tokens.weight");
      head.name = "lm_head.weight";
      tensors.push_back(std::move(head));
    }
    for (TinyTensor& tensor : tensors) {
      if (!packed(tensor.name)) continue;
      const bool expert = CanBePacked(tensor.name);
      if (!expert && !CanPack(tensor.shape[0], tensor.shape[1])) continue;
      // There a product's input is what has rows: groups run down the columns.
      const bool transposed = expert && config["model_type"] == "gpt_oss";
      if (tensor.type == "F8_E4M3") Dequantise(tensor, tensors);
      CONCLAVE_CHECK(tensor.type == "BF16");
      const int64_t last = tensor.shape.back();
      PackAndUnpack(tensor, form, transposed ? tensor.shape[1] : last, transposed ? last : 1);
    }
    std::erase_if(tensors, [](const TinyTensor& t) { return t.name.ends_with("_scale_inv"); });
  };
}

}  // namespace conclave::worker::testing

#include "tests/worker/testing/tiny_adapter.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <numeric>
#include <optional>
#include <random>
#include <set>

#include "scheduler/check.h"
#include "worker/model/safetensors.h"
#include "worker/model/widen.h"

namespace conclave::worker::testing {
namespace {

constexpr char kPrefix[] = "model.";
constexpr char kExperts[] = ".experts.";

std::vector<TinyTensor> CheckpointTensors(const std::string& directory) {
  std::set<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    if (entry.path().extension() == ".safetensors") files.insert(entry.path().string());
  }
  std::vector<TinyTensor> all;
  for (const std::string& file : files) {
    for (TinyTensor& tensor : TensorsOf(ReadFileOrDie(file))) all.push_back(std::move(tensor));
  }
  return all;
}

int64_t Count(const std::vector<int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

// What a tensor of a checkpoint has to do with experts.
struct Place {
  int layer = 0;
  bool shared = false;
  std::optional<int> slot;  // none: of all of the layer's, if it is not the shared one's
};

std::optional<Place> PlaceOf(const std::string& name) {
  if (!name.starts_with("model.layers.") || name.ends_with("_scale_inv")) return std::nullopt;
  Place place = {.layer = std::stoi(name.substr(std::string("model.layers.").size()))};
  if (name.find(".shared_expert.") != name.npos || name.find(".shared_experts.") != name.npos) {
    place.shared = true;
    return place;
  }
  const size_t at = name.find(kExperts);
  if (at == name.npos) return std::nullopt;
  const std::string rest = name.substr(at + sizeof(kExperts) - 1);
  if (rest[0] >= '0' && rest[0] <= '9') place.slot = std::stoi(rest);
  return place;
}

// Of one expert, of a tensor that has all of a layer.
std::string ShareName(const std::string& name, int slot) {
  const size_t after = name.find(kExperts) + sizeof(kExperts) - 1;
  return name.substr(0, after) + std::to_string(slot) + "." + name.substr(after);
}

std::string Bare(const std::string& name) { return name.substr(sizeof(kPrefix) - 1); }

DType TypeOf(const std::string& type) {
  CONCLAVE_CHECK(ComputeType(type).has_value());
  return *ComputeType(type);
}

class Maker {
 public:
  Maker(const std::string& checkpoint, uint64_t seed, const TinyAdapterOptions& options)
      : base_(CheckpointTensors(checkpoint)), options_(options), random_(seed) {}

  TinyAdapter Make() {
    Choose();
    for (const TinyTensor& tensor : base_) {
      const std::optional<Place> place = PlaceOf(tensor.name);
      if (place) Replace(tensor, *place);
    }
    if (!options_.prefix) {
      for (TinyTensor& tensor : adapter_.tensors) tensor.name = Bare(tensor.name);
    }
    adapter_.shared = options_.shared;
    adapter_.WriteConfig();
    return std::move(adapter_);
  }

 private:
  void Choose() {
    std::map<int, int> slots;  // of layers that have experts
    for (const TinyTensor& tensor : base_) {
      const std::optional<Place> place = PlaceOf(tensor.name);
      if (!place || place->shared) continue;
      int& count = slots[place->layer];
      count = place->slot ? std::max(count, *place->slot + 1) : static_cast<int>(tensor.shape[0]);
    }
    CONCLAVE_CHECK(!slots.empty());
    using Which = TinyAdapterOptions::Which;
    for (const auto& [layer, count] : slots) {
      std::vector<int> order(static_cast<size_t>(count));
      std::iota(order.begin(), order.end(), 0);
      for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random_() % i]);
      const bool last = layer == slots.rbegin()->first;
      size_t chosen = random_() % (order.size() + 1);
      if (options_.which == Which::kAll) chosen = order.size();
      if (options_.which == Which::kNone) chosen = 0;
      if (last && !any_ && chosen == 0 && options_.which == Which::kSome) chosen = 1;
      any_ |= chosen > 0;
      order.resize(chosen);
      if (options_.stacked) std::sort(order.begin(), order.end());
      adapter_.experts[layer] = order;
    }
  }

  void Replace(const TinyTensor& tensor, const Place& place) {
    if (place.shared) {
      if (options_.shared) Add(tensor.name, tensor.type, tensor.shape);
      return;
    }
    const std::vector<int>& slots = adapter_.experts[place.layer];
    if (place.slot) {
      if (std::find(slots.begin(), slots.end(), *place.slot) != slots.end())
        Add(tensor.name, tensor.type, tensor.shape);
      return;
    }
    std::vector<int64_t> shape = tensor.shape;
    if (options_.stacked) {
      shape[0] = static_cast<int64_t>(slots.size());
      if (!slots.empty()) Add(tensor.name, tensor.type, shape);
      return;
    }
    shape.erase(shape.begin());
    for (const int slot : slots) Add(ShareName(tensor.name, slot), tensor.type, shape);
  }

  void Add(const std::string& name, const std::string& base_type,
           const std::vector<int64_t>& shape) {
    const char* const types[] = {"F32", "F16", "BF16"};
    std::string type = options_.type;
    if (type == "mixed") type = types[random_() % 3];
    if (type.empty()) type = ComputeType(base_type) ? base_type : "BF16";
    const double bound = std::sqrt(3.0 / static_cast<double>(shape.back()));
    std::vector<float> values(static_cast<size_t>(Count(shape)));
    for (float& value : values) {
      const double unit = static_cast<double>(random_() >> 11) * 0x1p-53;
      value = static_cast<float>(bound * (2.0 * unit - 1.0));
    }
    adapter_.tensors.push_back({name, type, shape, Encode(TypeOf(type), values)});
  }

  const std::vector<TinyTensor> base_;
  const TinyAdapterOptions options_;
  std::mt19937_64 random_;
  bool any_ = false;
  TinyAdapter adapter_;
};

// The tensor's numbers as those of another type.
std::string AsType(const TinyTensor& tensor, DType type) {
  return Encode(type, Widen({tensor.bytes.data(), TypeOf(tensor.type), 1, Count(tensor.shape)}));
}

}  // namespace

void TinyAdapter::WriteConfig() {
  nlohmann::json layers = nlohmann::json::object();
  for (const auto& [layer, slots] : experts) layers[std::to_string(layer)] = slots;
  const nlohmann::json document = {
      {"experts", layers}, {"shared_experts", shared}, {"non_expert_modules", false}};
  config = document.dump();
}

TinyAdapter MakeTinyAdapter(const std::string& checkpoint, uint64_t seed,
                            const TinyAdapterOptions& options) {
  return Maker(checkpoint, seed, options).Make();
}

void WriteAdapter(const TinyAdapter& adapter, const std::string& directory) {
  WriteFileOrDie(directory + "/expert_cfg.json", adapter.config);
  WriteFileOrDie(directory + "/model-00001-of-000001.safetensors",
                 SafetensorsBytes(adapter.tensors));
}

void WriteMerged(const std::string& checkpoint, const TinyAdapter& adapter,
                 const std::string& directory) {
  std::map<std::string, const TinyTensor*> replaced;
  for (const TinyTensor& tensor : adapter.tensors) {
    replaced[tensor.name.starts_with(kPrefix) ? tensor.name : kPrefix + tensor.name] = &tensor;
  }
  std::vector<TinyTensor> merged = CheckpointTensors(checkpoint);
  const auto embedding = std::find_if(merged.begin(), merged.end(), [](const auto& t) {
    return t.name == "model.embed_tokens.weight";
  });
  const std::string model_type = embedding->type;
  std::erase_if(merged, [&](const TinyTensor& tensor) {
    const std::string suffix = "_scale_inv";
    return tensor.name.ends_with(suffix) &&
           replaced.contains(tensor.name.substr(0, tensor.name.size() - suffix.size()));
  });
  for (TinyTensor& tensor : merged) {
    const std::optional<Place> place = PlaceOf(tensor.name);
    if (!place) continue;
    const bool whole = place->slot || place->shared;
    if (whole && replaced.contains(tensor.name)) {
      if (!ComputeType(tensor.type)) tensor.type = model_type;
      tensor.bytes = AsType(*replaced.at(tensor.name), TypeOf(tensor.type));
    }
    if (whole) continue;
    const std::vector<int>& slots = adapter.experts.at(place->layer);
    const size_t share = tensor.bytes.size() / static_cast<size_t>(tensor.shape[0]);
    for (size_t i = 0; i < slots.size(); ++i) {
      const auto stack = replaced.find(tensor.name);
      const std::string bytes =
          stack != replaced.end()
              ? AsType(*stack->second, TypeOf(tensor.type)).substr(i * share, share)
              : AsType(*replaced.at(ShareName(tensor.name, slots[i])), TypeOf(tensor.type));
      tensor.bytes.replace(static_cast<size_t>(slots[i]) * share, share, bytes);
    }
  }
  for (const auto& entry : std::filesystem::directory_iterator(checkpoint)) {
    const std::string name = entry.path().filename().string();
    if (name.find(".safetensors") == name.npos)
      std::filesystem::copy(entry.path(), directory + "/" + name);
  }
  WriteFileOrDie(directory + "/model.safetensors", SafetensorsBytes(merged));
}

}  // namespace conclave::worker::testing

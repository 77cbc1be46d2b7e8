#pragma once
// Checkpoints that lack the weights of their experts, as a worker has them that fetches experts.

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/worker/testing/tiny_checkpoint.h"

namespace conclave::worker::testing {

inline bool IsOfExperts(const std::string& tensor) {
  return tensor.find(".experts.") != std::string::npos;
}

// As an edit of a checkpoint: of layers whose number is below `layers`.
inline auto WithoutExperts(int layers = 1 << 20) {
  return [layers](nlohmann::json&, std::vector<TinyTensor>& tensors) {
    std::erase_if(tensors, [&](const TinyTensor& tensor) {
      const std::string prefix = "model.layers.";
      return IsOfExperts(tensor.name) && std::stoi(tensor.name.substr(prefix.size())) < layers;
    });
  };
}

}  // namespace conclave::worker::testing

#pragma once
// Which of an adapter's tensors an expert is made of, and its bytes from them. Immutable; any
// thread.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/model/adapter_config.h"
#include "worker/model/adapter_tensors.h"
#include "worker/model/expert_layout.h"
#include "worker/model/model.h"
#include "worker/model/tensor_table.h"

namespace conclave::worker {

// What one expert, or a layer's shared one, takes of an adapter's directory.
struct ExpertTensors {
  struct Piece {
    AdapterTensors::Tensor tensor;
    DType type = DType::kF32;
    std::vector<int64_t> shape;  // of this expert's share
    uint64_t begin = 0;          // of the share's bytes, in the file
    uint64_t bytes = 0;
    std::shared_ptr<const TensorTable::Rule> rule;
  };

  int32_t layer = 0;
  int32_t slot = 0;
  bool shared = false;
  std::vector<Piece> pieces;
  std::vector<DType> types;  // of the layout's parts: what the base has these numbers in, before
                             // any are packed

  // into = the expert as `layout` has it, every number rounded to the type that the base has it in,
  // and packed where the base's are.
  // INVALID_ARGUMENT, naming file and tensor, for one that is not finite, or too large for that
  // type; DATA_LOSS if a file has become shorter.
  absl::Status Read(const ExpertLayout& layout, std::span<std::byte> into) const;
};

// Those of every expert that `config`, which is right for `base`, names, ascending by layer and
// slot; a layer's shared one last. INVALID_ARGUMENT, naming file and tensor, expected and found: a
// tensor of them is missing or has another shape, or none of our types; or there is a tensor that
// is of none of them. What base.tensors owns must outlive the result. `config_name` stands in
// messages.
absl::StatusOr<std::vector<ExpertTensors>> FindExpertTensors(const AdapterTensors& tensors,
                                                             const AdapterConfig& config,
                                                             const std::string& config_name,
                                                             const Model& base);

}  // namespace conclave::worker

#pragma once
// Which tensors a family's checkpoints hold, and what each becomes in a model. Any thread.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "worker/model/converted_weights.h"
#include "worker/model/model.h"

namespace conclave::worker {

// Names are as in the checkpoint: {L} stands for the layer, {E} for the slot of an expert.
class TensorTable {
 public:
  enum class In : uint8_t { kEveryLayer, kDenseLayers, kMoeLayers };

  // Puts a tensor where the model wants it. `whole` is all of it as a matrix: its leading
  // dimensions taken together are the rows. An error becomes one that names file and tensor.
  using Bind = std::function<absl::Status(LayerWeights&, size_t slot, const Weight& whole)>;

  struct Rule {
    std::string name;
    std::vector<int64_t> shape;  // [.., rows, cols] or [cols]
    In in = In::kEveryLayer;
    bool of_experts = false;  // of those the gate chooses
    bool of_shared = false;   // of the shared one
    bool of_dense = false;    // a matrix that every token is multiplied with, and a bias beside it
    Bind bind;
    // Or, of a tensor [slots, ..] that has a layer's experts in another order than ours: where in
    // the share of a slot the numbers of these members are.
    std::vector<ConvertedWeights::Part> parts;
    std::vector<Weight FfnWeights::*> members;
  };

  // How the three matrices of an expert are called.
  struct FfnNames {
    const char* gate = "gate_proj";
    const char* up = "up_proj";
    const char* down = "down_proj";
  };

  void Add(const std::string& name, std::vector<int64_t> shape, In in, Bind bind);
  void Add(const std::string& name, std::vector<int64_t> shape, Weight LayerWeights::*member,
           In in = In::kEveryLayer);
  void Add(const std::string& name, std::vector<int64_t> shape, Weight AttentionWeights::*member);
  // What the gate's scores are shifted by for selection: a copy in fp32, refused unless finite.
  void AddGateBias(const std::string& name, int64_t slots);
  struct FfnShape {
    int64_t ffn_dim = 0;
    int64_t dim = 0;
    bool bias = false;
  };
  // {prefix}.gate_proj.weight, up_proj and down_proj; and .bias of each.
  void AddFfn(const std::string& prefix, const FfnShape& shape, FfnWeights LayerWeights::*member,
              In in);
  // The experts {prefix}.experts of MoE layers, a tensor for each matrix of each or all of a layer
  // in two.
  void AddExperts(const std::string& prefix, int64_t slots, int64_t ffn_dim, int64_t dim);
  // The first way: {prefix}.experts.{E}.gate_proj.weight ...
  void AddSeparateExperts(const std::string& prefix, const FfnShape& shape, FfnNames names);
  // The second, as transformers 5 holds them: {prefix}.experts.gate_up_proj [slots, 2 ffn_dim,
  // dim], the gate's rows first, and {prefix}.experts.down_proj [slots, dim, ffn_dim].
  void AddFusedExperts(const std::string& prefix, int64_t slots, int64_t ffn_dim, int64_t dim);
  // A tensor of all experts of a layer.
  void AddOfExperts(const std::string& name, std::vector<int64_t> shape, Bind bind);
  // The same in another order than ours, copied when it is loaded.
  void AddRearranged(const std::string& name, std::vector<int64_t> shape,
                     std::vector<Weight FfnWeights::*> members,
                     std::vector<ConvertedWeights::Part> parts);
  // input_layernorm and post_attention_layernorm.
  void AddNorms(int64_t dim);

  // One of these tables more: for every layer the first whose first tensor is there, else the
  // first.
  void AddOneOf(std::vector<TensorTable> tables) { choices_.push_back(std::move(tables)); }

  // Tensors whose names begin like this are no part of what we compute, and may be there.
  void Ignore(const std::string& prefix) { ignored_.push_back(prefix); }

  const std::vector<Rule>& rules() const { return rules_; }
  const std::vector<std::vector<TensorTable>>& choices() const { return choices_; }
  const std::vector<std::string>& ignored() const { return ignored_; }

 private:
  using FfnOf = std::function<FfnWeights&(LayerWeights&, size_t slot)>;
  void AddFfn(const std::string& prefix, const FfnShape& shape, const FfnNames& names,
              const FfnOf& ffn, In in);

  std::vector<Rule> rules_;
  std::vector<std::vector<TensorTable>> choices_;
  std::vector<std::string> ignored_;
};

}  // namespace conclave::worker

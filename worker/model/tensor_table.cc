#include "worker/model/tensor_table.h"

#include <algorithm>
#include <cmath>

#include "scheduler/check.h"
#include "worker/model/widen.h"

namespace conclave::worker {

void TensorTable::Add(const std::string& name, std::vector<int64_t> shape, In in, Bind bind) {
  rules_.push_back({.name = name, .shape = std::move(shape), .in = in, .bind = std::move(bind)});
}

void TensorTable::AddOfExperts(const std::string& name, std::vector<int64_t> shape, Bind bind) {
  Add(name, std::move(shape), In::kMoeLayers, std::move(bind));
  rules_.back().of_experts = true;
}

void TensorTable::AddRearranged(const std::string& name, std::vector<int64_t> shape,
                                std::vector<Weight FfnWeights::*> members,
                                std::vector<ConvertedWeights::Part> parts) {
  CONCLAVE_CHECK(members.size() == parts.size());
  rules_.push_back({.name = name,
                    .shape = std::move(shape),
                    .in = In::kMoeLayers,
                    .of_experts = true,
                    .parts = std::move(parts),
                    .members = std::move(members)});
}

void TensorTable::Add(const std::string& name, std::vector<int64_t> shape,
                      Weight LayerWeights::*member, In in) {
  Add(name, std::move(shape), in, [member](LayerWeights& layer, size_t, const Weight& whole) {
    layer.*member = whole;
    return absl::OkStatus();
  });
}

void TensorTable::Add(const std::string& name, std::vector<int64_t> shape,
                      Weight AttentionWeights::*member) {
  Add(name, std::move(shape), In::kEveryLayer,
      [member](LayerWeights& layer, size_t, const Weight& whole) {
        layer.attention.*member = whole;
        return absl::OkStatus();
      });
  rules_.back().of_dense = member != &AttentionWeights::kv_b;  // a head at a time
}

void TensorTable::AddGateBias(const std::string& name, int64_t slots) {
  Add(name, {slots}, In::kMoeLayers, [](LayerWeights& layer, size_t, const Weight& whole) {
    layer.gate_bias = Widen(whole);
    const bool finite = std::all_of(layer.gate_bias.begin(), layer.gate_bias.end(),
                                    [](float shift) { return std::isfinite(shift); });
    // It would choose the same experts for every token, and nothing else would show it.
    return finite ? absl::OkStatus() : absl::InvalidArgumentError("has a value that is not finite");
  });
}

void TensorTable::AddFfn(const std::string& prefix, const FfnShape& shape,
                         FfnWeights LayerWeights::*member, In in) {
  const size_t first = rules_.size();
  AddFfn(
      prefix, shape, {},
      [member](LayerWeights& layer, size_t) -> FfnWeights& { return layer.*member; }, in);
  const bool shared = member == &LayerWeights::shared;
  for (size_t i = first; i < rules_.size(); ++i)
    (shared ? rules_[i].of_shared : rules_[i].of_dense) = true;
}

void TensorTable::AddExperts(const std::string& prefix, int64_t slots, int64_t ffn_dim,
                             int64_t dim) {
  TensorTable separate, fused;
  separate.AddSeparateExperts(prefix, {ffn_dim, dim}, {});
  fused.AddFusedExperts(prefix, slots, ffn_dim, dim);
  AddOneOf({std::move(separate), std::move(fused)});
}

void TensorTable::AddSeparateExperts(const std::string& prefix, const FfnShape& shape,
                                     FfnNames names) {
  AddFfn(
      prefix + ".experts.{E}", shape, names,
      [](LayerWeights& layer, size_t slot) -> FfnWeights& { return layer.experts[slot]; },
      In::kMoeLayers);
  for (Rule& rule : rules_) rule.of_experts |= rule.name.find("{E}") != rule.name.npos;
}

void TensorTable::AddFusedExperts(const std::string& prefix, int64_t slots, int64_t ffn_dim,
                                  int64_t dim) {
  AddOfExperts(prefix + ".experts.gate_up_proj", {slots, 2 * ffn_dim, dim},
               [ffn_dim](LayerWeights& layer, size_t, const Weight& whole) {
                 int64_t row = 0;
                 for (FfnWeights& expert : layer.experts) {
                   expert.gate = whole.Slice(row, ffn_dim);
                   expert.up = whole.Slice(row + ffn_dim, ffn_dim);
                   row += 2 * ffn_dim;
                 }
                 return absl::OkStatus();
               });
  AddOfExperts(prefix + ".experts.down_proj", {slots, dim, ffn_dim},
               [dim](LayerWeights& layer, size_t, const Weight& whole) {
                 int64_t row = 0;
                 for (FfnWeights& expert : layer.experts) {
                   expert.down = whole.Slice(row, dim);
                   row += dim;
                 }
                 return absl::OkStatus();
               });
}

void TensorTable::AddFfn(const std::string& prefix, const FfnShape& shape, const FfnNames& names,
                         const FfnOf& ffn, In in) {
  const auto add = [&](const std::string& name, std::vector<int64_t> of,
                       Weight FfnWeights::*member) {
    Add(prefix + "." + name, std::move(of), in,
        [ffn, member](LayerWeights& layer, size_t slot, const Weight& whole) {
          ffn(layer, slot).*member = whole;
          return absl::OkStatus();
        });
  };
  const auto add_matrix = [&](const std::string& name, int64_t rows, int64_t cols,
                              Weight FfnWeights::*weight, Weight FfnWeights::*bias) {
    add(name + ".weight", {rows, cols}, weight);
    if (shape.bias) add(name + ".bias", {rows}, bias);
  };
  add_matrix(names.gate, shape.ffn_dim, shape.dim, &FfnWeights::gate, &FfnWeights::gate_bias);
  add_matrix(names.up, shape.ffn_dim, shape.dim, &FfnWeights::up, &FfnWeights::up_bias);
  add_matrix(names.down, shape.dim, shape.ffn_dim, &FfnWeights::down, &FfnWeights::down_bias);
}

void TensorTable::AddNorms(int64_t dim) {
  Add("model.layers.{L}.input_layernorm.weight", {dim}, &LayerWeights::attention_norm);
  Add("model.layers.{L}.post_attention_layernorm.weight", {dim}, &LayerWeights::ffn_norm);
}

}  // namespace conclave::worker

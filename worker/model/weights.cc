#include "worker/model/weights.h"

#include <algorithm>
#include <unordered_set>

#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "worker/model/json.h"
#include "worker/status.h"

namespace conclave::worker {
namespace {

class Binder {
 public:
  explicit Binder(const MappedFiles& files) : files_(files) {}

  bool Has(const std::string& name) const { return files_.Find(name).entry != nullptr; }
  absl::StatusOr<Weight> Bind(const std::string& name, const std::vector<int64_t>& shape);
  // The model's type: that of its embedding, which is bound first.
  void SetModelType(DType type) { model_type_ = type; }
  absl::Status Refuse(const std::string& name, const absl::Status& why) const;
  absl::Status CheckAllUsed(bool tied_embeddings, const TensorTable& table) const;

 private:
  const MappedFiles& files_;
  std::optional<DType> model_type_;
  std::unordered_set<const TensorEntry*> used_;
};

absl::Status Error(const MappedFiles::Tensor& tensor, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrFormat("%s: tensor \"%s\" %s", tensor.file->path(),
                                                    Printable(tensor.entry->name), what));
}

// All leading dimensions taken together are the rows.
Weight AsMatrix(const char* data, DType type, const std::vector<int64_t>& shape) {
  int64_t rows = 1;
  for (size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
  return {data, type, rows, shape.back()};
}

absl::StatusOr<Weight> Binder::Bind(const std::string& name, const std::vector<int64_t>& shape) {
  const MappedFiles::Tensor tensor = files_.Find(name);
  if (tensor.entry == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: tensor \"%s\" is missing", files_.directory(), name));
  }
  const std::optional<DType> type = ComputeType(tensor.entry->type);
  if (!type)
    return Error(tensor, absl::StrFormat("is %s, supported: F32, F16, BF16", tensor.entry->type));
  if (tensor.entry->shape != shape) {
    return Error(tensor, absl::StrFormat("has shape %s, expected %s",
                                         ShapeText(tensor.entry->shape), ShapeText(shape)));
  }
  const bool small = shape.size() == 1 || name.ends_with(".gate.weight");
  if (model_type_ && *type != *model_type_ && !(small && *type == DType::kF32)) {
    return Error(tensor, absl::StrFormat("is %s, the embedding is %s", tensor.entry->type,
                                         TypeName(*model_type_)));
  }
  used_.insert(tensor.entry);
  return AsMatrix(tensor.data(), *type, shape);
}

absl::Status Binder::Refuse(const std::string& name, const absl::Status& why) const {
  return Error(files_.Find(name), std::string(why.message()));
}

absl::Status Binder::CheckAllUsed(bool tied_embeddings, const TensorTable& table) const {
  const auto ignored = [&](const std::string& name) {
    return std::any_of(table.ignored().begin(), table.ignored().end(),
                       [&](const std::string& prefix) { return name.starts_with(prefix); });
  };
  for (const MappedFiles::Tensor& tensor : files_.tensors()) {
    if (used_.contains(tensor.entry)) continue;
    const std::string& name = tensor.entry->name;
    if (tied_embeddings && name == "lm_head.weight") continue;
    if (name.ends_with(".rotary_emb.inv_freq"))
      continue;  // a buffer that old releases of transformers saved
    if (ignored(name)) continue;
    return Error(tensor, "is not part of this family with these settings");
  }
  return absl::OkStatus();
}

// A layer of a model, as its tensors are bound.
struct LayerBinding {
  std::string number;
  bool moe = false;
  LayerWeights& weights;
  Binder& binder;

  bool Applies(const TensorTable::Rule& rule) const {
    return rule.in != (moe ? TensorTable::In::kDenseLayers : TensorTable::In::kMoeLayers);
  }
  std::string Name(const TensorTable::Rule& rule, size_t slot) const {
    return absl::StrReplaceAll(rule.name, {{"{L}", number}, {"{E}", std::to_string(slot)}});
  }
};

absl::Status BindRule(const TensorTable::Rule& rule, const LayerBinding& layer) {
  const size_t slots = rule.name.find("{E}") == rule.name.npos ? 1 : layer.weights.experts.size();
  for (size_t slot = 0; slot < slots; ++slot) {
    const std::string name = layer.Name(rule, slot);
    CONCLAVE_ASSIGN_OR_RETURN(const Weight whole, layer.binder.Bind(name, rule.shape));
    const absl::Status bound = rule.bind(layer.weights, slot, whole);
    if (!bound.ok()) return layer.binder.Refuse(name, bound);
  }
  return absl::OkStatus();
}

absl::Status BindLayer(const TensorTable& table, const LayerBinding& layer) {
  for (const TensorTable::Rule& rule : table.rules()) {
    if (!layer.Applies(rule)) continue;
    CONCLAVE_RETURN_IF_ERROR(BindRule(rule, layer));
  }
  for (const std::vector<TensorTable>& tables : table.choices()) {
    const auto there = [&](const TensorTable& one) {
      const TensorTable::Rule& first = one.rules().front();
      return layer.Applies(first) && layer.binder.Has(layer.Name(first, 0));
    };
    const auto chosen = std::find_if(tables.begin(), tables.end(), there);
    CONCLAVE_RETURN_IF_ERROR(BindLayer(chosen == tables.end() ? tables.front() : *chosen, layer));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status BindWeights(const MappedFiles& files, const TensorTable& table, Model& model) {
  ModelSpec& spec = model.spec;
  Binder binder(files);
  CONCLAVE_ASSIGN_OR_RETURN(model.embedding,
                            binder.Bind("model.embed_tokens.weight", {spec.vocab, spec.dim}));
  spec.type = model.embedding.type;
  binder.SetModelType(spec.type);
  CONCLAVE_ASSIGN_OR_RETURN(model.final_norm, binder.Bind("model.norm.weight", {spec.dim}));
  model.head = model.embedding;
  if (!spec.tied_embeddings) {
    CONCLAVE_ASSIGN_OR_RETURN(model.head, binder.Bind("lm_head.weight", {spec.vocab, spec.dim}));
  }
  model.layers.resize(spec.layers.size());
  for (size_t l = 0; l < model.layers.size(); ++l) {
    const bool moe = spec.layers[l].moe;
    if (moe) model.layers[l].experts.resize(static_cast<size_t>(spec.gate.slots));
    CONCLAVE_RETURN_IF_ERROR(BindLayer(table, {std::to_string(l), moe, model.layers[l], binder}));
  }
  return binder.CheckAllUsed(spec.tied_embeddings, table);
}

}  // namespace conclave::worker

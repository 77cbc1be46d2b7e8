#include "worker/model/weights.h"

#include <cctype>
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

  absl::StatusOr<Weight> Bind(const std::string& name, const std::vector<int64_t>& shape);
  // The model's type: that of its embedding, which is bound first.
  void SetModelType(DType type) { model_type_ = type; }
  absl::Status CheckAllUsed(bool tied_embeddings) const;

 private:
  absl::Status Missing(const std::string& name) const;

  const MappedFiles& files_;
  std::optional<DType> model_type_;
  std::unordered_set<const TensorEntry*> used_;
};

absl::Status Error(const MappedFiles::Tensor& tensor, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrFormat("%s: tensor \"%s\" %s", tensor.file->path(),
                                                    Printable(tensor.entry->name), what));
}

absl::StatusOr<Weight> Binder::Bind(const std::string& name, const std::vector<int64_t>& shape) {
  const MappedFiles::Tensor tensor = files_.Find(name);
  if (tensor.entry == nullptr) return Missing(name);
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
  return Weight{tensor.data(), *type, shape.size() == 1 ? 1 : shape[0], shape.back()};
}

// An expert's tensor may be missing because the experts of its layer are one tensor, which deserves
// another message.
absl::Status Binder::Missing(const std::string& name) const {
  constexpr std::string_view kExperts = ".experts.";
  if (const size_t at = name.find(kExperts); at != name.npos) {
    const std::string prefix = name.substr(0, at + kExperts.size());
    for (const MappedFiles::Tensor& tensor : files_.tensors()) {
      const std::string& other = tensor.entry->name;
      if (!other.starts_with(prefix) ||
          std::isdigit(static_cast<unsigned char>(other[prefix.size()])))
        continue;
      return Error(
          tensor, absl::StrFormat(
                      "holds all experts of its layer, which is not supported: expected one tensor "
                      "for each, as \"%s\"",
                      name));
    }
  }
  return absl::InvalidArgumentError(
      absl::StrFormat("%s: tensor \"%s\" is missing", files_.directory(), name));
}

absl::Status Binder::CheckAllUsed(bool tied_embeddings) const {
  for (const MappedFiles::Tensor& tensor : files_.tensors()) {
    if (used_.contains(tensor.entry)) continue;
    const std::string& name = tensor.entry->name;
    if (tied_embeddings && name == "lm_head.weight") continue;
    if (name.ends_with(".rotary_emb.inv_freq"))
      continue;  // a buffer that old releases of transformers saved
    return Error(tensor, "is not part of this family with these settings");
  }
  return absl::OkStatus();
}

absl::Status BindLayer(const TensorTable& table, const ModelSpec& spec, size_t layer,
                       Binder& binder, LayerWeights& weights) {
  using In = TensorTable::In;
  const bool moe = spec.layers[layer].moe;
  if (moe) weights.experts.resize(static_cast<size_t>(spec.gate.slots));
  for (const TensorTable::Rule& rule : table.rules()) {
    if (rule.in == (moe ? In::kDenseLayers : In::kMoeLayers)) continue;
    const std::string pattern = absl::StrReplaceAll(rule.name, {{"{L}", std::to_string(layer)}});
    const size_t slots = pattern.find("{E}") == pattern.npos ? 1 : weights.experts.size();
    for (size_t slot = 0; slot < slots; ++slot) {
      const std::string name = absl::StrReplaceAll(pattern, {{"{E}", std::to_string(slot)}});
      CONCLAVE_ASSIGN_OR_RETURN(rule.member(weights, slot), binder.Bind(name, rule.shape));
    }
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
    CONCLAVE_RETURN_IF_ERROR(BindLayer(table, spec, l, binder, model.layers[l]));
  }
  return binder.CheckAllUsed(spec.tied_embeddings);
}

}  // namespace conclave::worker

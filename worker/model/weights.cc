#include "worker/model/weights.h"

#include <algorithm>
#include <optional>
#include <thread>
#include <unordered_set>

#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "worker/device/packed.h"
#include "worker/model/absent_experts.h"
#include "worker/model/json.h"
#include "worker/status.h"

namespace conclave::worker {
namespace {

constexpr char kEmbedding[] = "model.embed_tokens.weight";
constexpr char kHead[] = "lm_head.weight";
constexpr char kFactors[] = "_scale_inv";  // of the matrix whose name comes before it

using PackedTensor = ConvertedWeights::PackedTensor;

class Binder {
 public:
  Binder(const MappedFiles& files, const BindOptions& options, ConvertedWeights& converted,
         BoundTensors& bound)
      : files_(files),
        fp8_(options.quantization.fp8),
        packed_(options.quantization.packed),
        experts_as_(options.experts_as),
        dense_as_(options.dense_as),
        converted_(converted),
        bound_(bound) {}

  bool Has(const std::string& name) const {
    return There(name) || (packed_ && There(name + kBlocksSuffix));
  }
  absl::StatusOr<Weight> Bind(const std::string& name, const std::vector<int64_t>& shape);
  // The parts of each slot of a tensor [slots, ..], slot after slot; the first slot is the expert
  // first_expert.
  absl::StatusOr<std::vector<Weight>> BindParts(const std::string& name,
                                                const std::vector<int64_t>& shape,
                                                std::span<const ConvertedWeights::Part> parts,
                                                int64_t first_expert);
  // Whose what is bound now is: an expert's id, or ConvertedWeights::kNobodys; and the experts' of
  // which MoE layer, or nothing.
  void SetExpert(int64_t expert) { expert_ = expert; }
  // How many experts' shares of a tensor is, whether they may be packed in the files, and what its
  // matrix is to be packed as, if it is.
  struct Shares {
    int64_t experts = 1;
    bool may_pack = false;
    std::optional<DType> form;
  };
  std::optional<DType> FormOf(const TensorTable::Rule& rule) const {
    if (rule.of_experts || rule.of_shared) return experts_as_;
    return rule.of_dense && rule.shape.size() == 2 ? FormOfDense(rule.shape) : std::nullopt;
  }
  std::optional<DType> FormOfDense(const std::vector<int64_t>& shape) const {
    return CanPack(shape[0], shape[1]) ? dense_as_ : std::nullopt;
  }
  void SetShares(const Shares& shares) { shares_ = shares; }
  void SetExpertsOf(std::optional<size_t> moe_layer) { experts_of_ = moe_layer; }
  // Whether the tensor is there with all that belongs to it.
  bool HasWhole(const std::string& name) const;
  // It may be there and is not bound.
  void Pass(const std::string& name);
  // The model's type: that of its embedding, which is bound first.
  void SetModelType(DType type) { model_type_ = type; }
  absl::Status Refuse(const std::string& name, const absl::Status& why) const;
  absl::Status CheckAllUsed(const TensorTable& table) const;

 private:
  bool There(const std::string& name) const { return files_.Find(name).entry != nullptr; }
  absl::StatusOr<MappedFiles::Tensor> Find(const std::string& name,
                                           const std::vector<int64_t>& shape);
  absl::StatusOr<DType> TypeOf(const MappedFiles::Tensor& tensor) const;
  absl::StatusOr<Weight> BindFp8(const MappedFiles::Tensor& matrix);
  // Whether the tensor that is bound now is packed in the files.
  bool IsStoredPacked(const std::string& name) const {
    return packed_ && shares_.may_pack && !name.ends_with("bias");
  }
  // Of a packed matrix, `shape` as if it were not; in bands, or row by row.
  absl::StatusOr<PackedTensor> FindPacked(const std::string& name, std::vector<int64_t> shape,
                                          bool bands);
  // What a matrix of this type is to be held as.
  absl::StatusOr<DType> HeldAs(const MappedFiles::Tensor& matrix, DType type) const;

  const MappedFiles& files_;
  const std::optional<Fp8Blocks>& fp8_;
  const std::optional<DType>& packed_;
  const std::optional<DType>& experts_as_;
  const std::optional<DType>& dense_as_;
  ConvertedWeights& converted_;
  BoundTensors& bound_;
  std::optional<size_t> experts_of_;
  std::optional<DType> model_type_;
  int64_t expert_ = ConvertedWeights::kNobodys;
  Shares shares_;
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

absl::StatusOr<MappedFiles::Tensor> Binder::Find(const std::string& name,
                                                 const std::vector<int64_t>& shape) {
  const MappedFiles::Tensor tensor = files_.Find(name);
  if (tensor.entry == nullptr) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: tensor \"%s\" is missing%s", files_.directory(), name,
        experts_of_ ? "; with --fetch-experts a worker gets experts from others that have them"
                    : ""));
  }
  if (tensor.entry->shape != shape) {
    return Error(tensor, absl::StrFormat("has shape %s, expected %s",
                                         ShapeText(tensor.entry->shape), ShapeText(shape)));
  }
  if (used_.insert(tensor.entry).second)
    (experts_of_ ? bound_.experts[*experts_of_] : bound_.dense).push_back(tensor);
  return tensor;
}

bool Binder::HasWhole(const std::string& name) const {
  const MappedFiles::Tensor tensor = files_.Find(name);
  if (packed_ && There(name + kBlocksSuffix)) return There(name + kScalesSuffix);
  if (tensor.entry == nullptr) return false;
  return !fp8_ || tensor.entry->type != "F8_E4M3" || Has(name + kFactors);
}

void Binder::Pass(const std::string& name) {
  for (const std::string& one :
       {name, name + kFactors, name + kBlocksSuffix, name + kScalesSuffix}) {
    if (There(one)) used_.insert(files_.Find(one).entry);
  }
}

absl::StatusOr<DType> Binder::TypeOf(const MappedFiles::Tensor& tensor) const {
  const std::string& name = tensor.entry->name;
  const std::optional<DType> type = ComputeType(tensor.entry->type);
  if (!type)
    return Error(tensor, absl::StrFormat("is %s, supported: F32, F16, BF16", tensor.entry->type));
  const bool small = tensor.entry->shape.size() == 1 || name.ends_with(".gate.weight") ||
                     name.ends_with(".router.weight") || name.ends_with("_bias");
  if (model_type_ && *type != *model_type_ && !(small && *type == DType::kF32)) {
    return Error(tensor, absl::StrFormat("is %s, the embedding is %s", tensor.entry->type,
                                         TypeName(*model_type_)));
  }
  return *type;
}

absl::StatusOr<PackedTensor> Binder::FindPacked(const std::string& name, std::vector<int64_t> shape,
                                                bool bands) {
  const int64_t cols = shape.back();
  int64_t& rows = shape[shape.size() - 2];
  if (!CanPack(rows, cols)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: tensor \"%s\" would have matrices of %d x %d, and %s takes multiples of %d x %d, at "
        "most %d wide",
        files_.directory(), name, rows, cols, TypeName(*packed_), kBand, kGroup, kMaxPackedCols));
  }
  PackedTensor packed = {.type = *packed_};
  shape.back() = cols / kGroup;
  if (bands) {
    rows /= kBand;
    shape.push_back(kBand);
  }
  CONCLAVE_ASSIGN_OR_RETURN(packed.scales, Find(name + kScalesSuffix, shape));
  shape.push_back(kGroup * BitsOf(*packed_) / 8);
  CONCLAVE_ASSIGN_OR_RETURN(packed.blocks, Find(name + kBlocksSuffix, shape));
  for (const auto& [tensor, type] :
       {std::pair(packed.scales, "U8"), std::pair(packed.blocks, StoredAs(*packed_))}) {
    if (tensor.entry->type == type) continue;
    return Error(tensor, absl::StrFormat("is %s, expected %s", tensor.entry->type, type));
  }
  return packed;
}

absl::StatusOr<Weight> Binder::Bind(const std::string& name, const std::vector<int64_t>& shape) {
  if (IsStoredPacked(name)) {
    CONCLAVE_ASSIGN_OR_RETURN(const PackedTensor packed, FindPacked(name, shape, /*bands=*/true));
    converted_.CheckScales(packed.scales, expert_, shares_.experts);
    Weight weight = AsMatrix(packed.blocks.data(), packed.type, shape);
    weight.scales = reinterpret_cast<const uint8_t*>(packed.scales.data());
    return weight;
  }
  CONCLAVE_ASSIGN_OR_RETURN(const MappedFiles::Tensor tensor, Find(name, shape));
  if (fp8_ && model_type_ && tensor.entry->type == "F8_E4M3" && shape.size() == 2)
    return BindFp8(tensor);
  CONCLAVE_ASSIGN_OR_RETURN(const DType type, TypeOf(tensor));
  const Weight matrix = AsMatrix(tensor.data(), type, shape);
  CONCLAVE_ASSIGN_OR_RETURN(const DType held, HeldAs(tensor, type));
  if (held == type) return matrix;
  if (!experts_of_) bound_.converted.insert(tensor.entry);
  return converted_.Pack(tensor, matrix.rows, matrix.cols, held, expert_, shares_.experts);
}

absl::StatusOr<DType> Binder::HeldAs(const MappedFiles::Tensor& matrix, DType type) const {
  if (!shares_.form || matrix.entry->name.ends_with("bias")) return type;
  if (type == DType::kBF16) return *shares_.form;
  return Error(matrix, absl::StrFormat("is %s, and only BF16 can be packed as %s", TypeName(type),
                                       TypeName(*shares_.form)));
}

absl::StatusOr<Weight> Binder::BindFp8(const MappedFiles::Tensor& matrix) {
  if (*model_type_ == DType::kF16)
    return Error(matrix, "is F8_E4M3, for which the embedding must be BF16 or F32; it is F16");
  const int64_t rows = matrix.entry->shape[0];
  const int64_t cols = matrix.entry->shape[1];
  CONCLAVE_ASSIGN_OR_RETURN(
      const MappedFiles::Tensor factors,
      Find(matrix.entry->name + kFactors,
           {(rows + fp8_->rows - 1) / fp8_->rows, (cols + fp8_->cols - 1) / fp8_->cols}));
  if (!ComputeType(factors.entry->type)) {
    return Error(factors, absl::StrFormat("is %s, supported: F32, F16, BF16", factors.entry->type));
  }
  CONCLAVE_ASSIGN_OR_RETURN(const DType held, HeldAs(matrix, *model_type_));
  if (!experts_of_) bound_.converted.insert(matrix.entry);
  return converted_.Dequantise(matrix, factors, *fp8_, held, expert_);
}

absl::StatusOr<std::vector<Weight>> Binder::BindParts(const std::string& name,
                                                      const std::vector<int64_t>& shape,
                                                      std::span<const ConvertedWeights::Part> parts,
                                                      int64_t first_expert) {
  if (IsStoredPacked(name)) {
    // Its rows are those of products, in the order of the columns it would have.
    CONCLAVE_ASSIGN_OR_RETURN(const PackedTensor packed,
                              FindPacked(name, {shape[0], shape[2], shape[1]}, /*bands=*/false));
    return converted_.TakeRows(packed, parts, first_expert, shape[0]);
  }
  CONCLAVE_ASSIGN_OR_RETURN(const MappedFiles::Tensor tensor, Find(name, shape));
  CONCLAVE_ASSIGN_OR_RETURN(const DType type, TypeOf(tensor));
  CONCLAVE_ASSIGN_OR_RETURN(const DType held, HeldAs(tensor, type));
  const auto slots = static_cast<uint64_t>(shape[0]);
  const uint64_t bytes = (tensor.entry->end - tensor.entry->begin) / slots;
  std::vector<Weight> weights;
  for (uint64_t slot = 0; slot < slots; ++slot) {
    CONCLAVE_ASSIGN_OR_RETURN(const std::vector<Weight> own,
                              converted_.Rearrange({tensor, type, slot * bytes, bytes}, parts, held,
                                                   first_expert + static_cast<int64_t>(slot)));
    weights.insert(weights.end(), own.begin(), own.end());
  }
  return weights;
}

absl::Status Binder::Refuse(const std::string& name, const absl::Status& why) const {
  return Error(files_.Find(name), std::string(why.message()));
}

absl::Status Binder::CheckAllUsed(const TensorTable& table) const {
  const auto ignored = [&](const std::string& name) {
    return std::any_of(table.ignored().begin(), table.ignored().end(),
                       [&](const std::string& prefix) { return name.starts_with(prefix); });
  };
  for (const MappedFiles::Tensor& tensor : files_.tensors()) {
    if (used_.contains(tensor.entry)) continue;
    const std::string& name = tensor.entry->name;
    if (name.ends_with(".rotary_emb.inv_freq"))
      continue;  // a buffer that old releases of transformers saved
    if (ignored(name)) continue;
    // What transformers saves of a shared expert of no width.
    if (tensor.entry->begin == tensor.entry->end) continue;
    return Error(tensor, "is not part of this family with these settings");
  }
  return absl::OkStatus();
}

// A layer of a model, as its tensors are bound.
struct LayerBinding {
  std::string number;
  bool moe = false;
  size_t moe_layer = 0;      // of one that has experts
  int64_t first_expert = 0;  // likewise
  LayerWeights& weights;
  Binder& binder;
  bool absent = false;  // of its experts a tensor is missing, and so none is bound

  bool Applies(const TensorTable::Rule& rule) const {
    return rule.in != (moe ? TensorTable::In::kDenseLayers : TensorTable::In::kMoeLayers);
  }
  std::string Name(const TensorTable::Rule& rule, size_t slot) const {
    return absl::StrReplaceAll(rule.name, {{"{L}", number}, {"{E}", std::to_string(slot)}});
  }
  // One for each tensor of the rule.
  std::vector<std::string> Names(const TensorTable::Rule& rule) const {
    const bool each = rule.name.find("{E}") != rule.name.npos;
    std::vector<std::string> names;
    for (size_t slot = 0; slot < (each ? weights.experts.size() : 1); ++slot)
      names.push_back(Name(rule, slot));
    return names;
  }
  // Of tables of which a layer follows one.
  const TensorTable& Choose(const std::vector<TensorTable>& tables) const {
    const auto there = [&](const TensorTable& one) {
      const TensorTable::Rule& first = one.rules().front();
      return Applies(first) && binder.Has(Name(first, 0));
    };
    const auto chosen = std::find_if(tables.begin(), tables.end(), there);
    return chosen == tables.end() ? tables.front() : *chosen;
  }
};

// Whether every tensor of its experts is there.
bool HasExperts(const TensorTable& table, const LayerBinding& layer) {
  const auto has = [&](const TensorTable::Rule& rule) {
    if (!rule.of_experts || !layer.Applies(rule)) return true;
    const std::vector<std::string> names = layer.Names(rule);
    return std::all_of(names.begin(), names.end(),
                       [&](const std::string& name) { return layer.binder.HasWhole(name); });
  };
  return std::all_of(table.rules().begin(), table.rules().end(), has) &&
         std::all_of(table.choices().begin(), table.choices().end(),
                     [&](const auto& tables) { return HasExperts(layer.Choose(tables), layer); });
}

// What is there of its experts is no reason to refuse the files.
void PassExperts(const TensorTable& table, const LayerBinding& layer) {
  for (const TensorTable::Rule& rule : table.rules()) {
    if (!rule.of_experts || !layer.Applies(rule)) continue;
    for (const std::string& name : layer.Names(rule)) layer.binder.Pass(name);
  }
  for (const std::vector<TensorTable>& tables : table.choices()) {
    for (const TensorTable& one : tables) PassExperts(one, layer);
  }
}

absl::Status BindRule(const TensorTable::Rule& rule, const LayerBinding& layer) {
  layer.binder.SetExpertsOf(rule.of_experts ? std::optional(layer.moe_layer) : std::nullopt);
  const bool each = rule.name.find("{E}") != rule.name.npos;
  layer.binder.SetShares(
      {.experts = rule.of_experts && !each ? std::ssize(layer.weights.experts) : 1,
       .may_pack = rule.of_experts || rule.of_shared,
       .form = layer.binder.FormOf(rule)});
  if (!rule.parts.empty()) {
    CONCLAVE_ASSIGN_OR_RETURN(
        const std::vector<Weight> weights,
        layer.binder.BindParts(layer.Name(rule, 0), rule.shape, rule.parts, layer.first_expert));
    size_t next = 0;
    for (FfnWeights& expert : layer.weights.experts) {
      for (Weight FfnWeights::*const member : rule.members) expert.*member = weights[next++];
    }
    return absl::OkStatus();
  }
  const std::vector<std::string> names = layer.Names(rule);
  for (size_t slot = 0; slot < names.size(); ++slot) {
    const std::string& name = names[slot];
    layer.binder.SetExpert(rule.of_experts ? layer.first_expert + static_cast<int64_t>(slot)
                                           : ConvertedWeights::kNobodys);
    CONCLAVE_ASSIGN_OR_RETURN(const Weight whole, layer.binder.Bind(name, rule.shape));
    const absl::Status bound = rule.bind(layer.weights, slot, whole);
    if (!bound.ok()) return layer.binder.Refuse(name, bound);
  }
  return absl::OkStatus();
}

absl::Status BindLayer(const TensorTable& table, const LayerBinding& layer) {
  for (const TensorTable::Rule& rule : table.rules()) {
    if (!layer.Applies(rule) || (rule.of_experts && layer.absent)) continue;
    CONCLAVE_RETURN_IF_ERROR(BindRule(rule, layer));
  }
  for (const std::vector<TensorTable>& tables : table.choices()) {
    CONCLAVE_RETURN_IF_ERROR(BindLayer(layer.Choose(tables), layer));
  }
  return absl::OkStatus();
}

absl::Status ReserveExperts(const LayerBinding& layer, AbsentExperts& absent) {
  for (size_t slot = 0; slot < layer.weights.experts.size(); ++slot) {
    const auto expert = static_cast<scheduler::ExpertId>(layer.first_expert) +
                        static_cast<scheduler::ExpertId>(slot);
    CONCLAVE_ASSIGN_OR_RETURN(layer.weights.experts[slot], absent.Reserve(expert));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<BoundTensors> BindWeights(const MappedFiles& files, const TensorTable& table,
                                         const BindOptions& options, Model& model) {
  ModelSpec& spec = model.spec;
  const auto converted = std::make_shared<ConvertedWeights>(options.converted_bytes);
  BoundTensors bound;
  Binder binder(files, options, *converted, bound);
  // Tied weights are stored once, under either name. Where both are stored both count, whatever the
  // setting says: a fine-tuned head may have moved away from the embedding.
  const bool head_is_stored = !spec.tied_embeddings || binder.Has(kHead);
  const bool only_head = spec.tied_embeddings && head_is_stored && !binder.Has(kEmbedding);
  const std::vector<int64_t> shape = {spec.vocab, spec.dim};
  CONCLAVE_ASSIGN_OR_RETURN(model.embedding, binder.Bind(only_head ? kHead : kEmbedding, shape));
  spec.type = model.embedding.type;
  if (options.quantization.packed && spec.type != DType::kBF16) {
    return binder.Refuse(only_head ? kHead : kEmbedding,
                         absl::InvalidArgumentError("is not BF16, and packed experts go with it"));
  }
  spec.expert_type = options.quantization.packed.value_or(options.experts_as.value_or(spec.type));
  spec.dense_type = options.dense_as.value_or(spec.type);
  binder.SetModelType(spec.type);
  CONCLAVE_ASSIGN_OR_RETURN(model.final_norm, binder.Bind("model.norm.weight", {spec.dim}));
  binder.SetShares({.form = binder.FormOfDense(shape)});
  CONCLAVE_ASSIGN_OR_RETURN(model.head, binder.Bind(head_is_stored ? kHead : kEmbedding, shape));
  const auto absent = std::make_shared<AbsentExperts>(ExpertLayout(spec));
  model.layers.resize(spec.layers.size());
  int64_t experts = 0;
  for (size_t l = 0; l < model.layers.size(); ++l) {
    const bool moe = spec.layers[l].moe;
    LayerWeights& layer = model.layers[l];
    if (moe) layer.experts.resize(static_cast<size_t>(spec.gate.slots));
    for (FfnWeights& expert : layer.experts) expert.activation = spec.activation;
    layer.dense.activation = layer.shared.activation = spec.activation;
    LayerBinding binding = {std::to_string(l), moe, bound.experts.size(), experts, layer, binder};
    if (moe) bound.experts.emplace_back();
    binding.absent = moe && options.experts_may_be_absent && !HasExperts(table, binding);
    if (binding.absent) {
      PassExperts(table, binding);
      CONCLAVE_RETURN_IF_ERROR(ReserveExperts(binding, *absent));
    }
    CONCLAVE_RETURN_IF_ERROR(BindLayer(table, binding));
    experts += std::ssize(layer.experts);
  }
  CONCLAVE_RETURN_IF_ERROR(binder.CheckAllUsed(table));
  const int threads = static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, 16u));
  CONCLAVE_RETURN_IF_ERROR(converted->Fill(threads));
  model.converted = converted;
  if (!absent->empty()) model.absent = absent;
  return bound;
}

}  // namespace conclave::worker

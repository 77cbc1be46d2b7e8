#include "worker/model/expert_tensors.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <unordered_set>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "scheduler/check.h"
#include "worker/device/packed.h"
#include "worker/model/absent_experts.h"
#include "worker/model/json.h"
#include "worker/model/numbers.h"
#include "worker/model/widen.h"
#include "worker/status.h"

namespace conclave::worker {
namespace {

using Piece = ExpertTensors::Piece;
using Rule = TensorTable::Rule;
using Tensor = AdapterTensors::Tensor;

absl::Status Error(const Tensor& tensor, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrFormat("%s: tensor \"%s\" %s", tensor.file->path(),
                                                    Printable(tensor.entry->name), what));
}

int64_t Count(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t dimension : shape) count *= dimension;
  return count;
}

using Rules = std::vector<std::shared_ptr<const Rule>>;

bool OfEach(const Rule& rule) { return rule.name.find("{E}") != rule.name.npos; }

// A way in which tensors hold the experts of a layer.
struct Form {
  enum class Kind : uint8_t {
    kEach,    // as the family has it: tensors of each expert
    kShares,  // of tensors that the family has for all of a layer, one of each expert's share
    kStacks,  // the same tensors, of the experts that are replaced
  };
  Kind kind;
  Rules rules;

  // The tensor that has this expert's share.
  std::string Name(const Rule& rule, int32_t layer, int32_t slot) const {
    constexpr char kExperts[] = ".experts.";
    std::string name = rule.name;
    if (kind == Kind::kShares) {
      const size_t after = name.find(kExperts) + sizeof(kExperts) - 1;
      name.insert(after, "{E}.");
    }
    return absl::StrReplaceAll(name,
                               {{"{L}", std::to_string(layer)}, {"{E}", std::to_string(slot)}});
  }
};

// Those rules of a table that pass; each keeps the table.
Rules RulesOf(const std::shared_ptr<const TensorTable>& owner, const TensorTable& table,
              bool Rule::*flag) {
  Rules rules;
  for (const Rule& rule : table.rules()) {
    if (rule.*flag) rules.emplace_back(owner, &rule);
  }
  return rules;
}

// As ESFT was released: {..}.mlp.experts.{E}.gate_proj.weight, up_proj and down_proj.
std::shared_ptr<const TensorTable> ReleasedNames(const ModelSpec& spec) {
  auto table = std::make_shared<TensorTable>();
  table->AddSeparateExperts("model.layers.{L}.mlp",
                            {spec.expert_ffn_dim, spec.dim, spec.expert_bias}, {});
  return table;
}

// Those of a family, then the released one; the first is what messages speak of.
std::vector<Form> FormsOf(const Model& base) {
  std::vector<Form> forms;
  const auto add = [&](const std::shared_ptr<const TensorTable>& owner, const TensorTable& table) {
    const Rules rules = RulesOf(owner, table, &Rule::of_experts);
    if (rules.empty()) return;
    if (OfEach(*rules.front())) {
      forms.push_back({Form::Kind::kEach, rules});
    } else {
      forms.push_back({Form::Kind::kShares, rules});
      forms.push_back({Form::Kind::kStacks, rules});
    }
  };
  add(base.tensors, *base.tensors);
  for (const std::vector<TensorTable>& choice : base.tensors->choices()) {
    for (const TensorTable& one : choice) add(base.tensors, one);
  }
  const std::shared_ptr<const TensorTable> released = ReleasedNames(base.spec);
  add(released, *released);
  return forms;
}

class Finder {
 public:
  Finder(const AdapterTensors& tensors, const AdapterConfig& config, const std::string& config_name,
         const Model& base)
      : tensors_(tensors),
        config_(config),
        config_name_(config_name),
        base_(base),
        forms_(FormsOf(base)),
        layout_(base.spec),
        shared_layout_(ExpertLayout::OfShared(base.spec)) {}

  absl::StatusOr<std::vector<ExpertTensors>> Find();

 private:
  absl::Status FindLayer(int32_t layer, const std::vector<int32_t>& listed);
  absl::Status FindShared(int32_t layer);
  const Form& FormOf(int32_t layer, const std::vector<int32_t>& slots) const;
  // The expert's share of a tensor: all of it, or, of a stack, the index-th.
  struct Share {
    std::string name;
    std::vector<int64_t> shape;  // of the tensor
    size_t index = 0;
    size_t count = 0;  // of the stack, or 0
  };
  absl::StatusOr<Piece> PieceOf(const std::shared_ptr<const Rule>& rule, const Share& share,
                                const std::string& pointer);
  std::vector<DType> TypesOf(const ExpertLayout& layout, const FfnWeights& like, bool known) const;
  absl::Status CheckAllUsed() const;

  const AdapterTensors& tensors_;
  const AdapterConfig& config_;
  const std::string& config_name_;
  const Model& base_;
  const std::vector<Form> forms_;
  const ExpertLayout layout_, shared_layout_;
  std::unordered_set<const TensorEntry*> used_;
  scheduler::ExpertId first_expert_ = 0;  // of the layer
  std::vector<ExpertTensors> found_;
};

absl::StatusOr<std::vector<ExpertTensors>> Finder::Find() {
  for (size_t l = 0; l < base_.layers.size(); ++l) {
    if (!base_.spec.layers[l].moe) continue;
    const auto layer = static_cast<int32_t>(l);
    const auto listed = config_.experts.find(layer);
    if (listed != config_.experts.end() && !listed->second.empty())
      CONCLAVE_RETURN_IF_ERROR(FindLayer(layer, listed->second));
    if (config_.shared_experts) CONCLAVE_RETURN_IF_ERROR(FindShared(layer));
    first_expert_ += static_cast<scheduler::ExpertId>(base_.spec.gate.slots);
  }
  CONCLAVE_RETURN_IF_ERROR(CheckAllUsed());
  return std::move(found_);
}

absl::Status Finder::FindLayer(int32_t layer, const std::vector<int32_t>& listed) {
  std::vector<int32_t> slots = listed;
  std::sort(slots.begin(), slots.end());
  const Form& form = FormOf(layer, slots);
  const bool some = std::ssize(slots) < base_.spec.gate.slots;
  if (form.kind == Form::Kind::kStacks && some && slots != listed) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: /experts/%d: tensor \"%s\" stacks these experts, and which is where would be a guess "
        "unless they are listed in ascending order",
        config_name_, layer, tensors_.NameHere(form.Name(*form.rules.front(), layer, slots[0]))));
  }
  for (size_t i = 0; i < slots.size(); ++i) {
    const auto at = std::find(listed.begin(), listed.end(), slots[i]) - listed.begin();
    const std::string pointer = absl::StrFormat("/experts/%d/%d", layer, at);
    ExpertTensors expert = {.layer = layer, .slot = slots[i]};
    for (const std::shared_ptr<const Rule>& rule : form.rules) {
      Share share = {.name = form.Name(*rule, layer, slots[i]), .shape = rule->shape, .index = i};
      if (form.kind == Form::Kind::kShares) share.shape.erase(share.shape.begin());
      if (form.kind == Form::Kind::kStacks) {
        share.count = slots.size();
        share.shape[0] = static_cast<int64_t>(share.count);
      }
      CONCLAVE_ASSIGN_OR_RETURN(Piece piece, PieceOf(rule, share, pointer));
      expert.pieces.push_back(std::move(piece));
    }
    const auto id = first_expert_ + static_cast<scheduler::ExpertId>(slots[i]);
    const bool known = base_.absent == nullptr || !base_.absent->Has(id);
    const LayerWeights& weights = base_.layers[static_cast<size_t>(layer)];
    expert.types = TypesOf(layout_, weights.experts[static_cast<size_t>(slots[i])], known);
    found_.push_back(std::move(expert));
  }
  return absl::OkStatus();
}

absl::Status Finder::FindShared(int32_t layer) {
  ExpertTensors expert = {.layer = layer, .slot = base_.spec.gate.slots, .shared = true};
  for (const auto& rule : RulesOf(base_.tensors, *base_.tensors, &Rule::of_shared)) {
    const Share share = {.name = absl::StrReplaceAll(rule->name, {{"{L}", std::to_string(layer)}}),
                         .shape = rule->shape};
    CONCLAVE_ASSIGN_OR_RETURN(Piece piece, PieceOf(rule, share, "/shared_experts"));
    expert.pieces.push_back(std::move(piece));
  }
  const LayerWeights& weights = base_.layers[static_cast<size_t>(layer)];
  expert.types = TypesOf(shared_layout_, weights.shared, true);
  found_.push_back(std::move(expert));
  return absl::OkStatus();
}

// That of which most is there.
const Form& Finder::FormOf(int32_t layer, const std::vector<int32_t>& slots) const {
  const auto there = [&](const Form& form) {
    std::unordered_set<std::string> names;
    for (const int32_t slot : slots) {
      for (const auto& rule : form.rules) names.insert(form.Name(*rule, layer, slot));
    }
    return std::count_if(names.begin(), names.end(), [&](const std::string& name) {
      return tensors_.Find(name).entry != nullptr;
    });
  };
  return *std::max_element(forms_.begin(), forms_.end(),
                           [&](const Form& a, const Form& b) { return there(a) < there(b); });
}

absl::StatusOr<Piece> Finder::PieceOf(const std::shared_ptr<const Rule>& rule, const Share& share,
                                      const std::string& pointer) {
  Piece piece = {.tensor = tensors_.Find(share.name), .shape = share.shape, .rule = rule};
  if (piece.tensor.entry == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: %s needs tensor \"%s\", which is in no file of the directory",
                        config_name_, pointer, tensors_.NameHere(share.name)));
  }
  const TensorEntry& entry = *piece.tensor.entry;
  if (entry.shape != share.shape) {
    return Error(piece.tensor, absl::StrFormat("has shape %s, expected %s", ShapeText(entry.shape),
                                               ShapeText(share.shape)));
  }
  const std::optional<DType> type = ComputeType(entry.type);
  if (!type) {
    return Error(piece.tensor, absl::StrFormat("is %s, supported: F32, F16, BF16", entry.type));
  }
  piece.type = *type;
  if (share.count > 0) piece.shape.erase(piece.shape.begin());
  piece.bytes = static_cast<uint64_t>(Count(piece.shape)) * SizeOf(*type);
  piece.begin = entry.begin + share.index * (share.count > 0 ? piece.bytes : 0);
  used_.insert(&entry);
  return piece;
}

// A checkpoint may have biases in F32 beside matrices of another type. Where those of the expert
// are not at hand they are taken to be of the model's.
std::vector<DType> Finder::TypesOf(const ExpertLayout& layout, const FfnWeights& like,
                                   bool known) const {
  std::vector<DType> types;
  for (const ExpertLayout::Part& part : layout.parts()) {
    const DType type = known ? (like.*part.member).type : base_.spec.type;
    types.push_back(IsPacked(type) ? DType::kBF16 : type);  // which is packed then
  }
  return types;
}

absl::Status Finder::CheckAllUsed() const {
  for (const Tensor& tensor : tensors_.all()) {
    if (used_.contains(tensor.entry)) continue;
    return Error(tensor, absl::StrFormat("is of no expert that %s names", config_name_));
  }
  return absl::OkStatus();
}

// Where in the piece's bytes the numbers of a member are.
struct MemberPart {
  Weight FfnWeights::*member;
  ConvertedWeights::Part part;
};

// As the model's own loader binds them.
std::vector<MemberPart> PartsOf(const Piece& piece, const char* data, bool shared,
                                const ExpertLayout& layout) {
  std::vector<MemberPart> parts;
  for (size_t i = 0; i < piece.rule->parts.size(); ++i)
    parts.push_back({piece.rule->members[i], piece.rule->parts[i]});
  if (!parts.empty()) return parts;

  LayerWeights layer;
  layer.experts.resize(1);
  const int64_t cols = piece.shape.back();
  const Weight whole = {data, piece.type, Count(piece.shape) / cols, cols};
  CONCLAVE_CHECK(piece.rule->bind(layer, 0, whole).ok());
  const FfnWeights& bound = shared ? layer.shared : layer.experts[0];
  for (const ExpertLayout::Part& part : layout.parts()) {
    const Weight& weight = bound.*part.member;
    if (!weight) continue;
    const auto first = static_cast<size_t>(static_cast<const char*>(weight.data) - data);
    parts.push_back({part.member,
                     {.rows = weight.rows,
                      .cols = weight.cols,
                      .first = static_cast<int64_t>(first / SizeOf(piece.type)),
                      .row_step = weight.cols}});
  }
  return parts;
}

absl::Status BadNumber(const Piece& piece, const char* data, int64_t index, DType rounded) {
  const auto before =
      static_cast<int64_t>((piece.begin - piece.tensor.entry->begin) / SizeOf(piece.type));
  const float value = Widen(Weight{data, piece.type, 1, index + 1}).back();
  if (!std::isfinite(value)) {
    return Error(piece.tensor,
                 absl::StrFormat("has a value that is not finite, number %d", before + index));
  }
  return Error(piece.tensor,
               absl::StrFormat("has %g as number %d, too large for the %s of the base", value,
                               before + index, TypeName(rounded)));
}

// As the base's were: rounded to BF16, then packed. As ConvertNumbers.
std::optional<int64_t> PackPart(const char* data, const ConvertedWeights::Part& part, DType type,
                                const Weight& to) {
  std::vector<uint16_t> numbers(static_cast<size_t>(to.rows * to.cols));
  const std::optional<int64_t> bad =
      ConvertNumbers(data, part, {.from = type, .rounded = DType::kBF16, .stored = DType::kBF16},
                     reinterpret_cast<char*>(numbers.data()));
  if (bad) return bad;
  const std::optional<int64_t> large = PackNumbers(numbers.data(), to);
  if (!large) return std::nullopt;
  return part.first + *large / part.cols * part.row_step + *large % part.cols * part.column_step;
}

}  // namespace

absl::Status ExpertTensors::Read(const ExpertLayout& layout, std::span<std::byte> into) const {
  CONCLAVE_CHECK(into.size() == layout.bytes() && types.size() == layout.parts().size());
  std::fill(into.begin(), into.end(), std::byte{0});
  char* const to = reinterpret_cast<char*>(into.data());
  size_t filled = 0;
  for (const Piece& piece : pieces) {
    std::string data(piece.bytes, '\0');
    CONCLAVE_RETURN_IF_ERROR(piece.tensor.file->ReadAt(piece.begin, data.size(), data.data()));
    for (const MemberPart& from : PartsOf(piece, data.data(), shared, layout)) {
      const auto part =
          std::find_if(layout.parts().begin(), layout.parts().end(),
                       [&](const ExpertLayout::Part& one) { return one.member == from.member; });
      CONCLAVE_CHECK(part != layout.parts().end());
      CONCLAVE_CHECK(part->rows * part->cols == from.part.rows * from.part.cols);
      const DType rounded = types[static_cast<size_t>(part - layout.parts().begin())];
      const std::optional<int64_t> bad =
          IsPacked(part->type)
              ? PackPart(data.data(), from.part, piece.type, part->At(to))
              : ConvertNumbers(data.data(), from.part,
                               {.from = piece.type, .rounded = rounded, .stored = part->type},
                               to + part->begin);
      if (bad) {
        return BadNumber(piece, data.data(), *bad, IsPacked(part->type) ? part->type : rounded);
      }
      ++filled;
    }
  }
  CONCLAVE_CHECK(filled == layout.parts().size());
  return absl::OkStatus();
}

absl::StatusOr<std::vector<ExpertTensors>> FindExpertTensors(const AdapterTensors& tensors,
                                                             const AdapterConfig& config,
                                                             const std::string& config_name,
                                                             const Model& base) {
  return Finder(tensors, config, config_name, base).Find();
}

}  // namespace conclave::worker

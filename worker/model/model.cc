#include "worker/model/model.h"

#include <algorithm>
#include <filesystem>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "worker/device/packed.h"
#include "worker/model/absent_experts.h"
#include "worker/model/config.h"
#include "worker/model/converted_weights.h"
#include "worker/model/families.h"
#include "worker/model/generation_config.h"
#include "worker/model/json.h"
#include "worker/model/mapped_files.h"
#include "worker/model/pages.h"
#include "worker/model/tensor_table.h"
#include "worker/model/weights.h"
#include "worker/sha256.h"
#include "worker/status.h"

namespace conclave::worker {
namespace {

constexpr size_t kMaxConfigBytes = size_t{1} << 20;

std::string LastComponent(const std::string& directory) {
  std::error_code ignored;
  const std::filesystem::path path =
      std::filesystem::absolute(directory, ignored).lexically_normal();
  return (path.has_filename() ? path : path.parent_path()).filename().string();
}

absl::StatusOr<std::optional<std::string>> ReadOptionalFile(const std::string& path) {
  absl::StatusOr<std::string> bytes = ReadSmallFile(path, kMaxConfigBytes);
  if (absl::IsNotFound(bytes.status())) return std::nullopt;
  if (!bytes.ok()) return bytes.status();
  return *std::move(bytes);
}

absl::Status HoldAll(const Model& model) {
  std::vector<scheduler::ExpertId> ids;
  for (size_t id = 0; id < model.Experts().size(); ++id) {
    const auto expert = static_cast<scheduler::ExpertId>(id);
    if (model.absent == nullptr || !model.absent->Has(expert)) ids.push_back(expert);
  }
  return model.HoldExperts(ids);
}

// That of a layer whose experts are absent stays empty.
absl::StatusOr<CheckpointDigest> DigestOf(const BoundTensors& bound,
                                          std::initializer_list<std::string_view> settings) {
  Sha256 dense;
  for (const std::string_view setting : settings) dense.AddField(setting);
  CONCLAVE_ASSIGN_OR_RETURN(const std::string tensors, MappedFiles::Digest(bound.dense));
  dense.AddField(tensors);
  CheckpointDigest digest{.dense = absl::BytesToHexString(dense.Finish())};
  for (const std::vector<MappedFiles::Tensor>& experts : bound.experts) {
    std::string& layer = digest.layers.emplace_back();
    if (experts.empty()) continue;
    CONCLAVE_ASSIGN_OR_RETURN(layer, MappedFiles::Digest(experts));
    layer.resize(CheckpointDigest::kLayerBytes);
  }
  return digest;
}

// Fills in what others say of the layers that are absent, if they say the same of those at hand.
absl::Status CompleteDigest(const ModelOptions& options, const std::string& directory,
                            CheckpointDigest& digest) {
  CONCLAVE_ASSIGN_OR_RETURN(std::vector<std::string> told, options.ask_layers(digest.dense));
  const auto whole = [](const std::string& layer) {
    return layer.size() == CheckpointDigest::kLayerBytes;
  };
  if (told.size() != digest.layers.size() || !std::all_of(told.begin(), told.end(), whole)) {
    return absl::FailedPreconditionError(
        absl::StrFormat("%s: lacks experts, and of the %d layers that have some others told %d",
                        directory, digest.layers.size(), told.size()));
  }
  for (size_t i = 0; i < told.size(); ++i) {
    if (digest.layers[i].empty() || digest.layers[i] == told[i]) continue;
    return absl::FailedPreconditionError(absl::StrFormat(
        "%s: the experts of layer %d, counting layers that have some, are of another checkpoint "
        "than the cluster's",
        directory, i));
  }
  digest.layers = std::move(told);
  return absl::OkStatus();
}

absl::Status CheckForm(const ModelOptions& options, const Quantization& stored,
                       const std::string& directory) {
  if (!options.experts_as || !stored.packed || *options.experts_as == *stored.packed)
    return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrFormat("%s: has experts packed as %s, which cannot be held as %s", directory,
                      NameOfPacked(*stored.packed), NameOfPacked(*options.experts_as)));
}

// What every token needs, in the order of use: of the embedding it needs a row, and the head last.
void ReadAhead(const std::shared_ptr<Model>& model, const BoundTensors& bound) {
  std::vector<MappedFiles::Tensor> tensors = bound.dense;
  if (model->head.data != model->embedding.data) {
    std::erase_if(tensors, [&](const auto& one) { return one.data() == model->embedding.data; });
  }
  std::erase_if(tensors, [&](const auto& one) {
    return !one.file->brings() || bound.converted.contains(one.entry);
  });
  if (tensors.empty()) return;
  std::stable_partition(tensors.begin(), tensors.end(),
                        [&](const auto& one) { return one.data() != model->head.data; });
  model->reading = std::jthread([tensors = std::move(tensors)](const std::stop_token& stop) {
    for (const MappedFiles::Tensor& one : tensors) {
      if (stop.stop_requested()) return;
      one.file->Bring(one.entry->begin, one.entry->end - one.entry->begin);
    }
  });
}

}  // namespace

std::string CheckpointDigest::Whole() const {
  Sha256 hash;
  hash.AddField(dense);
  for (const std::string& layer : layers) hash.AddField(layer);
  return absl::BytesToHexString(hash.Finish());
}

absl::Status Model::HoldExperts(std::span<const scheduler::ExpertId> experts) const {
  if (converted == nullptr) return absl::OkStatus();
  const int threads = static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, 16u));
  return converted->Hold(experts, threads);
}

void Model::Bring(const FfnWeights& expert) const {
  for (const Weight& weight : {expert.gate, expert.up, expert.down}) files->Bring(weight);
}

void Model::DropExperts(std::span<const scheduler::ExpertId> experts) const {
  std::vector<const FfnWeights*> all = Experts();
  for (const scheduler::ExpertId expert : experts) {
    const FfnWeights& w = *all[expert];
    for (const Weight& weight : {w.gate, w.up, w.down}) {
      if (converted == nullptr || !converted->Has(weight)) GiveBackPages(weight);
    }
  }
  if (converted != nullptr) converted->Drop(experts);
}

std::vector<const FfnWeights*> Model::Experts() const {
  std::vector<const FfnWeights*> all;
  for (const LayerWeights& layer : layers) {
    for (const FfnWeights& expert : layer.experts) all.push_back(&expert);
  }
  return all;
}

int64_t Model::converted_bytes() const { return converted == nullptr ? 0 : converted->bytes(); }

absl::StatusOr<std::shared_ptr<const Model>> Model::Load(const std::string& directory,
                                                         const ModelOptions& options) {
  const std::string config_path = directory + "/config.json";
  const std::string generation_path = directory + "/generation_config.json";
  CONCLAVE_ASSIGN_OR_RETURN(const std::string config_bytes,
                            ReadSmallFile(config_path, kMaxConfigBytes));
  CONCLAVE_ASSIGN_OR_RETURN(const std::optional<std::string> generation,
                            ReadOptionalFile(generation_path));
  CONCLAVE_ASSIGN_OR_RETURN(const nlohmann::json document, ParseJson(config_bytes, config_path));

  const FamilyOptions family_options = {.context_limit = options.context_limit};
  Config config(document, config_path);
  CONCLAVE_ASSIGN_OR_RETURN(Family family, MakeFamily(config, family_options));
  CONCLAVE_ASSIGN_OR_RETURN(GenerationConfig settings,
                            ReadGenerationConfig(generation, generation_path, config,
                                                 family.spec.vocab, family_options.limits));

  auto model = std::make_shared<Model>();
  model->spec = family.spec;
  model->spec.name = LastComponent(directory);
  model->spec.eos = std::move(settings.eos);
  model->spec.generation = settings.defaults;
  model->remarks = std::move(settings.remarks);
  model->tensors = std::make_shared<const TensorTable>(std::move(family.tensors));
  CONCLAVE_RETURN_IF_ERROR(CheckForm(options, family.quantization, directory));
  const bool may_be_absent = options.ask_layers != nullptr;
  CONCLAVE_ASSIGN_OR_RETURN(
      model->files,
      MappedFiles::Open(directory, MappedFiles::Limits(),
                        may_be_absent ? MappedFiles::Absent::kSkip : MappedFiles::Absent::kRefuse));
  CONCLAVE_ASSIGN_OR_RETURN(const BoundTensors bound,
                            BindWeights(*model->files, *model->tensors,
                                        {.quantization = family.quantization,
                                         .converted_bytes = options.converted_bytes,
                                         .experts_as = options.experts_as,
                                         .dense_as = options.dense_as,
                                         .experts_may_be_absent = may_be_absent},
                                        *model));
  ReadAhead(model, bound);
  if (options.hold_experts) CONCLAVE_RETURN_IF_ERROR(HoldAll(*model));
  CONCLAVE_ASSIGN_OR_RETURN(model->checkpoint,
                            DigestOf(bound, {config_bytes, generation.value_or("")}));
  if (model->absent != nullptr)
    CONCLAVE_RETURN_IF_ERROR(CompleteDigest(options, directory, model->checkpoint));
  model->digest = model->checkpoint.Whole();
  return model;
}

}  // namespace conclave::worker

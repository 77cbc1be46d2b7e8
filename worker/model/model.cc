#include "worker/model/model.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <thread>
#include <utility>

#include "worker/model/config.h"
#include "worker/model/converted_weights.h"
#include "worker/model/families.h"
#include "worker/model/generation_config.h"
#include "worker/model/json.h"
#include "worker/model/mapped_files.h"
#include "worker/model/pages.h"
#include "worker/model/weights.h"
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

}  // namespace

absl::Status Model::HoldExperts(std::span<const scheduler::ExpertId> experts) const {
  if (converted == nullptr) return absl::OkStatus();
  const int threads = static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, 16u));
  return converted->Hold(experts, threads);
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
  CONCLAVE_ASSIGN_OR_RETURN(const Family family, MakeFamily(config, family_options));
  CONCLAVE_ASSIGN_OR_RETURN(GenerationConfig settings,
                            ReadGenerationConfig(generation, generation_path, config,
                                                 family.spec.vocab, family_options.limits));

  auto model = std::make_shared<Model>();
  model->spec = family.spec;
  model->spec.name = LastComponent(directory);
  model->spec.eos = std::move(settings.eos);
  model->spec.generation = settings.defaults;
  model->remarks = std::move(settings.remarks);
  CONCLAVE_ASSIGN_OR_RETURN(model->files, MappedFiles::Open(directory));
  CONCLAVE_RETURN_IF_ERROR(
      BindWeights(*model->files, family.tensors, family.fp8, options.converted_bytes, *model));
  if (options.hold_experts) {
    std::vector<scheduler::ExpertId> all(model->Experts().size());
    std::iota(all.begin(), all.end(), scheduler::ExpertId{0});
    CONCLAVE_RETURN_IF_ERROR(model->HoldExperts(all));
  }
  CONCLAVE_ASSIGN_OR_RETURN(model->digest,
                            model->files->Digest(config_bytes + '\0' + generation.value_or("")));
  return model;
}

}  // namespace conclave::worker

#include "worker/model/model.h"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "worker/model/config.h"
#include "worker/model/converted_weights.h"
#include "worker/model/families.h"
#include "worker/model/generation_config.h"
#include "worker/model/json.h"
#include "worker/model/mapped_files.h"
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
  CONCLAVE_ASSIGN_OR_RETURN(model->digest,
                            model->files->Digest(config_bytes + '\0' + generation.value_or("")));
  return model;
}

}  // namespace conclave::worker

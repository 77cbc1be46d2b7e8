#include "worker/model/adapter_files.h"

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "scheduler/check.h"
#include "worker/model/directory.h"
#include "worker/model/expert_tensors.h"
#include "worker/model/manifest.h"
#include "worker/sha256.h"
#include "worker/status.h"

namespace conclave::worker {
namespace {

constexpr char kConfigName[] = "expert_cfg.json";

std::string DigestOf(std::span<const std::byte> bytes) {
  Sha256 hash;
  hash.Add({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  return hash.Finish();
}

// Of the model's layers, which one it is among those that have experts.
std::vector<int32_t> MoeLayers(const ModelSpec& spec) {
  std::vector<int32_t> numbers;
  int32_t next = 0;
  for (const LayerSpec& layer : spec.layers) numbers.push_back(layer.moe ? next++ : -1);
  return numbers;
}

}  // namespace

struct AdapterFiles::Contents {
  std::unique_ptr<const AdapterTensors> tensors;
  std::vector<ExpertTensors> experts;
  ExpertLayout layout, shared_layout;
};

AdapterFiles::AdapterFiles() = default;
AdapterFiles::~AdapterFiles() = default;

absl::StatusOr<std::shared_ptr<const AdapterFiles>> AdapterFiles::Open(
    const std::string& directory, const Model& base, const Limits& limits,
    const std::function<void()>& rest) {
  CONCLAVE_ASSIGN_OR_RETURN(const std::unique_ptr<const Directory> opened,
                            Directory::Open(directory));
  CONCLAVE_ASSIGN_OR_RETURN(const std::shared_ptr<const DirectoryFile> config_file,
                            opened->OpenFile(kConfigName));
  CONCLAVE_ASSIGN_OR_RETURN(const std::string config_bytes,
                            config_file->ReadAll(limits.config.bytes));
  const std::string& config_path = config_file->path();
  CONCLAVE_ASSIGN_OR_RETURN(const AdapterConfig config,
                            ParseAdapterConfig(config_bytes, config_path, limits.config));
  CONCLAVE_RETURN_IF_ERROR(CheckAdapterConfig(config, base.spec, config_path));

  CONCLAVE_ASSIGN_OR_RETURN(std::unique_ptr<const AdapterTensors> tensors,
                            AdapterTensors::Open(*opened, limits.tensors));
  CONCLAVE_ASSIGN_OR_RETURN(std::vector<ExpertTensors> experts,
                            FindExpertTensors(*tensors, config, config_path, base));
  std::vector<std::shared_ptr<const DirectoryFile>> read = tensors->files();
  read.push_back(config_file);
  CONCLAVE_RETURN_IF_ERROR(CheckManifest(*opened, read, limits.manifest_bytes));

  const std::shared_ptr<AdapterFiles> files(new AdapterFiles());
  files->directory_ = directory;
  const std::vector<int32_t> moe_layers = MoeLayers(base.spec);
  for (const ExpertTensors& expert : experts) {
    files->experts_.push_back({.moe_layer = moe_layers[static_cast<size_t>(expert.layer)],
                               .layer = expert.layer,
                               .slot = expert.slot,
                               .shared = expert.shared});
  }
  files->contents_.reset(new Contents{.tensors = std::move(tensors),
                                      .experts = std::move(experts),
                                      .layout = ExpertLayout(base.spec),
                                      .shared_layout = ExpertLayout::OfShared(base.spec)});
  CONCLAVE_RETURN_IF_ERROR(files->Verify(limits.bytes, rest));
  CONCLAVE_RETURN_IF_ERROR(config_file->CheckUnchanged());
  CONCLAVE_RETURN_IF_ERROR(files->contents_->tensors->CheckUnchanged());
  return files;
}

// Reads every expert, and fills in digests and version.
absl::Status AdapterFiles::Verify(uint64_t bytes_limit, const std::function<void()>& rest) {
  for (size_t i = 0; i < experts_.size(); ++i) bytes_ += layout(i).bytes();
  if (bytes_ > bytes_limit) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("%s: replaces %d experts of %d bytes, the limit of an adapter is %d",
                        directory_, experts_.size(), bytes_, bytes_limit));
  }
  Sha256 version;
  std::vector<std::byte> bytes;
  for (size_t i = 0; i < experts_.size(); ++i) {
    bytes.resize(layout(i).bytes());
    CONCLAVE_RETURN_IF_ERROR(contents_->experts[i].Read(layout(i), bytes));
    Expert& expert = experts_[i];
    expert.sha256 = DigestOf(bytes);
    version.AddField(std::to_string(expert.layer));
    version.AddField(std::to_string(expert.slot));
    version.AddField(expert.sha256);
    if (rest) rest();
  }
  version_ = absl::BytesToHexString(version.Finish());
  return absl::OkStatus();
}

const ExpertLayout& AdapterFiles::layout(size_t index) const {
  return experts_[index].shared ? contents_->shared_layout : contents_->layout;
}

absl::Status AdapterFiles::Read(size_t index, std::span<std::byte> into) const {
  CONCLAVE_CHECK(index < experts_.size());
  const Expert& expert = experts_[index];
  const auto changed = [&](std::string_view why) {
    return absl::DataLossError(absl::StrFormat(
        "%s: layer %d, %s is no longer what was verified: %s", directory_, expert.layer,
        expert.shared ? "the shared expert" : absl::StrFormat("expert %d", expert.slot),
        std::string(why)));
  };
  const absl::Status read = contents_->experts[index].Read(layout(index), into);
  if (!read.ok()) return changed(std::string(read.message()));
  const std::string digest = DigestOf(into);
  if (digest == expert.sha256) return absl::OkStatus();
  return changed(absl::StrFormat("SHA-256 %s, it was %s", absl::BytesToHexString(digest),
                                 absl::BytesToHexString(expert.sha256)));
}

}  // namespace conclave::worker

#include "worker/model/pack_checkpoint.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "worker/device/packed.h"
#include "worker/model/converted_weights.h"
#include "worker/model/json.h"
#include "worker/model/manifest.h"
#include "worker/model/mapped_files.h"
#include "worker/model/model.h"
#include "worker/model/quantization.h"
#include "worker/model/tensor_table.h"
#include "worker/model/weight_map.h"
#include "worker/sha256.h"
#include "worker/status.h"

namespace conclave::worker {
namespace {

namespace fs = std::filesystem;
using OrderedJson = nlohmann::ordered_json;
using Tensor = MappedFiles::Tensor;

constexpr char kConfigName[] = "config.json";
constexpr size_t kMaxConfigBytes = size_t{1} << 20;
constexpr size_t kCopyBytes = size_t{1} << 20;
constexpr size_t kAlignment = 64;  // of the first tensor in a file

// A file that is written from its beginning to its end, and is on the disk once it is closed.
class Output {
 public:
  static absl::StatusOr<std::unique_ptr<Output>> Create(const fs::path& path) {
    const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0) return Failed(path);
    return std::unique_ptr<Output>(new Output(path, fd));
  }
  ~Output() {
    if (fd_ >= 0) close(fd_);
  }
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;

  absl::Status Write(std::string_view bytes) {
    hash_.Add(bytes);
    while (!bytes.empty()) {
      const ssize_t written = write(fd_, bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) return Failed(path_);
      bytes.remove_prefix(static_cast<size_t>(written));
    }
    return absl::OkStatus();
  }
  // Returns the SHA-256 of all that was written.
  absl::StatusOr<std::string> Close() {
    const bool synced = fsync(fd_) == 0;
    const bool closed = close(std::exchange(fd_, -1)) == 0;
    if (!synced || !closed) return Failed(path_);
    return hash_.Finish();
  }

  static absl::Status Failed(const fs::path& path) {
    return absl::UnavailableError(
        absl::StrFormat("cannot write %s: %s", path.string(), std::strerror(errno)));
  }

 private:
  Output(fs::path path, int fd) : path_(std::move(path)), fd_(fd) {}

  const fs::path path_;
  int fd_;
  Sha256 hash_;
};

// The directory as it is written, removed unless it becomes what it is for.
class Draft {
 public:
  static absl::StatusOr<std::unique_ptr<Draft>> Make(const fs::path& target) {
    std::string name = target.string() + ".partial-XXXXXX";
    if (mkdtemp(name.data()) == nullptr) return Output::Failed(name);
    return std::unique_ptr<Draft>(new Draft(name));
  }
  ~Draft() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }
  Draft(const Draft&) = delete;
  Draft& operator=(const Draft&) = delete;

  const fs::path& path() const { return path_; }
  absl::Status Become(const fs::path& target) {
    fs::permissions(path_, fs::perms(0755));
    const int fd = open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const bool synced = fd >= 0 && fsync(fd) == 0;
    if (fd >= 0) close(fd);
    if (!synced) return Output::Failed(path_);
    if (renameat2(AT_FDCWD, path_.c_str(), AT_FDCWD, target.c_str(), RENAME_NOREPLACE) != 0) {
      if (errno == EEXIST) return absl::AlreadyExistsError(target.string() + " is there already");
      return Output::Failed(target);
    }
    path_.clear();
    return absl::OkStatus();
  }

 private:
  explicit Draft(fs::path path) : path_(std::move(path)) {}
  fs::path path_;
};

// Of a tensor that is packed: how its numbers are rows of products.
struct Packing {
  int64_t slots = 1;  // in each of them a matrix of its own
  int64_t rows = 0;   // of a slot
  int64_t cols = 0;
  bool transposed = false;
};

using Packings = std::map<std::string, Packing>;

Packing PackingOf(const TensorTable::Rule& rule) {
  const std::vector<int64_t>& shape = rule.shape;
  Packing packing = {.slots = shape.size() > 2 ? shape[0] : 1,
                     .rows = shape[shape.size() - 2],
                     .cols = shape.back(),
                     .transposed = !rule.parts.empty()};
  if (packing.transposed) std::swap(packing.rows, packing.cols);
  return packing;
}

// Every tensor of the table that a layer may have of its experts, biases apart.
void AddPackings(const TensorTable& table, size_t layer, int32_t slots, Packings& packings) {
  for (const TensorTable::Rule& rule : table.rules()) {
    const bool of_matrix = (rule.of_experts || rule.of_shared) && rule.shape.size() > 1 &&
                           !rule.name.ends_with("bias");
    if (!of_matrix) continue;
    const bool each = rule.name.find("{E}") != rule.name.npos;
    for (int32_t slot = 0; slot < (each ? slots : 1); ++slot) {
      packings[absl::StrReplaceAll(rule.name, {{"{L}", std::to_string(layer)},
                                               {"{E}", std::to_string(slot)}})] = PackingOf(rule);
    }
  }
  for (const std::vector<TensorTable>& choice : table.choices()) {
    for (const TensorTable& one : choice) AddPackings(one, layer, slots, packings);
  }
}

// What a packed matrix has for its groups, all of a row before the next row's.
std::string RowByRow(const Weight& weight, std::string_view content) {
  const int64_t groups = weight.rows * weight.cols / kGroup;
  const size_t each = content.size() / static_cast<size_t>(groups);
  std::string rows;
  rows.reserve(content.size());
  for (int64_t i = 0; i < weight.rows * weight.cols; i += kGroup) {
    const int64_t g = GroupOf(weight.cols, i / weight.cols, i % weight.cols);
    rows += content.substr(static_cast<size_t>(g) * each, each);
  }
  return rows;
}

// A tensor as it will stand in a file.
struct Written {
  std::string name;
  std::string type;
  std::vector<int64_t> shape;
  uint64_t bytes = 0;
};

class Packer {
 public:
  Packer(const Model& model, const PackOptions& options) : options_(options) {
    for (size_t l = 0; l < model.spec.layers.size(); ++l) {
      if (model.spec.layers[l].moe)
        AddPackings(*model.tensors, l, model.spec.gate.slots, packings_);
    }
    for (const Tensor& tensor : model.files->tensors()) {
      files_[fs::path(tensor.file->path()).filename().string()].push_back(tensor);
      for (const Written& one : WrittenOf(tensor)) total_ += one.bytes;
    }
  }

  // Of tensors.
  uint64_t total() const { return total_; }
  bool Has(const std::string& file) const { return files_.contains(file); }
  std::vector<std::string> files() const {
    std::vector<std::string> names;
    for (const auto& [name, tensors] : files_) names.push_back(name);
    return names;
  }
  // Returns the SHA-256.
  absl::StatusOr<std::string> WriteFile(const std::string& name, const fs::path& to);
  // What is in the file of that name.
  void AddTo(const std::string& name, OrderedJson& weight_map) const;

 private:
  const Packing* Find(const Tensor& tensor) const {
    const auto found = packings_.find(tensor.entry->name);
    return found == packings_.end() ? nullptr : &found->second;
  }
  // One as it is, or two in its place.
  std::vector<Written> WrittenOf(const Tensor& tensor) const;
  absl::StatusOr<std::string> Header(const std::vector<Tensor>& tensors) const;
  absl::Status Write(const Tensor& tensor, Output& output);
  absl::Status WritePacked(const Tensor& tensor, const Packing& packing, Output& output) const;

  const PackOptions& options_;
  Packings packings_;
  std::map<std::string, std::vector<Tensor>> files_;
  uint64_t total_ = 0;
  uint64_t done_ = 0;
};

std::vector<Written> Packer::WrittenOf(const Tensor& tensor) const {
  const TensorEntry& entry = *tensor.entry;
  const Packing* const packing = Find(tensor);
  if (packing == nullptr) return {{entry.name, entry.type, entry.shape, entry.end - entry.begin}};
  const DType form = options_.experts_as;
  std::vector<int64_t> shape;
  if (entry.shape.size() > 2) shape.push_back(packing->slots);
  shape.push_back(packing->transposed ? packing->rows : packing->rows / kBand);
  shape.push_back(packing->cols / kGroup);
  if (!packing->transposed) shape.push_back(kBand);
  const auto groups =
      static_cast<uint64_t>(packing->slots * packing->rows * (packing->cols / kGroup));
  const int64_t group_bytes = kGroup * BitsOf(form) / 8;
  Written scales = {entry.name + kScalesSuffix, "U8", shape, groups};
  shape.push_back(group_bytes);
  return {{entry.name + kBlocksSuffix, StoredAs(form), std::move(shape),
           groups * static_cast<uint64_t>(group_bytes)},
          std::move(scales)};
}

absl::StatusOr<std::string> Packer::Header(const std::vector<Tensor>& tensors) const {
  OrderedJson header = OrderedJson::object();
  // What else the file's own header says.
  char length_bytes[kSafetensorsLengthBytes];
  const MappedFile& file = *tensors.front().file;
  CONCLAVE_RETURN_IF_ERROR(file.ReadAt(0, sizeof(length_bytes), length_bytes));
  CONCLAVE_ASSIGN_OR_RETURN(
      const uint64_t length,
      SafetensorsHeaderBytes({length_bytes, sizeof(length_bytes)}, file.size(), file.path()));
  std::string text(length, '\0');
  CONCLAVE_RETURN_IF_ERROR(file.ReadAt(sizeof(length_bytes), text.size(), text.data()));
  const OrderedJson old = OrderedJson::parse(text, nullptr, /*allow_exceptions=*/false);
  if (old.is_object() && old.contains("__metadata__")) header["__metadata__"] = old["__metadata__"];
  uint64_t begin = 0;
  for (const Tensor& tensor : tensors) {
    for (const Written& one : WrittenOf(tensor)) {
      header[one.name] = {
          {"dtype", one.type}, {"shape", one.shape}, {"data_offsets", {begin, begin + one.bytes}}};
      begin += one.bytes;
    }
  }
  text = header.dump();
  const size_t before = kSafetensorsLengthBytes + text.size();
  text.append((before + kAlignment - 1) / kAlignment * kAlignment - before, ' ');
  std::string bytes;
  for (size_t i = 0; i < kSafetensorsLengthBytes; ++i)
    bytes.push_back(static_cast<char>(text.size() >> (8 * i) & 0xff));
  return bytes + text;
}

absl::StatusOr<std::string> Packer::WriteFile(const std::string& name, const fs::path& to) {
  const std::vector<Tensor>& tensors = files_.at(name);
  CONCLAVE_ASSIGN_OR_RETURN(const std::unique_ptr<Output> output, Output::Create(to));
  CONCLAVE_ASSIGN_OR_RETURN(const std::string header, Header(tensors));
  CONCLAVE_RETURN_IF_ERROR(output->Write(header));
  for (const Tensor& tensor : tensors) {
    CONCLAVE_RETURN_IF_ERROR(Write(tensor, *output));
    for (const Written& one : WrittenOf(tensor)) done_ += one.bytes;
    if (options_.progress) options_.progress(done_, total_);
  }
  return output->Close();
}

absl::Status Packer::Write(const Tensor& tensor, Output& output) {
  if (const Packing* const packing = Find(tensor)) return WritePacked(tensor, *packing, output);
  std::string piece;
  for (uint64_t at = tensor.entry->begin; at < tensor.entry->end; at += piece.size()) {
    piece.resize(std::min<uint64_t>(kCopyBytes, tensor.entry->end - at));
    CONCLAVE_RETURN_IF_ERROR(tensor.file->ReadAt(at, piece.size(), piece.data()));
    CONCLAVE_RETURN_IF_ERROR(output.Write(piece));
  }
  return absl::OkStatus();
}

absl::Status Packer::WritePacked(const Tensor& tensor, const Packing& packing,
                                 Output& output) const {
  const DType form = options_.experts_as;
  const uint64_t bytes = tensor.entry->end - tensor.entry->begin;
  ConvertedWeights packed(static_cast<int64_t>(bytes) + packing.slots * 4 * 64);
  std::vector<Weight> weights;
  if (packing.transposed) {
    const uint64_t share = bytes / static_cast<uint64_t>(packing.slots);
    const ConvertedWeights::Part part = {
        .rows = packing.rows, .cols = packing.cols, .row_step = 1, .column_step = packing.rows};
    for (uint64_t slot = 0; slot < static_cast<uint64_t>(packing.slots); ++slot) {
      CONCLAVE_ASSIGN_OR_RETURN(
          const std::vector<Weight> own,
          packed.Rearrange({tensor, DType::kBF16, slot * share, share}, {&part, 1}, form));
      weights.push_back(own.front());
    }
  } else {
    CONCLAVE_ASSIGN_OR_RETURN(const Weight whole,
                              packed.Pack(tensor, packing.slots * packing.rows, packing.cols, form,
                                          ConvertedWeights::kNobodys, packing.slots));
    weights.push_back(whole);
  }
  CONCLAVE_RETURN_IF_ERROR(packed.Fill(options_.threads));
  const auto write = [&](const Weight& weight, const void* data, size_t size) {
    const std::string_view content = {static_cast<const char*>(data), size};
    return packing.transposed ? output.Write(RowByRow(weight, content)) : output.Write(content);
  };
  for (const Weight& weight : weights)
    CONCLAVE_RETURN_IF_ERROR(write(weight, weight.data, weight.bytes()));
  for (const Weight& weight : weights)
    CONCLAVE_RETURN_IF_ERROR(write(weight, weight.scales, weight.scale_bytes()));
  return absl::OkStatus();
}

void Packer::AddTo(const std::string& name, OrderedJson& weight_map) const {
  for (const Tensor& tensor : files_.at(name)) {
    for (const Written& one : WrittenOf(tensor)) weight_map[one.name] = name;
  }
}

// config.json, saying what the experts are.
absl::StatusOr<std::string> ConfigText(const std::string& directory, DType form) {
  const std::string path = directory + "/" + kConfigName;
  CONCLAVE_ASSIGN_OR_RETURN(const std::string bytes, ReadSmallFile(path, kMaxConfigBytes));
  CONCLAVE_RETURN_IF_ERROR(ParseJson(bytes, path).status());
  OrderedJson config = OrderedJson::parse(bytes);
  if (config.contains("quantization_config") && !config["quantization_config"].is_null()) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "%s: quantization_config is there: what is FP8 or packed is not packed anew", path));
  }
  config["quantization_config"] = {{"quant_method", NameOfPacked(form)}, {"group_size", kGroup}};
  return config.dump(2) + "\n";
}

// The files beside the tensors', as they are.
std::vector<fs::path> OtherFiles(const std::string& directory, const Packer& packer) {
  std::vector<fs::path> others;
  const std::set<std::string> made = {kConfigName, kWeightMapName, kManifestName};
  std::error_code error;
  for (fs::directory_iterator at(directory, error); !error && at != fs::directory_iterator();
       at.increment(error)) {
    const fs::path& path = at->path();
    const std::string name = path.filename().string();
    if (made.contains(name) || packer.Has(name) || path.extension() == ".safetensors") continue;
    std::error_code ignored;
    if (fs::is_regular_file(path, ignored)) others.push_back(path);
  }
  std::sort(others.begin(), others.end());
  return others;
}

absl::Status CheckRoom(const fs::path& to, uint64_t bytes) {
  std::error_code error;
  const fs::space_info space = fs::space(to, error);
  if (error || space.available >= bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrFormat("%s: %d bytes are to be written, and there is room for %d", to.string(),
                      bytes, space.available));
}

absl::StatusOr<std::string> Copy(const fs::path& from, const fs::path& to) {
  CONCLAVE_ASSIGN_OR_RETURN(const auto file, MappedFile::Open(from.string()));
  CONCLAVE_ASSIGN_OR_RETURN(const std::unique_ptr<Output> output, Output::Create(to));
  std::string piece;
  for (uint64_t at = 0; at < file->size(); at += piece.size()) {
    piece.resize(std::min<uint64_t>(kCopyBytes, file->size() - at));
    CONCLAVE_RETURN_IF_ERROR(file->ReadAt(at, piece.size(), piece.data()));
    CONCLAVE_RETURN_IF_ERROR(output->Write(piece));
  }
  return output->Close();
}

absl::StatusOr<std::string> WriteText(const fs::path& to, const std::string& text) {
  CONCLAVE_ASSIGN_OR_RETURN(const std::unique_ptr<Output> output, Output::Create(to));
  CONCLAVE_RETURN_IF_ERROR(output->Write(text));
  return output->Close();
}

}  // namespace

absl::Status PackCheckpoint(const std::string& from, const std::string& to,
                            const PackOptions& options) {
  fs::path target = fs::absolute(to).lexically_normal();
  if (!target.has_filename()) target = target.parent_path();
  std::error_code ignored;
  if (fs::symlink_status(target, ignored).type() != fs::file_type::not_found)
    return absl::AlreadyExistsError(to + " is there already");
  CONCLAVE_ASSIGN_OR_RETURN(const std::string config, ConfigText(from, options.experts_as));
  // Refuses what could not be read back; nothing is packed by it.
  uint64_t bytes = 0;
  for (const fs::directory_entry& file : fs::directory_iterator(from, ignored)) {
    std::error_code none;
    const uint64_t size = file.file_size(none);
    bytes += none ? 0 : size;
  }
  CONCLAVE_ASSIGN_OR_RETURN(
      const std::shared_ptr<const Model> model,
      Model::Load(from, {.converted_bytes = static_cast<int64_t>(2 * bytes) + (int64_t{1} << 20),
                         .experts_as = options.experts_as,
                         .hold_experts = false}));
  Packer packer(*model, options);
  const std::vector<fs::path> others = OtherFiles(from, packer);
  uint64_t room = packer.total();
  for (const fs::path& other : others) room += fs::file_size(other, ignored);
  CONCLAVE_RETURN_IF_ERROR(CheckRoom(target.parent_path(), room));

  CONCLAVE_ASSIGN_OR_RETURN(const std::unique_ptr<Draft> draft, Draft::Make(target));
  std::map<std::string, std::string> digests;
  CONCLAVE_ASSIGN_OR_RETURN(digests[kConfigName], WriteText(draft->path() / kConfigName, config));
  for (const fs::path& other : others) {
    const std::string name = other.filename().string();
    if (fs::file_size(other, ignored) == 0) {
      CONCLAVE_ASSIGN_OR_RETURN(digests[name], WriteText(draft->path() / name, ""));
    } else {
      CONCLAVE_ASSIGN_OR_RETURN(digests[name], Copy(other, draft->path() / name));
    }
  }
  OrderedJson index = {{"metadata", {{"total_size", packer.total()}}},
                       {"weight_map", OrderedJson::object()}};
  for (const std::string& name : packer.files()) {
    CONCLAVE_ASSIGN_OR_RETURN(digests[name], packer.WriteFile(name, draft->path() / name));
    packer.AddTo(name, index["weight_map"]);
  }
  if (fs::exists(from + "/" + kWeightMapName, ignored)) {
    CONCLAVE_ASSIGN_OR_RETURN(digests[kWeightMapName],
                              WriteText(draft->path() / kWeightMapName, index.dump(2) + "\n"));
  }
  if (fs::exists(from + "/" + kManifestName, ignored)) {
    std::string sums;
    for (const auto& [name, digest] : digests)
      sums += absl::BytesToHexString(digest) + "  " + name + "\n";
    CONCLAVE_RETURN_IF_ERROR(WriteText(draft->path() / kManifestName, sums).status());
  }
  return draft->Become(target);
}

}  // namespace conclave::worker

#include "services/cli/trace_writer.h"

#include <unistd.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <set>
#include <system_error>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "scheduler/check.h"
#include "services/cli/json.h"
#include "worker/model/half.h"
#include "worker/status.h"

namespace conclave::services::cli {
namespace {

namespace fs = std::filesystem;

constexpr uint32_t kMostExperts = 65536;  // slots are uint16
constexpr size_t kNpyHeaderBytes = 128;   // room for any shape; a multiple of 64, as NumPy asks

template <typename T>
void PutLittleEndian(T value, std::string* bytes) {
  for (size_t i = 0; i < sizeof(T); ++i) {
    bytes->push_back(static_cast<char>(value >> (8 * i) & 0xFF));
  }
}

template <typename T>
T GetLittleEndian(const std::string& bytes, size_t index) {
  T value = 0;
  for (size_t i = 0; i < sizeof(T); ++i) {
    const auto byte = static_cast<uint8_t>(bytes[index * sizeof(T) + i]);
    value = static_cast<T>(value | static_cast<T>(byte) << (8 * i));
  }
  return value;
}

bool IsFileName(const std::string& name) {
  constexpr size_t kMaxBytes = 128;
  if (name.empty() || name.size() > kMaxBytes || name[0] == '.') return false;
  return name.find_first_not_of(
             "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
             "._-") == std::string::npos;
}

absl::Status CheckMixName(const std::string& name, bool is_new) {
  if (!IsFileName(name) || name == "trace") {
    return absl::InvalidArgumentError(
        absl::StrFormat("mix \"%s\": a name is made of letters, digits, '.', '_' and '-'", name));
  }
  if (is_new) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat("mix \"%s\" is given twice", name));
}

}  // namespace

absl::StatusOr<NpyFile> NpyFile::Create(const std::string& path, const std::string& type,
                                        const std::vector<size_t>& row_shape) {
  NpyFile file(path, type, row_shape);
  if (!file.file_) return absl::UnavailableError(absl::StrFormat("cannot create \"%s\"", path));
  file.file_ << file.Header(0);
  return file;
}

NpyFile::NpyFile(const std::string& path, const std::string& type,
                 const std::vector<size_t>& row_shape)
    : path_(path), type_(type), row_shape_(row_shape), file_(path, std::ios::binary) {}

absl::Status NpyFile::Finish(size_t rows) {
  file_.seekp(0);
  file_ << Header(rows);
  file_.close();
  if (file_) return absl::OkStatus();
  return absl::UnavailableError(absl::StrFormat("cannot write \"%s\"", path_));
}

std::string NpyFile::Header(size_t rows) const {
  std::string shape = absl::StrFormat("(%d,", rows);
  for (const size_t length : row_shape_) absl::StrAppendFormat(&shape, " %d,", length);
  std::string text =
      absl::StrFormat("{'descr': '%s', 'fortran_order': False, 'shape': %s), }", type_, shape);
  std::string header("\x93NUMPY\x01\x00", 8);
  PutLittleEndian(static_cast<uint16_t>(kNpyHeaderBytes - 10), &header);
  CONCLAVE_CHECK(header.size() + text.size() < kNpyHeaderBytes);
  text.resize(kNpyHeaderBytes - header.size() - 1, ' ');
  return header + text + "\n";
}

class TraceWriter::Draft {
 public:
  static absl::StatusOr<std::unique_ptr<Draft>> Begin(const std::string& directory) {
    std::error_code error;
    const fs::path normal = fs::absolute(directory, error).lexically_normal();
    const fs::path target = normal.has_filename() ? normal : normal.parent_path();
    if (fs::exists(target, error) &&
        !(fs::is_directory(target, error) && fs::is_empty(target, error))) {
      return absl::AlreadyExistsError(absl::StrFormat(
          "\"%s\" is there already, and no empty directory: choose another --out", directory));
    }
    const fs::path path = target.string() + absl::StrFormat(".partial-%d", getpid());
    fs::create_directories(path, error);
    if (error) {
      return absl::UnavailableError(
          absl::StrFormat("cannot make the directory \"%s\": %s", path.string(), error.message()));
    }
    return std::unique_ptr<Draft>(new Draft(path, target));
  }
  ~Draft() {
    std::error_code ignored;
    if (!kept_) fs::remove_all(path_, ignored);
  }
  Draft(const Draft&) = delete;
  Draft& operator=(const Draft&) = delete;

  std::string File(const std::string& name) const { return (path_ / name).string(); }

  // What was recorded is too dear to be thrown away for its name.
  absl::Status Keep() {
    kept_ = true;
    std::error_code error;
    fs::rename(path_, target_, error);
    if (!error) return absl::OkStatus();
    return absl::UnavailableError(absl::StrFormat("cannot rename \"%s\", the trace, to \"%s\": %s",
                                                  path_.string(), target_.string(),
                                                  error.message()));
  }

 private:
  Draft(fs::path path, fs::path target) : path_(std::move(path)), target_(std::move(target)) {}

  const fs::path path_, target_;
  bool kept_ = false;
};

absl::Status TraceWriter::CheckMixNames(const std::vector<std::string>& names) {
  std::set<std::string> seen;
  for (const std::string& name : names) {
    CONCLAVE_RETURN_IF_ERROR(CheckMixName(name, seen.insert(name).second));
  }
  return absl::OkStatus();
}

absl::StatusOr<TraceWriter> TraceWriter::Create(const std::string& directory) {
  CONCLAVE_ASSIGN_OR_RETURN(std::unique_ptr<Draft> draft, Draft::Begin(directory));
  return TraceWriter(std::move(draft));
}

TraceWriter::TraceWriter(std::unique_ptr<Draft> draft) : draft_(std::move(draft)) {}
TraceWriter::TraceWriter(TraceWriter&&) noexcept = default;
TraceWriter::~TraceWriter() = default;

absl::Status TraceWriter::BeginMix(const std::string& name, const std::string& adapter) {
  CONCLAVE_RETURN_IF_ERROR(CheckMixName(name, mixes_.emplace(name, adapter).second));
  name_ = name;
  experts_.reset();
  weights_.reset();
  lengths_.clear();
  tokens_ = 0;
  sequence_tokens_ = 0;
  return absl::OkStatus();
}

absl::Status TraceWriter::Add(const v1::Routing& routing) {
  size_t tokens = 0;
  CONCLAVE_RETURN_IF_ERROR(CheckRouting(routing, &tokens));
  if (shape_.layers == 0) {
    shape_ = {routing.layers(),
              routing.top_k(),
              routing.experts(),
              {routing.layer_indices().begin(), routing.layer_indices().end()}};
  }
  if (experts_ == nullptr) CONCLAVE_RETURN_IF_ERROR(OpenFiles());
  const size_t count = tokens * shape_.layers * shape_.top_k;
  std::string experts, weights;
  for (size_t i = 0; i < count; ++i) {
    const auto slot = GetLittleEndian<uint16_t>(routing.slots(), i);
    const auto weight = std::bit_cast<float>(GetLittleEndian<uint32_t>(routing.weights(), i));
    if (slot >= shape_.experts || !std::isfinite(weight)) {
      return absl::DataLossError(
          absl::StrFormat("routing: expert %d of %d with weight %g", slot, shape_.experts, weight));
    }
    if (shape_.experts <= 256) {
      experts.push_back(static_cast<char>(slot));
    } else {
      PutLittleEndian(slot, &experts);
    }
    PutLittleEndian(worker::ToF16(weight), &weights);
  }
  experts_->Append(experts);
  weights_->Append(weights);
  sequence_tokens_ += tokens;
  return absl::OkStatus();
}

absl::Status TraceWriter::CheckRouting(const v1::Routing& routing, size_t* tokens) const {
  const Shape shape = {routing.layers(),
                       routing.top_k(),
                       routing.experts(),
                       {routing.layer_indices().begin(), routing.layer_indices().end()}};
  const size_t per_token = size_t{shape.layers} * shape.top_k;
  if (per_token == 0 || shape.experts == 0 || shape.experts > kMostExperts ||
      shape.layer_indices.size() != shape.layers) {
    return absl::DataLossError(absl::StrFormat("routing: %d layers (%d named), %d experts, top %d",
                                               shape.layers, shape.layer_indices.size(),
                                               shape.experts, shape.top_k));
  }
  if (shape_.layers != 0 && shape != shape_) {
    return absl::DataLossError("routing: the model's layers or experts changed on the way");
  }
  *tokens = routing.slots().size() / (per_token * sizeof(uint16_t));
  if (routing.slots().size() != *tokens * per_token * sizeof(uint16_t) ||
      routing.weights().size() != *tokens * per_token * sizeof(float)) {
    return absl::DataLossError(
        absl::StrFormat("routing: %d bytes of slots and %d of weights are no whole tokens",
                        routing.slots().size(), routing.weights().size()));
  }
  return absl::OkStatus();
}

absl::Status TraceWriter::OpenFiles() {
  const std::vector<size_t> row_shape = {shape_.layers, shape_.top_k};
  const std::string prefix = draft_->File(name_);
  CONCLAVE_ASSIGN_OR_RETURN(
      NpyFile experts,
      NpyFile::Create(prefix + ".experts.npy", shape_.experts <= 256 ? "|u1" : "<u2", row_shape));
  CONCLAVE_ASSIGN_OR_RETURN(NpyFile weights,
                            NpyFile::Create(prefix + ".weights.npy", "<f2", row_shape));
  experts_ = std::make_unique<NpyFile>(std::move(experts));
  weights_ = std::make_unique<NpyFile>(std::move(weights));
  return absl::OkStatus();
}

absl::Status TraceWriter::EndSequence(size_t tokens) {
  if (sequence_tokens_ != tokens) {
    return absl::DataLossError(
        absl::StrFormat("sequence of %d tokens came with routing of %d", tokens, sequence_tokens_));
  }
  lengths_.push_back(static_cast<int32_t>(tokens));
  tokens_ += tokens;
  sequence_tokens_ = 0;
  return absl::OkStatus();
}

absl::Status TraceWriter::EndMix() {
  if (tokens_ == 0) {
    return absl::FailedPreconditionError(absl::StrFormat("mix \"%s\" has no tokens", name_));
  }
  CONCLAVE_RETURN_IF_ERROR(experts_->Finish(tokens_));
  CONCLAVE_RETURN_IF_ERROR(weights_->Finish(tokens_));
  CONCLAVE_ASSIGN_OR_RETURN(NpyFile lengths,
                            NpyFile::Create(draft_->File(name_ + ".lengths.npy"), "<i4", {}));
  std::string bytes;
  for (const int32_t length : lengths_) PutLittleEndian(static_cast<uint32_t>(length), &bytes);
  lengths.Append(bytes);
  return lengths.Finish(lengths_.size());
}

absl::Status TraceWriter::Finish() {
  if (shape_.layers == 0) return absl::FailedPreconditionError("nothing was recorded");
  Json mixes = Json::object();
  for (const auto& [name, adapter] : mixes_) mixes[name] = {{"adapter", adapter}};
  const Json json = {{"experts", shape_.experts},
                     {"top_k", shape_.top_k},
                     {"layers", shape_.layer_indices},
                     {"mixes", std::move(mixes)}};
  const std::string path = draft_->File("trace.json");
  std::ofstream file(path, std::ios::binary);
  file << json.dump() << "\n";
  file.close();
  if (!file) return absl::UnavailableError(absl::StrFormat("cannot write \"%s\"", path));
  return draft_->Keep();
}

}  // namespace conclave::services::cli

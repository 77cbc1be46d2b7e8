#include "worker/model/converted_weights.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <thread>

#include "absl/strings/str_format.h"
#include "scheduler/check.h"
#include "worker/device/packed.h"
#include "worker/model/json.h"
#include "worker/model/pages.h"
#include "worker/model/widen.h"
#include "worker/status.h"

namespace conclave::worker {
namespace {

constexpr int64_t kAlignment = 64;  // of a weight: a line of the cache

absl::StatusOr<std::string> Read(const MappedFiles::Tensor& tensor, uint64_t begin,
                                 uint64_t bytes) {
  std::string content(bytes, '\0');
  CONCLAVE_RETURN_IF_ERROR(tensor.file->ReadAt(tensor.entry->begin + begin, bytes, content.data()));
  return content;
}

absl::Status NotFinite(const MappedFiles::Tensor& tensor, int64_t index) {
  return absl::InvalidArgumentError(
      absl::StrFormat("%s: tensor \"%s\" has a value that is not finite, number %d",
                      tensor.file->path(), Printable(tensor.entry->name), index));
}

absl::Status CannotPack(const MappedFiles::Tensor& tensor, int64_t index, float value, DType type) {
  if (!std::isfinite(value)) return NotFinite(tensor, index);
  return absl::InvalidArgumentError(absl::StrFormat(
      "%s: tensor \"%s\" has %g as number %d, too large for %s", tensor.file->path(),
      Printable(tensor.entry->name), value, index, TypeName(type)));
}

absl::Status CheckPackable(const MappedFiles::Tensor& from, DType type, int64_t rows,
                           int64_t cols) {
  if (CanPack(rows, cols)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat(
      "%s: tensor \"%s\" has matrices of %d x %d, and %s takes multiples of %d x %d, up to %d wide",
      from.file->path(), Printable(from.entry->name), rows, cols, TypeName(type), kBand, kGroup,
      kMaxPackedCols));
}

// Of a packed group: it has no number but zeros, of either sign.
bool IsZero(std::string_view group, DType type) {
  const int sizes = type == DType::kMxFp4 ? 0x77 : 0xff;
  return std::all_of(group.begin(), group.end(), [=](char byte) { return (byte & sizes) == 0; });
}

// In squares, so that neither side is walked with a long stride for long.
template <typename Number>
void Gather(const char* from, const ConvertedWeights::Part& part, void* to) {
  constexpr int64_t kSide = 32;
  const auto* numbers = reinterpret_cast<const Number*>(from);
  auto* out = static_cast<Number*>(to);
  for (int64_t r0 = 0; r0 < part.rows; r0 += kSide) {
    for (int64_t c0 = 0; c0 < part.cols; c0 += kSide) {
      for (int64_t r = r0; r < std::min(part.rows, r0 + kSide); ++r) {
        const int64_t first = part.first + r * part.row_step;
        for (int64_t c = c0; c < std::min(part.cols, c0 + kSide); ++c) {
          out[r * part.cols + c] = numbers[first + c * part.column_step];
        }
      }
    }
  }
}

// values times factor, as the type; the index of the first result that is not finite, or -1.
int64_t Scale(const char* values, int64_t count, float factor, DType type, char* out) {
  const std::array<float, 256>& table = Fp8Values();
  for (int64_t i = 0; i < count; ++i) {
    const float value = table[static_cast<unsigned char>(values[i])] * factor;
    if (!std::isfinite(value)) return i;
    if (type == DType::kBF16) {
      const uint16_t rounded = ToBf16(value);
      std::memcpy(out + 2 * i, &rounded, sizeof(rounded));
    } else {
      std::memcpy(out + 4 * i, &value, sizeof(value));
    }
  }
  return -1;
}

}  // namespace

ConvertedWeights::~ConvertedWeights() {
  if (data_ != nullptr) munmap(data_, static_cast<size_t>(bytes_limit_));
}

absl::StatusOr<Weight> ConvertedWeights::Place(const MappedFiles::Tensor& from, DType type,
                                               int64_t rows, int64_t cols) {
  if (IsPacked(type)) CONCLAVE_RETURN_IF_ERROR(CheckPackable(from, type, rows, cols));
  Weight weight = {nullptr, type, rows, cols};
  const auto aligned = [](size_t bytes) {
    return (static_cast<int64_t>(bytes) + kAlignment - 1) / kAlignment * kAlignment;
  };
  const int64_t taken = aligned(weight.bytes()) + aligned(weight.scale_bytes());
  if (taken > bytes_limit_ - bytes_) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "%s: tensor \"%s\" and others must be converted at load, which takes more than the limit "
        "of %d bytes: raise converted-bytes",
        from.file->path(), Printable(from.entry->name), bytes_limit_));
  }
  if (data_ == nullptr) {
    void* data = mmap(nullptr, static_cast<size_t>(bytes_limit_), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED) {
      return absl::ResourceExhaustedError(
          absl::StrFormat("%d bytes of address space for converted weights: %s", bytes_limit_,
                          std::strerror(errno)));
    }
    data_ = static_cast<char*>(data);
  }
  weight.data = data_ + bytes_;
  if (IsPacked(type)) {
    weight.scales = reinterpret_cast<const uint8_t*>(data_ + bytes_ + aligned(weight.bytes()));
  }
  bytes_ += taken;
  return weight;
}

void ConvertedWeights::Plan(Job job, int64_t expert) {
  (expert == kNobodys ? jobs_ : of_experts_[expert]).push_back(std::move(job));
}

absl::StatusOr<std::vector<Weight>> ConvertedWeights::Rearrange(const Run& run,
                                                                std::span<const Part> parts,
                                                                DType type, int64_t expert) {
  CONCLAVE_CHECK(type == run.type || (IsPacked(type) && run.type == DType::kBF16));
  Job job = {.from = run, .parts = {parts.begin(), parts.end()}};
  for (const Part& part : parts) {
    const int64_t last =
        part.first + (part.rows - 1) * part.row_step + (part.cols - 1) * part.column_step;
    CONCLAVE_CHECK(static_cast<uint64_t>(last + 1) * SizeOf(run.type) <= run.bytes);
    CONCLAVE_ASSIGN_OR_RETURN(const Weight to, Place(run.tensor, type, part.rows, part.cols));
    job.to.push_back(to);
  }
  const std::vector<Weight> to = job.to;
  Plan(std::move(job), expert);
  return to;
}

absl::StatusOr<Weight> ConvertedWeights::Pack(const MappedFiles::Tensor& tensor, int64_t rows,
                                              int64_t cols, DType type, int64_t first_expert,
                                              int64_t experts) {
  CONCLAVE_CHECK(IsPacked(type) && rows % experts == 0);
  const int64_t share = rows / experts;
  CONCLAVE_RETURN_IF_ERROR(CheckPackable(tensor, type, share, cols));
  CONCLAVE_ASSIGN_OR_RETURN(const Weight whole, Place(tensor, type, rows, cols));
  const auto bytes = static_cast<uint64_t>(share * cols) * SizeOf(DType::kBF16);
  CONCLAVE_CHECK(tensor.entry->end - tensor.entry->begin == static_cast<uint64_t>(experts) * bytes);
  for (int64_t i = 0; i < experts; ++i) {
    const Run run = {tensor, DType::kBF16, static_cast<uint64_t>(i) * bytes, bytes};
    Plan({.from = run,
          .parts = {{.rows = share, .cols = cols, .row_step = cols}},
          .to = {whole.Slice(i * share, share)}},
         first_expert == kNobodys ? kNobodys : first_expert + i);
  }
  return whole;
}

absl::StatusOr<Weight> ConvertedWeights::Dequantise(const MappedFiles::Tensor& matrix,
                                                    const MappedFiles::Tensor& factors,
                                                    const Fp8Blocks& blocks, DType type,
                                                    int64_t expert) {
  CONCLAVE_CHECK(matrix.entry->shape.size() == 2 && type != DType::kF16);
  CONCLAVE_CHECK(factors.entry->shape.size() == 2 && ComputeType(factors.entry->type));
  CONCLAVE_ASSIGN_OR_RETURN(const Weight to,
                            Place(matrix, type, matrix.entry->shape[0], matrix.entry->shape[1]));
  const Run run = {.tensor = matrix, .begin = 0, .bytes = matrix.entry->end - matrix.entry->begin};
  Plan({.from = run, .to = {to}, .factors = factors, .blocks = blocks}, expert);
  return to;
}

absl::StatusOr<std::vector<Weight>> ConvertedWeights::TakeRows(const PackedTensor& packed,
                                                               std::span<const Part> parts,
                                                               int64_t first_expert,
                                                               int64_t experts) {
  const auto share = [&](const MappedFiles::Tensor& tensor, int64_t i) {
    const uint64_t bytes =
        (tensor.entry->end - tensor.entry->begin) / static_cast<uint64_t>(experts);
    return Run{tensor, packed.type, static_cast<uint64_t>(i) * bytes, bytes};
  };
  std::vector<Weight> all;
  for (int64_t i = 0; i < experts; ++i) {
    Job job = {.from = share(packed.blocks, i),
               .parts = {parts.begin(), parts.end()},
               .scales = share(packed.scales, i)};
    for (const Part& part : parts) {
      CONCLAVE_ASSIGN_OR_RETURN(const Weight to,
                                Place(packed.blocks, packed.type, part.rows, part.cols));
      const int64_t last = part.first + (part.rows - 1) * part.row_step;
      CONCLAVE_CHECK(static_cast<uint64_t>((last + 1) * part.cols / kGroup) <= job.scales.bytes);
      job.to.push_back(to);
      all.push_back(to);
    }
    Plan(std::move(job), first_expert == kNobodys ? kNobodys : first_expert + i);
  }
  return all;
}

void ConvertedWeights::CheckScales(const MappedFiles::Tensor& scales, int64_t first_expert,
                                   int64_t experts) {
  const uint64_t bytes = (scales.entry->end - scales.entry->begin) / static_cast<uint64_t>(experts);
  for (int64_t i = 0; i < experts; ++i) {
    Plan({.scales = {.tensor = scales, .begin = static_cast<uint64_t>(i) * bytes, .bytes = bytes}},
         first_expert == kNobodys ? kNobodys : first_expert + i);
  }
}

absl::Status ConvertedWeights::Do(const Job& job) {
  std::string content;
  if (job.from.tensor.entry != nullptr) {
    CONCLAVE_ASSIGN_OR_RETURN(content, Read(job.from.tensor, job.from.begin, job.from.bytes));
  }
  if (job.scales.tensor.entry != nullptr) return DoPacked(job, content.data());
  for (size_t p = 0; p < job.parts.size(); ++p)
    CONCLAVE_RETURN_IF_ERROR(DoPart(job, p, content.data()));
  return job.factors.entry == nullptr ? absl::OkStatus() : DoFp8(job, content.data());
}

absl::Status ConvertedWeights::DoPart(const Job& job, size_t part, const char* content) {
  const Part& from = job.parts[part];
  const Weight& to = job.to[part];
  if (IsPacked(to.type)) {
    std::vector<uint16_t> numbers(static_cast<size_t>(to.rows * to.cols));
    Gather<uint16_t>(content, from, numbers.data());
    const std::optional<int64_t> bad = PackNumbers(numbers.data(), to);
    if (!bad) return absl::OkStatus();
    return CannotPack(job.from.tensor,
                      static_cast<int64_t>(job.from.begin / SizeOf(job.from.type)) + from.first +
                          *bad / to.cols * from.row_step + *bad % to.cols * from.column_step,
                      FromBf16(numbers[static_cast<size_t>(*bad)]), to.type);
  }
  void* const data = const_cast<void*>(to.data);
  SizeOf(job.from.type) == 2 ? Gather<uint16_t>(content, from, data)
                             : Gather<uint32_t>(content, from, data);
  return absl::OkStatus();
}

absl::Status ConvertedWeights::DoPacked(const Job& job, const char* content) {
  const Run& run = job.scales;
  CONCLAVE_ASSIGN_OR_RETURN(const std::string scales, Read(run.tensor, run.begin, run.bytes));
  const auto taken = [&](int64_t i) {
    const auto scale = static_cast<unsigned char>(scales[static_cast<size_t>(i)]);
    return scale >= kLeastScale && scale <= kGreatestScale;
  };
  const auto refuse = [&](int64_t i) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: tensor \"%s\" has 2^%d as number %d, taken are 2^%d to 2^%d",
                        run.tensor.file->path(), Printable(run.tensor.entry->name),
                        static_cast<unsigned char>(scales[static_cast<size_t>(i)]) - kScaleBias,
                        static_cast<int64_t>(run.begin) + i, kLeastScale - kScaleBias,
                        kGreatestScale - kScaleBias));
  };
  if (job.parts.empty()) {
    for (int64_t i = 0; i < std::ssize(scales); ++i) {
      if (!taken(i)) return refuse(i);
    }
  }
  for (size_t p = 0; p < job.parts.size(); ++p) {
    const Part& part = job.parts[p];
    const Weight& to = job.to[p];
    const auto bytes = static_cast<size_t>(kGroup * BitsOf(to.type) / 8);
    for (int64_t i = 0; i < part.rows * part.cols; i += kGroup) {
      const int64_t row = part.first + i / part.cols * part.row_step;
      const int64_t from = (row * part.cols + i % part.cols) / kGroup;
      const int64_t g = GroupOf(to.cols, i / part.cols, i % part.cols);
      const std::string_view group = {content + static_cast<size_t>(from) * bytes, bytes};
      if (!taken(from) && !IsZero(group, to.type)) return refuse(from);
      std::memcpy(static_cast<char*>(const_cast<void*>(to.data)) + static_cast<size_t>(g) * bytes,
                  group.data(), bytes);
      // Of zeros a scale says nothing.
      const_cast<uint8_t*>(to.scales)[g] =
          taken(from) ? static_cast<uint8_t>(scales[static_cast<size_t>(from)]) : kScaleBias;
    }
  }
  return absl::OkStatus();
}

absl::Status ConvertedWeights::DoFp8(const Job& job, const char* content) {
  const TensorEntry& entry = *job.factors.entry;
  CONCLAVE_ASSIGN_OR_RETURN(const std::string factor_bytes,
                            Read(job.factors, 0, entry.end - entry.begin));
  const std::vector<float> factors = Widen(
      {factor_bytes.data(), *ComputeType(entry.type), entry.shape.front(), entry.shape.back()});
  const Weight& to = job.to[0];
  const bool packed = IsPacked(to.type);
  const DType type = packed ? DType::kBF16 : to.type;
  std::vector<uint16_t> numbers(packed ? static_cast<size_t>(to.rows * to.cols) : 0);
  char* const out = packed ? reinterpret_cast<char*>(numbers.data())
                           : static_cast<char*>(const_cast<void*>(to.data));
  const int64_t across = entry.shape.back();
  for (int64_t r = 0; r < to.rows; ++r) {
    for (int64_t b = 0; b < across; ++b) {
      const int64_t at = r * to.cols + b * job.blocks.cols;
      const int64_t count = std::min(job.blocks.cols, to.cols - b * job.blocks.cols);
      const int64_t block = r / job.blocks.rows * across + b;
      const float factor = factors[static_cast<size_t>(block)];
      if (!std::isfinite(factor)) return NotFinite(job.factors, block);
      const int64_t bad =
          Scale(content + at, count, factor, type, out + at * static_cast<int64_t>(SizeOf(type)));
      if (bad >= 0) return NotFinite(job.from.tensor, at + bad);
    }
  }
  if (!packed) return absl::OkStatus();
  const std::optional<int64_t> bad = PackNumbers(numbers.data(), to);
  if (!bad) return absl::OkStatus();
  return CannotPack(job.from.tensor, *bad, FromBf16(numbers[static_cast<size_t>(*bad)]), to.type);
}

absl::Status ConvertedWeights::DoAll(std::span<const Job* const> jobs, int threads) {
  std::vector<absl::Status> results(jobs.size());
  std::atomic<size_t> next = 0;
  std::atomic<bool> failed = false;
  const auto work = [&] {
    for (size_t i = next++; i < jobs.size() && !failed; i = next++) {
      results[i] = Do(*jobs[i]);
      if (!results[i].ok()) failed = true;
    }
  };
  {
    std::vector<std::jthread> helpers;
    for (int i = 1; i < threads; ++i) helpers.emplace_back(work);
    work();
  }
  for (const absl::Status& result : results) CONCLAVE_RETURN_IF_ERROR(result);
  return absl::OkStatus();
}

absl::Status ConvertedWeights::Fill(int threads) {
  // Without, where there are none.
  if (data_ != nullptr) madvise(data_, static_cast<size_t>(bytes_), MADV_HUGEPAGE);
  std::vector<const Job*> jobs;
  for (const Job& job : jobs_) jobs.push_back(&job);
  const absl::Status done = DoAll(jobs, threads);
  jobs_.clear();
  return done;
}

absl::Status ConvertedWeights::Hold(std::span<const scheduler::ExpertId> experts,
                                    int threads) const {
  const std::lock_guard lock(mutex_);
  std::vector<const Job*> jobs;
  for (const scheduler::ExpertId expert : experts) {
    const auto found = of_experts_.find(expert);
    if (found == of_experts_.end() || held_.contains(expert)) continue;
    for (const Job& job : found->second) jobs.push_back(&job);
  }
  CONCLAVE_RETURN_IF_ERROR(DoAll(jobs, threads));
  held_.insert(experts.begin(), experts.end());
  return absl::OkStatus();
}

bool ConvertedWeights::Has(const Weight& weight) const {
  const auto* data = static_cast<const char*>(weight.data);
  return data_ != nullptr && data >= data_ && data < data_ + bytes_;
}

void ConvertedWeights::Drop(std::span<const scheduler::ExpertId> experts) const {
  const std::lock_guard lock(mutex_);
  for (const scheduler::ExpertId expert : experts) {
    const auto found = of_experts_.find(expert);
    if (found == of_experts_.end() || held_.erase(expert) == 0) continue;
    for (const Job& job : found->second) {
      for (const Weight& weight : job.to) GiveBackPages(weight);
    }
  }
}

}  // namespace conclave::worker

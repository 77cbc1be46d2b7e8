#pragma once
// Weights that cannot be computed with where they are mapped, in memory of their own: columns that
// stand where our rows do, interleaved rows, FP8 with its factors, what is to be packed. Everything
// else stays mapped.
//
// Conversions are first planned, each taking its share of reserved address space, of which no page
// exists yet; a checkpoint that would need more than the limit is refused before memory is taken.
// What belongs to no expert is converted when the model is loaded; an expert when somebody holds
// it, and its memory goes back when it is dropped.
//
// Threads: planning and Fill belong to the thread that loads a model. Hold and Drop: any thread;
// who reads an expert's weights has seen Hold return and knows that nobody drops it.

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "scheduler/types.h"
#include "worker/device/tensor.h"
#include "worker/model/mapped_files.h"
#include "worker/model/quantization.h"

namespace conclave::worker {

class ConvertedWeights {
 public:
  // No address space is reserved before the first conversion is planned.
  explicit ConvertedWeights(int64_t bytes_limit) : bytes_limit_(bytes_limit) {}
  ~ConvertedWeights();
  ConvertedWeights(const ConvertedWeights&) = delete;
  ConvertedWeights& operator=(const ConvertedWeights&) = delete;

  // A matrix in a run of a tensor's bytes: number (r, c) of it is number first + r * row_step + c *
  // column_step of the run.
  struct Part {
    int64_t rows = 0;
    int64_t cols = 0;
    int64_t first = 0;
    int64_t row_step = 0;
    int64_t column_step = 1;
  };
  struct Run {
    MappedFiles::Tensor tensor;
    DType type = DType::kF32;  // what the tensor's type is to us
    uint64_t begin = 0;        // byte of the tensor's data
    uint64_t bytes = 0;
  };

  // Both plan a conversion and return where its results will be. expert: whose; kNobodys: to be
  // done by Fill. RESOURCE_EXHAUSTED, naming file and numbers, beyond the limit.
  static constexpr int64_t kNobodys = -1;

  // Parts of a run, in order, in its type or, if that is BF16, packed.
  absl::StatusOr<std::vector<Weight>> Rearrange(const Run& run, std::span<const Part> parts,
                                                DType type, int64_t expert = kNobodys);
  // A tensor of BF16 packed as it is, as a matrix [rows, cols]; an equal share of it is each of
  // `experts`, the first of which is first_expert, or all of it nobody's.
  absl::StatusOr<Weight> Pack(const MappedFiles::Tensor& tensor, int64_t rows, int64_t cols,
                              DType type, int64_t first_expert, int64_t experts = 1);
  // A matrix that is packed in the files.
  struct PackedTensor {
    DType type = DType::kMxInt8;
    MappedFiles::Tensor blocks;
    MappedFiles::Tensor scales;
  };
  // Of one that is row by row, for each of `experts`, who have equal shares, the parts in order:
  // row r of a part is row first + r * row_step of the share.
  absl::StatusOr<std::vector<Weight>> TakeRows(const PackedTensor& packed,
                                               std::span<const Part> parts, int64_t first_expert,
                                               int64_t experts);
  // Nothing but that these, used where they are mapped, are scales that kernels take.
  void CheckScales(const MappedFiles::Tensor& scales, int64_t first_expert, int64_t experts);
  // A matrix [rows, cols] of F8_E4M3 times its factors, [ceil(rows / blocks.rows), ceil(cols /
  // blocks.cols)] of a type of ours, as `type`: F32, or BF16 rounded to nearest even as the
  // authors' fp8_cast_bf16.py does, or that packed.
  absl::StatusOr<Weight> Dequantise(const MappedFiles::Tensor& matrix,
                                    const MappedFiles::Tensor& factors, const Fp8Blocks& blocks,
                                    DType type, int64_t expert = kNobodys);

  // Does what was planned and is nobody's. Beside bytes() it takes one run at a time for each
  // thread. DATA_LOSS if a file has become shorter; INVALID_ARGUMENT, naming the tensor, for FP8
  // that is no finite number, for what cannot be packed, and for scales that are not taken.
  absl::Status Fill(int threads);
  // The same for these experts, where it is not done yet.
  absl::Status Hold(std::span<const scheduler::ExpertId> experts, int threads) const;
  // Gives back their memory, but for pages shared with others that are held.
  void Drop(std::span<const scheduler::ExpertId> experts) const;

  // Whether it lies here.
  bool Has(const Weight& weight) const;

  int64_t bytes() const { return bytes_; }  // planned

 private:
  struct Job {
    Run from;
    std::vector<Part> parts;
    std::vector<Weight> to;
    MappedFiles::Tensor factors;  // of FP8: to is one matrix, parts are none
    Fp8Blocks blocks;
    Run scales;  // of what is packed: parts are of rows, `from` has them; or `from` is none
  };

  absl::StatusOr<Weight> Place(const MappedFiles::Tensor& from, DType type, int64_t rows,
                               int64_t cols);
  void Plan(Job job, int64_t expert);
  static absl::Status DoPart(const Job& job, size_t part, const char* content);
  static absl::Status DoPacked(const Job& job, const char* content);
  static absl::Status DoFp8(const Job& job, const char* content);
  static absl::Status Do(const Job& job);
  static absl::Status DoAll(std::span<const Job* const> jobs, int threads);

  const int64_t bytes_limit_;
  char* data_ = nullptr;
  int64_t bytes_ = 0;
  std::vector<Job> jobs_;  // nobody's; until Fill
  std::map<int64_t, std::vector<Job>> of_experts_;
  mutable std::mutex mutex_;  // guards held_, and what is written for experts
  mutable std::set<int64_t> held_;
};

}  // namespace conclave::worker

#pragma once
// The device of CPU cores: weights are read where they are mapped, activations are rounded into
// scratch memory, and work is cut into tasks of (rows of the batch) x (rows of weights) that the
// pool's threads claim.
//
// Nothing is allocated after construction. Which task computes an output never changes it:
// kernels.h fixes the order of every sum. One source file per group of operations.

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "worker/device/cpu/kernels.h"
#include "worker/device/cpu/thread_pool.h"
#include "worker/device/device.h"

namespace conclave::worker {

// Zeroed pages of the system, given back at the end; resident once touched.
class Pages {
 public:
  Pages() = default;
  Pages(void* data, size_t bytes) : data_(data), bytes_(bytes) {}
  Pages(Pages&& other) noexcept;
  Pages& operator=(Pages&& other) noexcept;
  ~Pages();

  // Makes all of it resident; RESOURCE_EXHAUSTED, naming it, if the system has not so much left.
  absl::Status TakeNow(std::string_view name);

  // Aligned to a page; RESOURCE_EXHAUSTED, naming it, if the system has none.
  static absl::StatusOr<Pages> Map(size_t bytes, std::string_view name);
  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

class CpuDevice final : public Device {
 public:
  // `level` is the name of `kernels`, which the CPU can run. options.threads >= 1.
  static absl::StatusOr<std::unique_ptr<Device>> Create(const CpuDeviceOptions& options,
                                                        const char* level,
                                                        const cpu::Kernels& kernels);

  std::string numerics() const override;
  DType activation_type() const override { return options_.activation_type; }

  void Embed(Weight table, std::span<const int32_t> ids, Rows out) override;
  void RmsNorm(ConstRows x, Weight weight, float eps, Rows out) override;
  void MatMul(ConstRows x, Weight weight, Weight bias, Inputs inputs, Rows out) override;
  void MatMulPerHead(ConstRows x, Weight weight, const HeadMatMul& shape, Rows out) override;
  void Clip(Rows x, float limit) override;
  void ScaleBySigmoid(ConstRows logits, Rows x) override;
  void Rope(ConstRows x, const RopeColumns& columns, const BatchPlaces& places,
            const RopeTable& table, Rows out) override;
  void StoreKv(ConstRows x, const BatchPlaces& places, int64_t column, KvLayer cache) override;
  void CopyKv(KvLayer cache, int32_t from, int32_t to) override;
  void Attention(ConstRows q, const AttentionShape& shape, const BatchPlaces& places, KvLayer cache,
                 Rows out) override;
  void Gate(ConstRows logits, const GateShape& shape, const float* bias, std::span<int32_t> slots,
            std::span<float> weights) override;
  void Experts(ConstRows x, std::span<const ExpertWork> work, Rows out) override;
  void Combine(ConstRows outputs, std::span<const float> weights, int32_t top_k, ConstRows shared,
               Rows hidden) override;
  void Add(ConstRows y, Rows x) override;
  void Gather(ConstRows x, std::span<const int32_t> rows, Rows out) override;
  void Sample(Rows logits, std::span<const SampleRow> rows, std::span<SampledToken> out) override;
  absl::StatusOr<void*> Allocate(size_t bytes, std::string_view name, Take take) override;

 private:
  CpuDevice(const CpuDeviceOptions& options, const char* level, const cpu::Kernels& kernels);

  // Activations as a product reads them: BF16 where the kernel multiplies BF16, packed where it
  // multiplies tiles, else fp32 rounded to the activation type.
  struct Operand {
    const char* data = nullptr;
    int64_t stride = 0;  // bytes
    bool bf16 = false;
    // Of packed rows: where a panel begins, r a multiple of kPanelRows.
    const void* row(int64_t r) const { return data + r * stride; }
  };
  bool MultipliesBf16(Weight weight) const;
  int64_t OperandRowBytes(int64_t cols, bool bf16) const;
  // Of the batch in one task of a product of such operands.
  int64_t TaskRows(bool bf16) const;
  // Rounds m <= kPanelRows rows into operand memory of their own.
  void RoundRows(const float* const* x, int64_t m, int64_t cols, bool bf16, void* out) const;
  cpu::Kernels::Dot DotFor(const Operand& x, Weight weight) const;
  // Rows [first, first + count) of x as inputs of a product with `weight`, rounded into scratch
  // memory if need be.
  Operand Prepare(ConstRows x, int64_t first, int64_t count, Weight weight, Inputs inputs);
  // out[i][j] = x row i * weight row j for i < rows, j in columns [first, first + count); of a
  // packed weight those are whole bands, whose rows take their turn in the thread's scratch memory.
  void DotRows(const Operand& x, int64_t x_first, int64_t rows, Weight weight, int64_t first,
               int64_t count, int thread, float* const* out) const;
  void DotPlainRows(const Operand& x, int64_t x_first, int64_t rows, Weight weight, int64_t first,
                    int64_t count, float* const* out) const;
  void DotPackedRows(const Operand& x, int64_t x_first, int64_t rows, Weight weight, int64_t first,
                     int64_t count, int thread, float* const* out) const;

  // Adds columns [first, first + count) of a bias to rows of results.
  void AddBias(Weight bias, int64_t first, int64_t count, int64_t rows, float* const* out) const;

  void Softmax(const float* x, int64_t n, float* out) const;

  bool GateUpInBf16(const FfnWeights& weights) const;

  struct ExpertItem;
  int64_t PackExperts(std::span<const ExpertWork> work, int64_t dim, size_t* next, int64_t* offset);
  void Activate(const FfnActivation& activation, float* gate, const float* up, int64_t count) const;
  int64_t Tasks(int64_t rows, int64_t columns, bool bf16) const;
  void PackInputs(const ExpertItem& item, int64_t row, ConstRows x);
  void GateUp(const ExpertItem& item, int64_t first, int64_t row_task, int thread);
  void StoreHidden(const ExpertItem& item, int64_t row, int64_t rows, int64_t first, int64_t count,
                   const float* const* values);
  void Down(const ExpertItem& item, int64_t first, int64_t row_task, int thread, Rows out);

  struct RowBlock;
  struct AttentionCall;
  struct AttentionTile;
  int64_t MakeRowBlocks(const AttentionCall& call, int32_t rows_at_once);
  void AttendTask(const AttentionCall& call, int64_t task, int thread);
  static void StartSums(const AttentionCall& call, const AttentionTile& tile);
  void AttendTile(const AttentionCall& call, const AttentionTile& tile);
  bool AttendsByTiles(const AttentionCall& call) const;
  int64_t SplitBytes(const AttentionCall& call) const;
  void SplitQueries(const AttentionCall& call, const AttentionTile& tile);
  void AttendTileSplit(const AttentionCall& call, const AttentionTile& tile);

  // body(first, count) over runs of rows, on several threads when a row's `work` (about: floats
  // touched) is worth it.
  template <typename Body>
  void ForRows(int64_t rows, int64_t work, Body body);

  const CpuDeviceOptions options_;
  const char* const level_;
  const cpu::Kernels& kernels_;
  const int type_;  // of activations, as the kernels' tables are indexed
  // Bytes of input_, and of hidden_: max_rows operands of max_columns, in whatever form.
  const int64_t operand_bytes_;
  ThreadPool pool_;

  Pages input_;    // operands of the current product
  Pages hidden_;   // of the experts' second product: as many
  Pages threads_;  // kThreadBytes for each thread
  std::vector<ExpertItem> items_;
  std::vector<RowBlock> blocks_;
  std::vector<Pages> allocated_;
};

// Rows of the batch in one task of a product: of tiles as many as a product takes.
inline constexpr int64_t kTaskRows = 64;
inline constexpr int64_t kMostTaskRows = cpu::kTileDotRows;
static_assert(kTaskRows <= kMostTaskRows && kMostTaskRows % cpu::kPanelRows == 0);
// Rows of weights in it.
inline constexpr int64_t kTaskColumns = 32;
static_assert(kTaskColumns % 32 == 0);  // a whole number of tiles of hidden columns
// Columns of an untransposed product in one task.
inline constexpr int64_t kMixColumns = 128;
// Kv heads in a task of attention; each has at most kAttentionPairs (row, head) pairs there.
inline constexpr int32_t kTaskKvHeads = 16;
inline constexpr int64_t kAttentionPairs = 64;
// Experts in one pass.
inline constexpr int64_t kMaxExpertItems = 1024;
// Scratch memory of a thread: results of a task, then what attention by tiles needs.
inline constexpr int64_t kResultBytes = 128 << 10;
inline constexpr int64_t kQueryBytes = 1 << 20;  // of a task, split
inline constexpr int64_t kKeyBytes = 512 << 10;  // of a tile of positions
inline constexpr int64_t kThreadBytes = kResultBytes + kQueryBytes + kKeyBytes;
static_assert(2 * kMostTaskRows * kTaskColumns * 4 <= kResultBytes);
// A band of packed weights, unpacked, is where queries and keys would be.
static_assert(kBand * (kMaxPackedCols + 32) * 2 <= kQueryBytes + kKeyBytes);
static_assert(kBand == cpu::kPanelRows && kTaskColumns % kBand == 0);
static_assert(kAttentionPairs * cpu::kAttentionTile * 4 <= kResultBytes);
static_assert(2 * kAttentionPairs * cpu::PackedRowBytes(kMaxHeadDim) <= kQueryBytes);
static_assert(int64_t{cpu::kAttentionTile} * kMaxHeadDim * 2 <= kKeyBytes);
static_assert(kAttentionPairs <= cpu::kSplitRows);
// Floats touched below which a second thread costs more than it brings.
inline constexpr int64_t kWorthAThread = 16 << 10;

struct CpuDevice::ExpertItem {
  const FfnWeights* weights = nullptr;
  const int32_t* inputs = nullptr;
  const int32_t* outputs = nullptr;
  int64_t rows = 0;
  int64_t first_panel = 0;  // of kPanelRows rows, counted over the pass
  int64_t input_byte = 0;   // where its rows begin in input_ and hidden_
  int64_t hidden_byte = 0;
  int64_t gate_up_task = 0;  // its first task of each product
  int64_t down_task = 0;
};

// Consecutive rows of one sequence.
struct CpuDevice::RowBlock {
  int32_t first = 0;
  int32_t count = 0;
};

template <typename Body>
void CpuDevice::ForRows(int64_t rows, int64_t work, Body body) {
  const int64_t each = std::max<int64_t>(1, kWorthAThread / std::max<int64_t>(1, work));
  const int64_t tasks = (rows + each - 1) / each;
  pool_.For(tasks, [&](int, int64_t task) {
    const int64_t first = task * each;
    body(first, std::min(each, rows - first));
  });
}

}  // namespace conclave::worker

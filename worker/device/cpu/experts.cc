// Feed-forward nets of a batch, grouped by expert: rows are rounded into scratch memory expert
// after expert, then one loop computes gate and up, one down. A pass takes as many experts as fit
// the scratch memory.

#include <algorithm>

#include "scheduler/check.h"
#include "worker/device/cpu/cpu_device.h"

namespace conclave::worker {
namespace {

int64_t Over(int64_t count, int64_t each) { return (count + each - 1) / each; }

}  // namespace

int64_t CpuDevice::Tasks(int64_t rows, int64_t columns, bool bf16) const {
  return Over(rows, TaskRows(bf16)) * Over(columns, kTaskColumns);
}

// Gate and up share their input.
bool CpuDevice::GateUpInBf16(const FfnWeights& weights) const {
  return MultipliesBf16(weights.gate) && MultipliesBf16(weights.up);
}

// Fills items_ from work item *next, of which *offset rows are done; returns how many, and moves
// both on.
int64_t CpuDevice::PackExperts(std::span<const ExpertWork> work, int64_t dim, size_t* next,
                               int64_t* offset) {
  int64_t count = 0, panels = 0, input = 0, hidden = 0, gate_up = 0, down = 0;
  while (*next < work.size() && count < kMaxExpertItems) {
    const ExpertWork& from = work[*next];
    const FfnWeights& w = *from.weights;
    const int64_t ffn = w.gate.rows;
    CONCLAVE_CHECK(from.inputs.size() == from.outputs.size());
    CONCLAVE_CHECK(w.gate.cols == dim && w.up.cols == dim && w.up.rows == ffn);
    CONCLAVE_CHECK(w.down.cols == ffn);
    CONCLAVE_CHECK(!w.gate_bias || w.gate_bias.rows * w.gate_bias.cols == ffn);
    CONCLAVE_CHECK(!w.up_bias || w.up_bias.rows * w.up_bias.cols == ffn);
    CONCLAVE_CHECK(!w.down_bias || w.down_bias.rows * w.down_bias.cols == w.down.rows);
    CONCLAVE_CHECK(std::max(dim, ffn) <= options_.max_columns);
    const int64_t input_row = OperandRowBytes(dim, GateUpInBf16(w));
    const int64_t hidden_row = OperandRowBytes(ffn, MultipliesBf16(w.down));
    const int64_t fit =
        std::min((operand_bytes_ - input) / input_row, (operand_bytes_ - hidden) / hidden_row);
    const int64_t left = static_cast<int64_t>(from.inputs.size()) - *offset;
    const int64_t taken = std::min(left, fit);
    if (taken < left && count > 0) break;  // the next pass has more room
    if (taken > 0) {
      items_[static_cast<size_t>(count++)] = {
          .weights = &w,
          .inputs = from.inputs.data() + *offset,
          .outputs = from.outputs.data() + *offset,
          .rows = taken,
          .first_panel = panels,
          .input_byte = input,
          .hidden_byte = hidden,
          .gate_up_task = gate_up,
          .down_task = down,
      };
      panels += Over(taken, cpu::kPanelRows);
      input += taken * input_row;
      hidden += taken * hidden_row;
      gate_up += Tasks(taken, ffn, GateUpInBf16(w));
      down += Tasks(taken, w.down.rows, MultipliesBf16(w.down));
    }
    *offset += taken;
    if (taken < left) break;
    *offset = 0;
    ++*next;
  }
  items_[static_cast<size_t>(count)] = {
      .first_panel = panels, .gate_up_task = gate_up, .down_task = down};
  return count;
}

void CpuDevice::Experts(ConstRows x, std::span<const ExpertWork> work, Rows out) {
  size_t next = 0;
  int64_t offset = 0;
  while (next < work.size()) {
    const int64_t count = PackExperts(work, x.cols, &next, &offset);
    const ExpertItem* items = items_.data();
    const ExpertItem& end = items[count];
    // The item that owns number i of the kind `start` counts.
    const auto find = [&](int64_t i, int64_t ExpertItem::*start) -> const ExpertItem& {
      return *(std::upper_bound(
                   items, items + count, i,
                   [=](int64_t value, const ExpertItem& item) { return value < item.*start; }) -
               1);
    };
    ForRows(end.first_panel, cpu::kPanelRows * x.cols, [&](int64_t first, int64_t n) {
      for (int64_t panel = first; panel < first + n; ++panel) {
        const ExpertItem& item = find(panel, &ExpertItem::first_panel);
        PackInputs(item, (panel - item.first_panel) * cpu::kPanelRows, x);
      }
    });
    // Tasks of the same rows follow one another: these stay in a cache, the weights pass through.
    pool_.For(end.gate_up_task, [&](int thread, int64_t task) {
      const ExpertItem& item = find(task, &ExpertItem::gate_up_task);
      const int64_t column_tasks = Over(item.weights->gate.rows, kTaskColumns);
      const int64_t own = task - item.gate_up_task;
      GateUp(item, own % column_tasks * kTaskColumns, own / column_tasks, thread);
    });
    pool_.For(end.down_task, [&](int thread, int64_t task) {
      const ExpertItem& item = find(task, &ExpertItem::down_task);
      const int64_t column_tasks = Over(item.weights->down.rows, kTaskColumns);
      const int64_t own = task - item.down_task;
      Down(item, own % column_tasks * kTaskColumns, own / column_tasks, thread, out);
    });
  }
}

// Rows [row, + kPanelRows) of the item, as its first products read them.
void CpuDevice::PackInputs(const ExpertItem& item, int64_t row, ConstRows x) {
  const bool bf16 = GateUpInBf16(*item.weights);
  const int64_t m = std::min<int64_t>(cpu::kPanelRows, item.rows - row);
  const float* rows[cpu::kPanelRows];
  for (int64_t i = 0; i < m; ++i) {
    const int32_t from = item.inputs[row + i];
    CONCLAVE_CHECK(from >= 0 && from < x.rows);
    rows[i] = x.row(from);
  }
  char* to = static_cast<char*>(input_.data()) + item.input_byte;
  RoundRows(rows, m, x.cols, bf16, to + row * OperandRowBytes(x.cols, bf16));
}

// gate becomes what the net makes of both.
void CpuDevice::Activate(const FfnActivation& activation, float* gate, const float* up,
                         int64_t count) const {
  switch (activation.kind) {
    case FfnActivation::Kind::kSilu:
      return kernels_.silu_mul(gate, up, count, gate);
    case FfnActivation::Kind::kClampedSwish:
      return kernels_.clamped_swish(gate, up, count, activation.alpha, activation.limit, gate);
  }
}

// hidden[row .., first ..] = round(activation(x gate^T, x up^T)) for one task's rows and columns.
void CpuDevice::GateUp(const ExpertItem& item, int64_t first, int64_t row_task, int thread) {
  const FfnWeights& w = *item.weights;
  const int64_t row = row_task * TaskRows(GateUpInBf16(w));
  const int64_t rows = std::min(TaskRows(GateUpInBf16(w)), item.rows - row);
  const int64_t columns = std::min(kTaskColumns, w.gate.rows - first);
  const bool in_bf16 = GateUpInBf16(w);
  const Operand x{static_cast<const char*>(input_.data()) + item.input_byte,
                  OperandRowBytes(w.gate.cols, in_bf16), in_bf16};
  auto* scratch =
      reinterpret_cast<float*>(static_cast<char*>(threads_.data()) + thread * kThreadBytes);
  float* gate[kMostTaskRows];
  float* up[kMostTaskRows];
  for (int64_t i = 0; i < rows; ++i) {
    gate[i] = scratch + i * kTaskColumns;
    up[i] = scratch + (kMostTaskRows + i) * kTaskColumns;
  }
  DotRows(x, row, rows, w.gate, first, columns, thread, gate);
  DotRows(x, row, rows, w.up, first, columns, thread, up);
  if (w.gate_bias) AddBias(w.gate_bias, first, columns, rows, gate);
  if (w.up_bias) AddBias(w.up_bias, first, columns, rows, up);
  for (int64_t i = 0; i < rows; ++i) Activate(w.activation, gate[i], up[i], columns);
  StoreHidden(item, row, rows, first, columns, gate);
}

// Columns [first, first + count) of hidden rows, as the second product reads them. `first` begins a
// task: a whole number of tiles.
void CpuDevice::StoreHidden(const ExpertItem& item, int64_t row, int64_t rows, int64_t first,
                            int64_t count, const float* const* values) {
  const Weight& down = item.weights->down;
  const bool bf16 = MultipliesBf16(down);
  const int64_t row_bytes = OperandRowBytes(down.cols, bf16);
  char* to = static_cast<char*>(hidden_.data()) + item.hidden_byte;
  if (bf16 && kernels_.tiles != nullptr) {
    for (int64_t i = 0; i < rows; i += cpu::kPanelRows) {
      const int64_t m = std::min<int64_t>(cpu::kPanelRows, rows - i);
      RoundRows(values + i, m, count, true,
                to + (row + i) * row_bytes + m * cpu::PackedRowBytes(first));
    }
    return;
  }
  for (int64_t i = 0; i < rows; ++i) {
    RoundRows(values + i, 1, count, bf16, to + (row + i) * row_bytes + first * (bf16 ? 2 : 4));
  }
}

// out[outputs[row ..], first ..] = round(hidden down^T) for one task's rows and columns.
void CpuDevice::Down(const ExpertItem& item, int64_t first, int64_t row_task, int thread,
                     Rows out) {
  const Weight& down = item.weights->down;
  CONCLAVE_CHECK(down.rows == out.cols);
  const int64_t row = row_task * TaskRows(MultipliesBf16(down));
  const int64_t rows = std::min(TaskRows(MultipliesBf16(down)), item.rows - row);
  const int64_t columns = std::min(kTaskColumns, down.rows - first);
  const bool bf16 = MultipliesBf16(down);
  const Operand hidden{static_cast<const char*>(hidden_.data()) + item.hidden_byte,
                       OperandRowBytes(down.cols, bf16), bf16};
  float* results[kMostTaskRows];
  for (int64_t i = 0; i < rows; ++i) {
    const int32_t to = item.outputs[row + i];
    CONCLAVE_CHECK(to >= 0 && to < out.rows);
    results[i] = out.row(to) + first;
  }
  DotRows(hidden, row, rows, down, first, columns, thread, results);
  const Weight& bias = item.weights->down_bias;
  if (bias) AddBias(bias, first, columns, rows, results);
  for (int64_t i = 0; i < rows; ++i) kernels_.round[type_](results[i], columns, results[i]);
}

}  // namespace conclave::worker

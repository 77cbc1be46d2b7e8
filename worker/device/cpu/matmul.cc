// Products of activations with weights.

#include <algorithm>

#include "scheduler/check.h"
#include "worker/device/cpu/cpu_device.h"

namespace conclave::worker {

// The level multiplies BF16 by BF16: then that is how such a weight's inputs are kept.
bool CpuDevice::MultipliesBf16(Weight weight) const {
  return (kernels_.dot_bf16 != nullptr || kernels_.tiles != nullptr) &&
         options_.activation_type == DType::kBF16 &&
         (weight.type == DType::kBF16 || IsPacked(weight.type));
}

int64_t CpuDevice::OperandRowBytes(int64_t cols, bool bf16) const {
  if (!bf16) return cols * 4;
  return kernels_.tiles != nullptr ? cpu::PackedRowBytes(cols) : cols * 2;
}

int64_t CpuDevice::TaskRows(bool bf16) const {
  return bf16 && kernels_.tiles != nullptr ? kMostTaskRows : kTaskRows;
}

void CpuDevice::RoundRows(const float* const* x, int64_t m, int64_t cols, bool bf16,
                          void* out) const {
  if (bf16 && kernels_.tiles != nullptr) {
    return kernels_.tiles->pack(x, static_cast<int>(m), cols, out);
  }
  char* to = static_cast<char*>(out);
  for (int64_t i = 0; i < m; ++i, to += OperandRowBytes(cols, bf16)) {
    if (bf16) {
      kernels_.narrow[type_](x[i], cols, to);
    } else {
      kernels_.round[type_](x[i], cols, reinterpret_cast<float*>(to));
    }
  }
}

cpu::Kernels::Dot CpuDevice::DotFor(const Operand& x, Weight weight) const {
  return x.bf16 ? kernels_.dot_bf16 : kernels_.dot[static_cast<int>(weight.type)];
}

CpuDevice::Operand CpuDevice::Prepare(ConstRows x, int64_t first, int64_t count, Weight weight,
                                      Inputs inputs) {
  if (inputs == Inputs::kFloat || options_.activation_type == DType::kF32) {
    const int64_t stride = x.stride * static_cast<int64_t>(sizeof(float));
    return {reinterpret_cast<const char*>(x.row(first)), stride, false};
  }
  const bool bf16 = MultipliesBf16(weight);
  const int64_t stride = OperandRowBytes(x.cols, bf16);
  char* data = static_cast<char*>(input_.data());
  const int64_t panels = (count + cpu::kPanelRows - 1) / cpu::kPanelRows;
  ForRows(panels, cpu::kPanelRows * x.cols, [&](int64_t begin, int64_t n) {
    for (int64_t panel = begin; panel < begin + n; ++panel) {
      const float* rows[cpu::kPanelRows];
      const int64_t row = panel * cpu::kPanelRows;
      const int64_t m = std::min<int64_t>(cpu::kPanelRows, count - row);
      for (int64_t i = 0; i < m; ++i) rows[i] = x.row(first + row + i);
      RoundRows(rows, m, x.cols, bf16, data + row * stride);
    }
  });
  return {data, stride, bf16};
}

void CpuDevice::DotRows(const Operand& x, int64_t x_first, int64_t rows, Weight weight,
                        int64_t first, int64_t count, int thread, float* const* out) const {
  if (IsPacked(weight.type))
    return DotPackedRows(x, x_first, rows, weight, first, count, thread, out);
  DotPlainRows(x, x_first, rows, weight, first, count, out);
}

void CpuDevice::DotPlainRows(const Operand& x, int64_t x_first, int64_t rows, Weight weight,
                             int64_t first, int64_t count, float* const* out) const {
  CONCLAVE_CHECK(rows <= TaskRows(x.bf16) && count <= kTaskColumns);
  const auto* const begin = static_cast<const char*>(weight.Slice(first, count).data);
  const int64_t row_bytes = weight.cols * static_cast<int64_t>(SizeOf(weight.type));
  if (x.bf16 && kernels_.tiles != nullptr) {
    return kernels_.tiles->dot(x.row(x_first), static_cast<int>(rows), begin, row_bytes,
                               static_cast<int>(count), weight.cols, out);
  }
  const void* px[kMostTaskRows];
  const void* pw[kTaskColumns];
  for (int64_t r = 0; r < rows; ++r) px[r] = x.row(x_first + r);
  for (int64_t c = 0; c < count; ++c) pw[c] = begin + c * row_bytes;
  DotFor(x, weight)(px, static_cast<int>(rows), pw, static_cast<int>(count), weight.cols, out);
}

void CpuDevice::DotPackedRows(const Operand& x, int64_t x_first, int64_t rows, Weight weight,
                              int64_t first, int64_t count, int thread, float* const* out) const {
  CONCLAVE_CHECK(rows <= TaskRows(x.bf16) && count <= kTaskColumns);
  const int packed = static_cast<int>(weight.type) - cpu::kTypes;
  if (x.bf16 && kernels_.tiles != nullptr) {
    const Weight slice = weight.Slice(first, count);
    return kernels_.tiles->dot_packed[packed](x.row(x_first), static_cast<int>(rows), slice.data,
                                              slice.scales, static_cast<int>(count), weight.cols,
                                              out);
  }
  // A band at a time is unpacked to where it stays in a cache, and multiplied from there; its rows
  // a line more than they take apart, lest those a power of two apart displace each other.
  const int64_t stride = weight.cols + 32;
  CONCLAVE_CHECK(weight.cols <= kMaxPackedCols && first % kBand == 0 && count % kBand == 0);
  char* const scratch = static_cast<char*>(threads_.data()) + thread * kThreadBytes;
  auto* const unpacked = reinterpret_cast<uint16_t*>(scratch + kResultBytes);
  const cpu::Kernels::Dot dot =
      x.bf16 ? kernels_.dot_bf16 : kernels_.dot[static_cast<int>(DType::kBF16)];
  const void* px[kTaskRows];
  const void* pw[kBand];
  for (int64_t r = 0; r < rows; ++r) px[r] = x.row(x_first + r);
  for (int64_t c = 0; c < kBand; ++c) pw[c] = unpacked + c * stride;
  for (int64_t begin = 0; begin < count; begin += kBand) {
    const Weight band = weight.Slice(first + begin, kBand);
    kernels_.unpack[packed](band.data, band.scales, band.cols, unpacked, stride);
    float* results[kTaskRows];
    for (int64_t r = 0; r < rows; ++r) results[r] = out[r] + begin;
    dot(px, static_cast<int>(rows), pw, kBand, weight.cols, results);
  }
}

void CpuDevice::AddBias(Weight bias, int64_t first, int64_t count, int64_t rows,
                        float* const* out) const {
  float add[kTaskColumns];
  const int64_t size = static_cast<int64_t>(SizeOf(bias.type));
  kernels_.widen[static_cast<int>(bias.type)](static_cast<const char*>(bias.data) + first * size,
                                              count, add);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < count; ++j) out[i][j] += add[j];
  }
}

void CpuDevice::MatMul(ConstRows x, Weight weight, Weight bias, Inputs inputs, Rows out) {
  CONCLAVE_CHECK(x.cols == weight.cols && out.cols == weight.rows && out.rows == x.rows);
  CONCLAVE_CHECK(!bias || bias.rows * bias.cols == weight.rows);
  const int64_t row_bytes = std::max(OperandRowBytes(x.cols, false), OperandRowBytes(x.cols, true));
  const int64_t at_once = operand_bytes_ / std::max<int64_t>(1, row_bytes);
  CONCLAVE_CHECK(at_once >= 1);
  for (int64_t begin = 0; begin < x.rows; begin += at_once) {
    const int64_t rows = std::min(at_once, x.rows - begin);
    const Operand operand = Prepare(x, begin, rows, weight, inputs);
    const int64_t task_rows = TaskRows(operand.bf16);
    const int64_t row_tasks = (rows + task_rows - 1) / task_rows;
    const int64_t column_tasks = (weight.rows + kTaskColumns - 1) / kTaskColumns;
    pool_.For(row_tasks * column_tasks, [&](int thread, int64_t task) {
      const int64_t row = task / column_tasks * task_rows;
      const int64_t column = task % column_tasks * kTaskColumns;
      const int64_t m = std::min(task_rows, rows - row);
      const int64_t n = std::min(kTaskColumns, weight.rows - column);
      float* results[kMostTaskRows];
      for (int64_t i = 0; i < m; ++i) results[i] = out.row(begin + row + i) + column;
      DotRows(operand, row, m, weight, column, n, thread, results);
      if (bias) AddBias(bias, column, n, m, results);
    });
  }
}

void CpuDevice::MatMulPerHead(ConstRows x, Weight weight, const HeadMatMul& shape, Rows out) {
  const int64_t w_rows = shape.transposed ? shape.out_dim : shape.in_dim;
  const int64_t w_cols = shape.transposed ? shape.in_dim : shape.out_dim;
  CONCLAVE_CHECK(!IsPacked(weight.type) && shape.heads >= 1 && weight.cols == w_cols &&
                 out.rows == x.rows);
  CONCLAVE_CHECK(int64_t{shape.heads - 1} * shape.head_stride + shape.first + w_rows <=
                 weight.rows);
  CONCLAVE_CHECK(int64_t{shape.heads - 1} * shape.in_stride + shape.in_dim <= x.cols);
  CONCLAVE_CHECK(int64_t{shape.heads - 1} * shape.out_stride + shape.out_dim <= out.cols);
  CONCLAVE_CHECK(shape.transposed || shape.in_dim <= kMaxHeadDim);
  const int64_t per_task = shape.transposed ? kTaskColumns : kMixColumns;
  const int64_t column_tasks = (shape.out_dim + per_task - 1) / per_task;
  const int64_t row_tasks = (x.rows + kTaskRows - 1) / kTaskRows;
  const Operand operand = Prepare(x, 0, x.rows, weight, Inputs::kFloat);
  pool_.For(shape.heads * column_tasks * row_tasks, [&](int, int64_t task) {
    const int64_t row = task % row_tasks * kTaskRows;
    const int64_t column = task / row_tasks % column_tasks * per_task;
    const int64_t head = task / row_tasks / column_tasks;
    const int64_t m = std::min(kTaskRows, x.rows - row);
    const int64_t n = std::min(per_task, shape.out_dim - column);
    const Weight own = weight.Slice(head * shape.head_stride + shape.first, w_rows);
    Operand in = operand;
    in.data += head * shape.in_stride * static_cast<int64_t>(sizeof(float));
    float* results[kTaskRows];
    for (int64_t i = 0; i < m; ++i)
      results[i] = out.row(row + i) + head * shape.out_stride + column;
    if (shape.transposed) return DotPlainRows(in, row, m, own, column, n, results);
    const float* factors[kTaskRows];
    const void* mixed[kMaxHeadDim];
    for (int64_t i = 0; i < m; ++i) factors[i] = static_cast<const float*>(in.row(row + i));
    const auto size = static_cast<int64_t>(SizeOf(own.type));
    const auto* const begin = static_cast<const char*>(own.data) + column * size;
    for (int64_t k = 0; k < w_rows; ++k) mixed[k] = begin + k * own.cols * size;
    kernels_.mix[static_cast<int>(own.type)](factors, static_cast<int>(m), mixed,
                                             static_cast<int>(w_rows), n, nullptr, results);
  });
}

}  // namespace conclave::worker

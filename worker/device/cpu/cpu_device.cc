// Levels, construction, and the operations that touch every element once.

#include "worker/device/cpu/cpu_device.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "scheduler/check.h"

namespace conclave::worker {
namespace {

// Raised by every change that changes a bit of any result.
constexpr int kKernelVersion = 1;

struct Level {
  const char* name;
  bool (*supported)();
  const cpu::Kernels* kernels;
};

#if defined(__x86_64__)
// One bit of CPUID: clang 14's __builtin_cpu_supports knows neither f16c nor avx512bf16.
bool HasF16c() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & 1u << 29) != 0;
}
bool HasBf16() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax & 1u << 5) != 0;
}
bool HasAvx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && HasF16c();
}
bool HasAvx512() {
  return HasAvx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
bool HasAvx512Bf16() { return HasAvx512() && HasBf16(); }
// The tiles are a state of threads that a process asks Linux for, once.
bool HasAmxBf16() {
  static const bool granted = [] {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    constexpr unsigned kTile = 1u << 24, kBf16 = 1u << 22;
    if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
    if ((edx & kTile) == 0 || (edx & kBf16) == 0) return false;
    constexpr long kRequestPermission = 0x1023, kTileData = 18;  // of asm/prctl.h, Linux 5.16
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return HasAvx512Bf16() && granted;
}
#endif

// Best first.
constexpr Level kLevels[] = {
#if defined(__x86_64__)
    {"amxbf16", HasAmxBf16, &cpu::kKernelsAmxBf16},
    {"avx512bf16", HasAvx512Bf16, &cpu::kKernelsAvx512Bf16},
    {"avx512", HasAvx512, &cpu::kKernelsAvx512},
    {"avx2", HasAvx2, &cpu::kKernelsAvx2},
#endif
    {"portable", [] { return true; }, &cpu::kKernelsPortable},
};

const char* TypeName(DType type) {
  switch (type) {
    case DType::kF32:
      return "f32";
    case DType::kBF16:
      return "bf16";
    case DType::kF16:
      return "f16";
    case DType::kMxInt8:
    case DType::kMxFp4:
      break;  // no type of activations
  }
  return "";
}

int CpusOfAffinityMask() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

absl::StatusOr<const Level*> FindLevel(const std::string& name) {
  for (const Level& level : kLevels) {
    if (name.empty() ? level.supported() : name == level.name) {
      if (level.supported()) return &level;
      return absl::FailedPreconditionError(absl::StrCat(
          "this CPU cannot run level ", name, "; it has ", absl::StrJoin(CpuLevels(), ", ")));
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown CPU level \"", name,
                   "\"; there are amxbf16, avx512bf16, avx512, avx2 and portable"));
}

absl::Status CheckLimits(const CpuDeviceOptions& options) {
  constexpr int kMaxThreads = 1024;
  constexpr int32_t kMaxSide = 1 << 20;  // of the scratch memory's rows and columns
  if (options.threads < 0 || options.threads > kMaxThreads) {
    return absl::InvalidArgumentError(
        absl::StrCat("threads is ", options.threads, ", it may be 0 to ", kMaxThreads));
  }
  if (options.max_rows < 1 || options.max_rows > kMaxSide || options.max_columns < 1 ||
      options.max_columns > kMaxSide) {
    return absl::InvalidArgumentError(absl::StrCat("max_rows is ", options.max_rows,
                                                   " and max_columns ", options.max_columns,
                                                   ", each may be 1 to ", kMaxSide));
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<std::string> CpuLevels() {
  std::vector<std::string> names;
  for (const Level& level : kLevels) {
    if (level.supported()) names.emplace_back(level.name);
  }
  return names;
}

absl::Status CheckCpuLevel(const std::string& level) { return FindLevel(level).status(); }

absl::StatusOr<std::unique_ptr<Device>> MakeCpuDevice(const CpuDeviceOptions& options) {
  const absl::StatusOr<const Level*> level = FindLevel(options.level);
  if (!level.ok()) return level.status();
  if (const absl::Status status = CheckLimits(options); !status.ok()) return status;
  CpuDeviceOptions chosen = options;
  if (chosen.threads == 0) chosen.threads = CpusOfAffinityMask();
  return CpuDevice::Create(chosen, (*level)->name, *(*level)->kernels);
}

CpuDevice::CpuDevice(const CpuDeviceOptions& options, const char* level,
                     const cpu::Kernels& kernels)
    : options_(options),
      level_(level),
      kernels_(kernels),
      type_(static_cast<int>(options.activation_type)),
      operand_bytes_(options.max_rows * std::max(int64_t{options.max_columns} * 4,
                                                 cpu::PackedRowBytes(options.max_columns))),
      pool_({.threads = options.threads, .spin_us = options.spin_us}) {}

absl::StatusOr<std::unique_ptr<Device>> CpuDevice::Create(const CpuDeviceOptions& options,
                                                          const char* level,
                                                          const cpu::Kernels& kernels) {
  std::unique_ptr<CpuDevice> device(new CpuDevice(options, level, kernels));
  const auto operand = static_cast<size_t>(device->operand_bytes_);
  const size_t threads = static_cast<size_t>(options.threads) * kThreadBytes;
  absl::StatusOr<Pages> input = Pages::Map(operand, "inputs of products");
  if (!input.ok()) return input.status();
  absl::StatusOr<Pages> hidden = Pages::Map(operand, "hidden rows of experts");
  if (!hidden.ok()) return hidden.status();
  absl::StatusOr<Pages> scratch = Pages::Map(threads, "scratch of threads");
  if (!scratch.ok()) return scratch.status();
  device->input_ = *std::move(input);
  device->hidden_ = *std::move(hidden);
  device->threads_ = *std::move(scratch);
  device->items_.resize(kMaxExpertItems + 1);
  device->blocks_.resize(static_cast<size_t>(options.max_rows));
  return device;
}

std::string CpuDevice::numerics() const {
  return absl::StrCat("cpu-", level_, "-", kKernelVersion, "-", TypeName(options_.activation_type));
}

void CpuDevice::Embed(Weight table, std::span<const int32_t> ids, Rows out) {
  CONCLAVE_CHECK(out.rows == static_cast<int64_t>(ids.size()) && out.cols == table.cols);
  const auto widen = kernels_.widen[static_cast<int>(table.type)];
  ForRows(out.rows, out.cols, [&](int64_t first, int64_t count) {
    for (int64_t r = first; r < first + count; ++r) {
      const int32_t id = ids[static_cast<size_t>(r)];
      CONCLAVE_CHECK(id >= 0 && id < table.rows);
      widen(table.Slice(id, 1).data, table.cols, out.row(r));
    }
  });
}

void CpuDevice::RmsNorm(ConstRows x, Weight weight, float eps, Rows out) {
  CONCLAVE_CHECK(weight.rows == 1 && weight.cols >= 1 && x.cols % weight.cols == 0);
  CONCLAVE_CHECK(out.cols == x.cols && out.rows == x.rows);
  const auto scale = kernels_.scale[static_cast<int>(weight.type)];
  ForRows(x.rows, 2 * x.cols, [&](int64_t first, int64_t count) {
    for (int64_t r = first; r < first + count; ++r) {
      for (int64_t c = 0; c < x.cols; c += weight.cols) {
        const float* run = x.row(r) + c;
        const float mean = kernels_.sum_squares(run, weight.cols) / static_cast<float>(weight.cols);
        scale(run, 1.0f / std::sqrt(mean + eps), weight.data, weight.cols, out.row(r) + c);
      }
    }
  });
}

void CpuDevice::Clip(Rows x, float limit) {
  ForRows(x.rows, x.cols, [&](int64_t first, int64_t count) {
    for (int64_t r = first; r < first + count; ++r) {
      float* row = x.row(r);
      for (int64_t c = 0; c < x.cols; ++c) {
        const float below = limit < row[c] ? limit : row[c];  // a NaN stays
        row[c] = -limit > below ? -limit : below;
      }
    }
  });
}

void CpuDevice::ScaleBySigmoid(ConstRows logits, Rows x) {
  CONCLAVE_CHECK(logits.rows == x.rows && logits.cols == 1);
  ForRows(x.rows, x.cols, [&](int64_t first, int64_t count) {
    for (int64_t r = first; r < first + count; ++r) {
      float share = 0.0f;
      kernels_.sigmoid(logits.row(r), 1, &share);
      for (int64_t c = 0; c < x.cols; ++c) x.row(r)[c] *= share;
    }
  });
}

void CpuDevice::Combine(ConstRows outputs, std::span<const float> weights, int32_t top_k,
                        ConstRows shared, Rows hidden) {
  CONCLAVE_CHECK(top_k >= 0 && outputs.rows == hidden.rows * top_k);
  CONCLAVE_CHECK(outputs.cols == hidden.cols || outputs.rows == 0);
  CONCLAVE_CHECK(static_cast<int64_t>(weights.size()) == outputs.rows);
  CONCLAVE_CHECK(shared.data == nullptr ||
                 (shared.rows == hidden.rows && shared.cols == hidden.cols));
  constexpr int64_t kStrip = 64;  // columns summed at a time, in registers
  const auto combine = [&](int64_t r, int64_t first, int64_t count) {
    float sum[kStrip] = {};
    for (int32_t j = 0; j < top_k; ++j) {
      const int64_t o = r * top_k + j;
      const float weight = weights[static_cast<size_t>(o)];
      const float* output = outputs.row(o) + first;
      for (int64_t c = 0; c < count; ++c) sum[c] += weight * output[c];
    }
    if (shared.data != nullptr) {
      const float* own = shared.row(r) + first;
      for (int64_t c = 0; c < count; ++c) sum[c] += own[c];
    }
    float* out = hidden.row(r) + first;
    for (int64_t c = 0; c < count; ++c) out[c] += sum[c];
  };
  ForRows(hidden.rows, (top_k + 2) * hidden.cols, [&](int64_t first, int64_t count) {
    for (int64_t r = first; r < first + count; ++r) {
      for (int64_t c = 0; c < hidden.cols; c += kStrip) {
        combine(r, c, std::min(kStrip, hidden.cols - c));
      }
    }
  });
}

void CpuDevice::Add(ConstRows y, Rows x) {
  CONCLAVE_CHECK(x.rows == y.rows && x.cols == y.cols);
  ForRows(x.rows, 2 * x.cols, [&](int64_t first, int64_t count) {
    for (int64_t r = first; r < first + count; ++r) {
      for (int64_t c = 0; c < x.cols; ++c) x.row(r)[c] += y.row(r)[c];
    }
  });
}

void CpuDevice::Gather(ConstRows x, std::span<const int32_t> rows, Rows out) {
  CONCLAVE_CHECK(out.rows == static_cast<int64_t>(rows.size()) && out.cols == x.cols);
  ForRows(out.rows, out.cols, [&](int64_t first, int64_t count) {
    for (int64_t r = first; r < first + count; ++r) {
      const int32_t from = rows[static_cast<size_t>(r)];
      CONCLAVE_CHECK(from >= 0 && from < x.rows);
      std::memcpy(out.row(r), x.row(from), static_cast<size_t>(x.cols) * sizeof(float));
    }
  });
}

}  // namespace conclave::worker

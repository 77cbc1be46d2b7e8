#include "worker/device/cpu/simd_avx512.h"
// The vectors come first: the kernels are written over them.
#include "worker/device/cpu/kernels-inl.h"

namespace conclave::worker::cpu {
namespace {

// 32 products of BF16 a step, two to a lane.
struct Bf16Pairs {
  static constexpr int kStep = 32;
  static constexpr int kXBytes = 2;
  static constexpr int kWBytes = 2;
  using X = __m512bh;
  using W = __m512bh;
  static __m512bh Read(const char* p) { return reinterpret_cast<__m512bh>(_mm512_loadu_si512(p)); }
  static __m512bh ReadPart(const char* p, int64_t n) {
    const auto mask = static_cast<__mmask32>((1u << n) - 1);
    return reinterpret_cast<__m512bh>(_mm512_maskz_loadu_epi16(mask, p));
  }
  static X ReadX(const char* p) { return Read(p); }
  static X ReadXPart(const char* p, int64_t n) { return ReadPart(p, n); }
  static W ReadW(const char* p) { return Read(p); }
  static W ReadWPart(const char* p, int64_t n) { return ReadPart(p, n); }
  static F Step(F sum, X x, W w) { return _mm512_dpbf16_ps(sum, x, w); }
};

}  // namespace

const Kernels kKernelsAvx512Bf16 = Table(Dot<Bf16Pairs>, nullptr);

}  // namespace conclave::worker::cpu

#pragma once
// Vectors of 4 floats in the compiler's own vector types: any CPU. A product and a sum round
// separately. See kernels-inl.h for what each function promises.

#include <cstdint>

namespace conclave::worker::cpu {
namespace {

typedef float F __attribute__((vector_size(16)));
typedef int32_t I __attribute__((vector_size(16)));
typedef uint32_t U __attribute__((vector_size(16)));
typedef uint16_t U16 __attribute__((vector_size(8)));
constexpr int kLanes = 4;
constexpr int kTileRows = 2;
constexpr int kTileColumns = 4;
constexpr int kMixRows = 2;
constexpr int kMixVectors = 4;

inline F AsF(U x) { return reinterpret_cast<F>(x); }
inline U AsU(F x) { return reinterpret_cast<U>(x); }
inline U Choose(I mask, U yes, U no) {
  const U bits = reinterpret_cast<U>(mask);
  return (bits & yes) | (~bits & no);
}

inline F Zero() { return F{}; }
inline F Set(float x) { return F{x, x, x, x}; }
inline F Add(F a, F b) { return a + b; }
inline F Sub(F a, F b) { return a - b; }
inline F Mul(F a, F b) { return a * b; }
inline F Div(F a, F b) { return a / b; }
inline F Fma(F a, F b, F c) { return a * b + c; }
inline F Max(F a, F b) { return AsF(Choose(a > b, AsU(a), AsU(b))); }
inline F Min(F a, F b) { return AsF(Choose(a < b, AsU(a), AsU(b))); }

inline F Pow2(F n) { return AsF(reinterpret_cast<U>(__builtin_convertvector(n, I) + 127) << 23); }

inline F Load(const void* p) {
  F x;
  __builtin_memcpy(&x, p, sizeof(x));
  return x;
}
inline F LoadPart(const void* p, int64_t n) {
  F x{};
  __builtin_memcpy(&x, p, static_cast<unsigned long>(n) * 4);
  return x;
}
inline void Store(void* p, F x) { __builtin_memcpy(p, &x, sizeof(x)); }
inline void StorePart(void* p, int64_t n, F x) {
  __builtin_memcpy(p, &x, static_cast<unsigned long>(n) * 4);
}

inline U16 Load16(const void* p) {
  U16 x;
  __builtin_memcpy(&x, p, sizeof(x));
  return x;
}
inline U16 Load16Part(const void* p, int64_t n) {
  U16 x{};
  __builtin_memcpy(&x, p, static_cast<unsigned long>(n) * 2);
  return x;
}
inline void Store16(void* p, U16 x) { __builtin_memcpy(p, &x, sizeof(x)); }
inline void Store16Part(void* p, int64_t n, U16 x) {
  __builtin_memcpy(p, &x, static_cast<unsigned long>(n) * 2);
}

inline F FromBf16(U16 x) { return AsF(__builtin_convertvector(x, U) << 16); }
inline U16 ToBf16(F x) {
  const U bits = AsU(x);
  const U up = bits + 0x7fff + ((bits >> 16) & 1);
  return __builtin_convertvector(Choose(x != x, bits | 0x400000, up) >> 16, U16);
}
inline F LoadBf16(const void* p) { return FromBf16(Load16(p)); }
inline F LoadBf16Part(const void* p, int64_t n) { return FromBf16(Load16Part(p, n)); }
inline void StoreBf16(void* p, F x) { Store16(p, ToBf16(x)); }
inline void StoreBf16Part(void* p, int64_t n, F x) { Store16Part(p, n, ToBf16(x)); }
inline F RoundBf16(F x) { return FromBf16(ToBf16(x)); }

// Moves the bits in place and lets a product by a power of two renormalise what is subnormal.
inline F FromF16(U16 x) {
  const U bits = __builtin_convertvector(x, U);
  const U magnitude = (bits & 0x7fff) << 13;
  const U finite = AsU(AsF(magnitude) * 0x1p112f);
  const U all = Choose(magnitude >= 0x0f800000, magnitude | 0x7f800000, finite);
  return AsF(all | ((bits & 0x8000) << 16));
}
// Adding a number whose last place is that of the result rounds to nearest even, subnormals
// included.
inline U16 ToF16(F x) {
  const U bits = AsU(x);
  const U magnitude = bits & 0x7fffffff;
  const U normal = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  const U small = AsU(AsF(magnitude) + 0.5f) - 0x3f000000;
  U half = Choose(magnitude < (113u << 23), small, normal);
  half = Choose(magnitude >= 0x477ff000, U{} + 0x7c00, half);
  half = Choose(magnitude > 0x7f800000, ((magnitude >> 13) & 0x3ff) | 0x7e00, half);
  return __builtin_convertvector(half | ((bits >> 16) & 0x8000), U16);
}
inline F LoadF16(const void* p) { return FromF16(Load16(p)); }
inline F LoadF16Part(const void* p, int64_t n) { return FromF16(Load16Part(p, n)); }
inline void StoreF16(void* p, F x) { Store16(p, ToF16(x)); }
inline void StoreF16Part(void* p, int64_t n, F x) { Store16Part(p, n, ToF16(x)); }
inline F RoundF16(F x) { return FromF16(ToF16(x)); }

inline void UnpackInts(const uint8_t* from, const uint8_t* scales, uint16_t* to, int64_t stride) {
  for (int g = 0; g < 16; ++g) {
    const F scale = AsF(U{} + (uint32_t{scales[g]} << 23));
    for (int i = 0; i < 32; i += kLanes) {
      I numbers;
      for (int lane = 0; lane < kLanes; ++lane)
        numbers[lane] = static_cast<int8_t>(from[g * 32 + i + lane]);
      const U bits = AsU(__builtin_convertvector(numbers, F) * scale);
      Store16(to + g * stride + i, __builtin_convertvector(bits >> 16, U16));
    }
  }
}

// The 16 numbers there are, times the group's power of two, are looked up.
inline void UnpackFp4(const uint8_t* from, const uint8_t* scales, uint16_t* to, int64_t stride) {
  constexpr uint16_t kValues[] = {0,      0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040, 0x4080, 0x40c0,
                                  0x8000, 0xbf00, 0xbf80, 0xbfc0, 0xc000, 0xc040, 0xc080, 0xc0c0};
  for (int g = 0; g < 16; ++g) {
    uint16_t table[16];
    for (int code = 0; code < 16; ++code) {
      const int power = code % 8 == 0 ? 0 : (scales[g] - 127) * 128;
      table[code] = static_cast<uint16_t>(kValues[code] + power);
    }
    for (int i = 0; i < 16; ++i) {
      const uint8_t pair = from[g * 16 + i];
      to[g * stride + 2 * i] = table[pair & 15];
      to[g * stride + 2 * i + 1] = table[pair >> 4];
    }
  }
}

// Lanes i and i + 2, then + 1.
inline float Sum(F x) { return (x[0] + x[2]) + (x[1] + x[3]); }

inline float MaxLane(F x) {
  float max = x[0];
  for (int i = 1; i < kLanes; ++i) max = max > x[i] ? max : x[i];
  return max;
}

template <int N>
inline void StoreSums(const F* x, float* out) {
  for (int i = 0; i < N; ++i) out[i] = Sum(x[i]);
}

}  // namespace
}  // namespace conclave::worker::cpu

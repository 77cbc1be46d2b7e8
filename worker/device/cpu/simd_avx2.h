#pragma once
// Vectors of 8 floats in AVX2, FMA and F16C. See kernels-inl.h for what each function promises.

#include <immintrin.h>

#include <cstdint>

namespace conclave::worker::cpu {
namespace {

using F = __m256;
constexpr int kLanes = 8;
constexpr int kTileRows = 4;
constexpr int kTileColumns = 2;
constexpr int kMixRows = 4;
constexpr int kMixVectors = 2;

inline __m256i First(int64_t n) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), lane);
}

inline F Zero() { return _mm256_setzero_ps(); }
inline F Set(float x) { return _mm256_set1_ps(x); }
inline F Add(F a, F b) { return _mm256_add_ps(a, b); }
inline F Sub(F a, F b) { return _mm256_sub_ps(a, b); }
inline F Mul(F a, F b) { return _mm256_mul_ps(a, b); }
inline F Div(F a, F b) { return _mm256_div_ps(a, b); }
inline F Fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
inline F Max(F a, F b) { return _mm256_max_ps(a, b); }
inline F Min(F a, F b) { return _mm256_min_ps(a, b); }

inline F Pow2(F n) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}

inline F Load(const void* p) { return _mm256_loadu_ps(static_cast<const float*>(p)); }
inline F LoadPart(const void* p, int64_t n) {
  return _mm256_maskload_ps(static_cast<const float*>(p), First(n));
}
inline void Store(void* p, F x) { _mm256_storeu_ps(static_cast<float*>(p), x); }
inline void StorePart(void* p, int64_t n, F x) {
  _mm256_maskstore_ps(static_cast<float*>(p), First(n), x);
}

inline __m128i Load16(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline __m128i Load16Part(const void* p, int64_t n) {
  uint16_t part[kLanes] = {};
  __builtin_memcpy(part, p, static_cast<unsigned long>(n) * 2);
  return Load16(part);
}
inline void Store16(void* p, __m128i x) { _mm_storeu_si128(static_cast<__m128i*>(p), x); }
inline void Store16Part(void* p, int64_t n, __m128i x) {
  uint16_t part[kLanes];
  Store16(part, x);
  __builtin_memcpy(p, part, static_cast<unsigned long>(n) * 2);
}

inline F FromBf16(__m128i x) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
}
inline __m128i ToBf16(F x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i high = _mm256_srli_epi32(_mm256_blendv_epi8(up, quiet, nan), 16);
  return _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
}
inline F LoadBf16(const void* p) { return FromBf16(Load16(p)); }
inline F LoadBf16Part(const void* p, int64_t n) { return FromBf16(Load16Part(p, n)); }
inline void StoreBf16(void* p, F x) { Store16(p, ToBf16(x)); }
inline void StoreBf16Part(void* p, int64_t n, F x) { Store16Part(p, n, ToBf16(x)); }
inline F RoundBf16(F x) { return FromBf16(ToBf16(x)); }

inline __m128i ToF16(F x) {
  return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline F LoadF16(const void* p) { return _mm256_cvtph_ps(Load16(p)); }
inline F LoadF16Part(const void* p, int64_t n) { return _mm256_cvtph_ps(Load16Part(p, n)); }
inline void StoreF16(void* p, F x) { Store16(p, ToF16(x)); }
inline void StoreF16Part(void* p, int64_t n, F x) { Store16Part(p, n, ToF16(x)); }
inline F RoundF16(F x) { return _mm256_cvtph_ps(ToF16(x)); }

inline void UnpackInts(const uint8_t* from, const uint8_t* scales, uint16_t* to, int64_t stride) {
  for (int g = 0; g < 16; ++g) {
    const F scale = _mm256_castsi256_ps(_mm256_set1_epi32(scales[g] << 23));
    for (int i = 0; i < 32; i += kLanes) {
      const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from + g * 32 + i));
      const F numbers = Mul(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)), scale);
      const __m256i high = _mm256_srli_epi32(_mm256_castps_si256(numbers), 16);
      Store16(to + g * stride + i,
              _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1)));
    }
  }
}

// The 16 numbers there are, times the group's power of two, are looked up, byte by byte.
inline void UnpackFp4(const uint8_t* from, const uint8_t* scales, uint16_t* to, int64_t stride) {
  const __m128i positive =
      _mm_setr_epi16(0, 0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040, 0x4080, 0x40c0);
  const __m128i not_zero = _mm_setr_epi16(0, -1, -1, -1, -1, -1, -1, -1);
  const __m128i sign = _mm_set1_epi16(-0x8000), low = _mm_set1_epi16(0xff);
  for (int g = 0; g < 16; ++g) {
    const __m128i power = _mm_set1_epi16(static_cast<int16_t>((scales[g] - 127) * 128));
    const __m128i up = _mm_add_epi16(positive, _mm_and_si128(power, not_zero));
    const __m128i down = _mm_or_si128(up, sign);
    const __m128i lows = _mm_packus_epi16(_mm_and_si128(up, low), _mm_and_si128(down, low));
    const __m128i highs = _mm_packus_epi16(_mm_srli_epi16(up, 8), _mm_srli_epi16(down, 8));
    const __m128i bytes = Load16(from + g * 16);
    const __m128i nibble = _mm_set1_epi8(15);
    const __m128i even = _mm_and_si128(bytes, nibble);
    const __m128i odd = _mm_and_si128(_mm_srli_epi16(bytes, 4), nibble);
    const __m128i indexes[] = {_mm_unpacklo_epi8(even, odd), _mm_unpackhi_epi8(even, odd)};
    for (int half = 0; half < 2; ++half) {
      const __m128i l = _mm_shuffle_epi8(lows, indexes[half]);
      const __m128i h = _mm_shuffle_epi8(highs, indexes[half]);
      Store16(to + g * stride + half * 16, _mm_unpacklo_epi8(l, h));
      Store16(to + g * stride + half * 16 + 8, _mm_unpackhi_epi8(l, h));
    }
  }
}

// Lanes i and i + 4, then + 2, + 1.
inline float Sum(F x) {
  const __m128 by4 = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  const __m128 by2 = _mm_add_ps(by4, _mm_movehl_ps(by4, by4));
  return _mm_cvtss_f32(_mm_add_ss(by2, _mm_movehdup_ps(by2)));
}

inline float MaxLane(F x) {
  const __m128 by4 = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  const __m128 by2 = _mm_max_ps(by4, _mm_movehl_ps(by4, by4));
  return _mm_cvtss_f32(_mm_max_ss(by2, _mm_movehdup_ps(by2)));
}

template <int N>
inline void StoreSums(const F* x, float* out) {
  for (int i = 0; i < N; ++i) out[i] = Sum(x[i]);
}

}  // namespace
}  // namespace conclave::worker::cpu

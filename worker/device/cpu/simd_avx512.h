#pragma once
// Vectors of 16 floats in AVX-512 (F, BW, DQ, VL). See kernels-inl.h for what each function
// promises.

#include <immintrin.h>

#include <cstdint>

namespace conclave::worker::cpu {
namespace {

using F = __m512;
constexpr int kLanes = 16;
constexpr int kTileRows = 4;     // of x in a tile of a product
constexpr int kTileColumns = 4;  // rows of w in it
constexpr int kMixRows = 4;
constexpr int kMixVectors = 4;

inline __mmask16 First(int64_t n) { return static_cast<__mmask16>((1u << n) - 1); }

inline F Zero() { return _mm512_setzero_ps(); }
inline F Set(float x) { return _mm512_set1_ps(x); }
inline F Add(F a, F b) { return _mm512_add_ps(a, b); }
inline F Sub(F a, F b) { return _mm512_sub_ps(a, b); }
inline F Mul(F a, F b) { return _mm512_mul_ps(a, b); }
inline F Div(F a, F b) { return _mm512_div_ps(a, b); }
inline F Fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
inline F Max(F a, F b) { return _mm512_max_ps(a, b); }
inline F Min(F a, F b) { return _mm512_min_ps(a, b); }

inline F Pow2(F n) {
  const __m512i exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
  return _mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23));
}

inline F Load(const void* p) { return _mm512_loadu_ps(p); }
inline F LoadPart(const void* p, int64_t n) { return _mm512_maskz_loadu_ps(First(n), p); }
inline void Store(void* p, F x) { _mm512_storeu_ps(p, x); }
inline void StorePart(void* p, int64_t n, F x) { _mm512_mask_storeu_ps(p, First(n), x); }

inline F FromBf16(__m256i x) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}
inline __m256i ToBf16(F x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_mov_epi32(up, nan, quiet), 16));
}
inline F LoadBf16(const void* p) {
  return FromBf16(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
}
inline F LoadBf16Part(const void* p, int64_t n) {
  return FromBf16(_mm256_maskz_loadu_epi16(First(n), p));
}
inline void StoreBf16(void* p, F x) { _mm256_storeu_si256(static_cast<__m256i*>(p), ToBf16(x)); }
inline void StoreBf16Part(void* p, int64_t n, F x) {
  _mm256_mask_storeu_epi16(p, First(n), ToBf16(x));
}
inline F RoundBf16(F x) { return FromBf16(ToBf16(x)); }

inline __m256i ToF16(F x) {
  return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline F LoadF16(const void* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
}
inline F LoadF16Part(const void* p, int64_t n) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(First(n), p));
}
inline void StoreF16(void* p, F x) { _mm256_storeu_si256(static_cast<__m256i*>(p), ToF16(x)); }
inline void StoreF16Part(void* p, int64_t n, F x) {
  _mm256_mask_storeu_epi16(p, First(n), ToF16(x));
}
inline F RoundF16(F x) { return _mm512_cvtph_ps(ToF16(x)); }

inline __m512i LoadScales(const uint8_t* scales) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(scales)));
}

// A byte in the last places of a float whose last place is worth the group's power of two, less
// what such a float is of zero: so the even ones of two bytes are made; the odd ones stay where
// they are, eight places higher in a float worth as much less. `bias` is of the byte too: it makes
// the sign a number.
inline void UnpackInts(const uint8_t* from, const uint8_t* scales, uint16_t* to, int64_t stride) {
  alignas(64) uint32_t even[16], odd[16];
  const __m512i scale = LoadScales(scales);
  const auto zero_of = [&](int exponent, int bias) {
    const __m512i up = _mm512_add_epi32(scale, _mm512_set1_epi32(exponent));
    return _mm512_or_si512(_mm512_slli_epi32(up, 23), _mm512_set1_epi32(bias));
  };
  _mm512_store_si512(even, zero_of(23, 0x80));
  _mm512_store_si512(odd, zero_of(23 - 8, 0x8000));
  asm(""
      : "+m"(even), "+m"(odd));  // a load fills a vector with one; out of a register it is dearer
  for (int g = 0; g < 16; ++g) {
    const __m512i pairs =
        _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + g * 32)));
    const auto number = [&](uint32_t zero, int byte) {
      const __m512i with = _mm512_set1_epi32(static_cast<int>(zero));
      // (pairs & byte) ^ with
      const __m512i made = _mm512_ternarylogic_epi32(pairs, _mm512_set1_epi32(byte), with, 0x6a);
      return _mm512_castps_si512(Sub(_mm512_castsi512_ps(made), _mm512_castsi512_ps(with)));
    };
    const __m512i first = _mm512_srli_epi32(number(even[g], 0xff), 16);
    const __m512i second = number(odd[g], 0xff00);
    _mm512_storeu_si512(to + g * stride, _mm512_mask_mov_epi16(second, 0x55555555, first));
  }
}

// The 16 numbers there are, times the group's power of two, are looked up.
inline void UnpackFp4(const uint8_t* from, const uint8_t* scales, uint16_t* to, int64_t stride) {
  alignas(64) static constexpr uint16_t kValues[32] = {
      0,      0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040, 0x4080, 0x40c0, 0x8000, 0xbf00, 0xbf80,
      0xbfc0, 0xc000, 0xc040, 0xc080, 0xc0c0, 0,      0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040,
      0x4080, 0x40c0, 0x8000, 0xbf00, 0xbf80, 0xbfc0, 0xc000, 0xc040, 0xc080, 0xc0c0};
  constexpr __mmask32 kNotZero = 0xfefefefe;
  alignas(64) uint32_t powers[16];  // of both words of a lane
  const __m512i power = _mm512_slli_epi32(
      _mm512_and_si512(_mm512_sub_epi32(LoadScales(scales), _mm512_set1_epi32(127)),
                       _mm512_set1_epi32(0x1ff)),
      7);
  _mm512_store_si512(powers, _mm512_or_si512(power, _mm512_slli_epi32(power, 16)));
  asm("" : "+m"(powers));  // as above
  const __m512i values = _mm512_load_si512(kValues);
  for (int g = 0; g < 16; ++g) {
    const __m512i bytes =
        _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + g * 16)));
    // Four bits in the last places of each word; of those above the lookup takes one, and so the
    // table is there twice.
    const __m512i index = _mm512_or_si512(bytes, _mm512_slli_epi32(bytes, 12));
    const __m512i table = _mm512_mask_add_epi16(values, kNotZero, values,
                                                _mm512_set1_epi32(static_cast<int>(powers[g])));
    _mm512_storeu_si512(to + g * stride, _mm512_permutexvar_epi16(index, table));
  }
}

// Lanes i and i + 8, then + 4, + 2, + 1.
inline float Sum(F x) {
  const __m256 by8 = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
  const __m128 by4 = _mm_add_ps(_mm256_castps256_ps128(by8), _mm256_extractf128_ps(by8, 1));
  const __m128 by2 = _mm_add_ps(by4, _mm_movehl_ps(by4, by4));
  return _mm_cvtss_f32(_mm_add_ss(by2, _mm_movehdup_ps(by2)));
}

inline float MaxLane(F x) {
  const __m256 by8 = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
  const __m128 by4 = _mm_max_ps(_mm256_castps256_ps128(by8), _mm256_extractf128_ps(by8, 1));
  const __m128 by2 = _mm_max_ps(by4, _mm_movehl_ps(by4, by4));
  return _mm_cvtss_f32(_mm_max_ss(by2, _mm_movehdup_ps(by2)));
}

// Sum() of each of n vectors; four share the steps of one tree.
template <int N>
inline void StoreSums(const F* x, float* out) {
  if constexpr (N == 4) {
    const F ab =
        Add(_mm512_shuffle_f32x4(x[0], x[1], 0x44), _mm512_shuffle_f32x4(x[0], x[1], 0xee));
    const F cd =
        Add(_mm512_shuffle_f32x4(x[2], x[3], 0x44), _mm512_shuffle_f32x4(x[2], x[3], 0xee));
    const F by4 = Add(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
    const F by2 = Add(by4, _mm512_permute_ps(by4, 0x4e));
    const F by1 = Add(by2, _mm512_permute_ps(by2, 0xb1));
    const __m512i first = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_permutexvar_ps(first, by1)));
  } else {
    for (int i = 0; i < N; ++i) out[i] = Sum(x[i]);
  }
}

}  // namespace
}  // namespace conclave::worker::cpu

// Products of BF16 by AMX: a tile of 16 rows of w, as they lie in memory, times a tile of up to 16
// rows of x, packed. One instruction sums 32 columns for 256 outputs, so that even a batch of
// hundreds of rows waits for the memory that w comes from.
//
// Of every output the even and the odd ones of 32 columns are summed apart, in ascending order,
// then their sum is added to that of the columns before: the instruction's own order, the same in
// every shape. Of rows that are split, all that is high comes before all that is low.

#include "worker/device/cpu/simd_avx512.h"
// The vectors come first: the kernels are written over them.
#include "worker/device/cpu/kernels-inl.h"
// And these over both.
#include "worker/device/cpu/tiles_amxbf16.h"

namespace conclave::worker::cpu {
namespace {

// The 16 x 16 words of rows[] the other way round.
inline void Transpose(__m512i* rows) {
  __m512i a[16], b[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    a[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    b[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
    b[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
    b[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
    b[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    a[i] = _mm512_shuffle_i32x4(b[i], b[i + 4], 0x88);
    a[i + 4] = _mm512_shuffle_i32x4(b[i], b[i + 4], 0xdd);
    a[i + 8] = _mm512_shuffle_i32x4(b[i + 8], b[i + 12], 0x88);
    a[i + 12] = _mm512_shuffle_i32x4(b[i + 8], b[i + 12], 0xdd);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    rows[i] = _mm512_shuffle_i32x4(a[i], a[i + 8], 0x88);
    rows[i + 4] = _mm512_shuffle_i32x4(a[i + 4], a[i + 12], 0x88);
    rows[i + 8] = _mm512_shuffle_i32x4(a[i], a[i + 8], 0xdd);
    rows[i + 12] = _mm512_shuffle_i32x4(a[i + 4], a[i + 12], 0xdd);
  }
}

inline __m512i Ascending() {
  return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}
// Rows up to which words are gathered and scattered one by one rather than transposed.
constexpr int kFew = 4;

// out[i][column + j] = sums[j][i], i < m, j < n.
void StoreTile(const float* sums, int m, int n, int64_t column, float* const* out) {
  const __mmask16 mask = First(n);
  if (m == 1) return _mm512_mask_storeu_ps(out[0] + column, mask, Load(sums));
  if (m <= kFew) {
    const __m512i each = _mm512_mullo_epi32(Ascending(), _mm512_set1_epi32(m));
    for (int i = 0; i < m; ++i) {
      _mm512_mask_storeu_ps(out[i] + column, mask, _mm512_i32gather_ps(each, sums + i, 4));
    }
    return;
  }
  __m512i rows[kSide];
  const __mmask16 have = First(m);
#pragma GCC unroll 16
  for (int j = 0; j < kSide; ++j) rows[j] = _mm512_maskz_loadu_epi32(have, sums + j * m);
  Transpose(rows);
  alignas(64) float turned[kSide][kSide];
#pragma GCC unroll 16
  for (int i = 0; i < kSide; ++i) _mm512_store_si512(turned[i], rows[i]);
  for (int i = 0; i < m; ++i) _mm512_mask_storeu_ps(out[i] + column, mask, Load(turned[i]));
}

// Rows of w that lie as they are multiplied, 16 of which begin at each of run(0), run(1) ..
template <typename Run>
struct PlainRows {
  Run run;
  int64_t stride;
  // Where x has many panels tiles are copied, never those of split rows.
  bool many;

  static constexpr int64_t kBufferBytes = kBlock / kStep * kTileBytes;
  int64_t block(int64_t k) const { return many ? kBlock : k; }
  // Rows [row, + count), so that columns [begin, end) of them can be multiplied.
  WeightTile Make(int row, int count, int64_t begin, int64_t end, char* buffer) const {
    const WeightTile tile = {run(row / kSide), stride, count};
    if (!many) return tile;
    for (int64_t c = begin; c < end; c += kStep) {
      CopyTile(tile, c, end - c < kStep ? end - c : kStep,
               buffer + (c - begin) / kStep * kTileBytes);
    }
    return {buffer - begin / kStep * kTileBytes, 64, kSide, kTileBytes};
  }
};

// Bands of packed w. Some columns at a time become tiles: few enough that these, what they were and
// what is fetched stay in the first cache together.
template <UnpackTile kUnpack, int kGroupBytes>
struct PackedRows {
  const uint8_t* data;
  const uint8_t* scales;
  int64_t k;

  static constexpr int64_t kBufferBytes = kBlock / kStep * kTileBytes;
  int64_t block(int64_t) const { return kBlock; }
  WeightTile Make(int row, int count, int64_t begin, int64_t end, char* buffer) const {
    const int64_t first = row * (k / 32) + begin / 32 * kSide;  // of groups
    for (int64_t c = 0; c < end - begin; c += kStep) {
      UnpackBand<kUnpack, kGroupBytes>(data + (first + c / 2) * kGroupBytes, scales + first + c / 2,
                                       kStep, reinterpret_cast<uint16_t*>(buffer) + c * kSide,
                                       kStep);
    }
    return {buffer - begin / kStep * kTileBytes, 64, count, kTileBytes};
  }
};

// Rows [row, + rows) of w, kTiles tiles of them.
template <int kTiles, class Rows>
void DotTiles(const Panel* x, int panels, const Rows& w, int row, int rows, int64_t k,
              float* const* out) {
  alignas(64) float sums[kTiles][kPanels][kSide * kSide];
  alignas(64) char buffers[kTiles][Rows::kBufferBytes];
  const int64_t block = w.block(k);
  const auto count = [&](int tile) {
    return rows - tile * kSide < kSide ? rows - tile * kSide : kSide;
  };
  for (int64_t begin = 0; begin < k; begin += block) {
    const int64_t end = k - begin < block ? k : begin + block;
    WeightTile from[kTiles];
    for (int tile = 0; tile < kTiles; ++tile)
      from[tile] = w.Make(row + tile * kSide, count(tile), begin, end, buffers[tile]);
    for (int p = 0; p < panels; p += kWays) {
      float(*const at[])[kSide * kSide] = {&sums[0][p], &sums[kTiles - 1][p]};
      if (p + 1 < panels) {
        Configure(x[p].rows, x[p + 1].rows);
        AddProducts<kTiles, 2>(x + p, from, begin, end, at);
      } else {
        Configure(x[p].rows, kSide);
        AddProducts<kTiles, 1>(x + p, from, begin, end, at);
      }
    }
  }
  for (int p = 0; p < panels; ++p) {
    for (int tile = 0; tile < kTiles; ++tile) {
      StoreTile(sums[tile][p], x[p].rows, count(tile), row + tile * kSide, out + p * kSide);
    }
  }
}

// Panels of m rows that follow one another; returns how many.
int Panels(const void* x, const void* low, int m, int64_t k, Panel* panels) {
  int count = 0;
  int64_t at = 0;
  for (int i = 0; i < m; i += kSide) {
    const int rows = m - i < kSide ? m - i : kSide;
    panels[count++] = {static_cast<const char*>(x) + at, rows,
                       low != nullptr ? static_cast<const char*>(low) + at : nullptr};
    at += rows * PackedRowBytes(k);
  }
  return count;
}

template <class Rows>
void DotRows(const Panel* panels, int count, const Rows& w, int n, int64_t k, float* const* out) {
  for (int j = 0; j < n; j += kWays * kSide) {
    const int rows = n - j < kWays * kSide ? n - j : kWays * kSide;
    if (rows > kSide) {
      DotTiles<2>(panels, count, w, j, rows, k, out);
    } else {
      DotTiles<1>(panels, count, w, j, rows, k, out);
    }
  }
}

void DotPanels(const void* x, int m, const void* w, int64_t stride, int n, int64_t k,
               float* const* out) {
  Panel panels[kPanels];
  const int count = Panels(x, nullptr, m, k, panels);
  const auto run = [=, rows = static_cast<const char*>(w)](int i) {
    return rows + i * kSide * stride;
  };
  DotRows(panels, count, PlainRows<decltype(run)>{run, stride, count >= kManyPanels}, n, k, out);
}

template <UnpackTile kUnpack, int kGroupBytes>
void DotPacked(const void* x, int m, const void* w, const uint8_t* scales, int n, int64_t k,
               float* const* out) {
  Panel panels[kPanels];
  const int count = Panels(x, nullptr, m, k, panels);
  const PackedRows<kUnpack, kGroupBytes> rows = {static_cast<const uint8_t*>(w), scales, k};
  DotRows(panels, count, rows, n, k, out);
}

void DotSplit(const void* high, const void* low, int m, const void* const* w, int64_t stride, int n,
              int64_t k, float* const* out) {
  Panel panels[kPanels];
  const int count = Panels(high, low, m, k, panels);
  const auto run = [=](int i) { return static_cast<const char*>(w[i]); };
  DotRows(panels, count, PlainRows<decltype(run)>{run, stride, false}, n, k, out);
}

// As the product takes them: what is denormal is zero.
inline __m512i Narrowed(F low, F high) {
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
}

// What BF16 leaves of x.
inline F Left(F x, __m256i rounded) { return Sub(x, FromBf16(rounded)); }

// Words of m rows side by side: what a tile of x is.
inline void StorePairs(__m512i* rows, int m, char* to) {
  if (m == 1) {
    _mm512_storeu_si512(to, rows[0]);
  } else if (m <= kFew) {
    const __m512i each = _mm512_mullo_epi32(Ascending(), _mm512_set1_epi32(m));
    for (int i = 0; i < m; ++i) _mm512_i32scatter_epi32(to + i * 4, each, rows[i], 4);
  } else {
    for (int i = m; i < kSide; ++i) rows[i] = _mm512_setzero_si512();
    Transpose(rows);
    const __mmask16 mask = First(m);
    for (int pair = 0; pair < kSide; ++pair) {
      _mm512_mask_storeu_epi32(to + pair * m * 4, mask, rows[pair]);
    }
  }
}

template <bool kSplit>
void PackRows(const float* const* x, int m, int64_t k, void* panel, void* rest) {
  for (int64_t c = 0; c < k; c += kStep) {
    const int64_t left = k - c;
    const int64_t first = left < kLanes ? left : kLanes;
    const int64_t second = left < kStep ? left - first : kLanes;
    __m512i rows[kSide], lows[kSide];
    for (int i = 0; i < m; ++i) {
      const bool whole = left >= kStep;
      const F a = whole ? Load(x[i] + c) : LoadPart(x[i] + c, first);
      const F b = whole ? Load(x[i] + c + kLanes) : LoadPart(x[i] + c + first, second);
      rows[i] = Narrowed(a, b);
      if constexpr (kSplit) {
        lows[i] = Narrowed(Left(a, _mm512_castsi512_si256(rows[i])),
                           Left(b, _mm512_extracti64x4_epi64(rows[i], 1)));
      }
    }
    StorePairs(rows, m, static_cast<char*>(panel) + c * 2 * m);
    if constexpr (kSplit) StorePairs(lows, m, static_cast<char*>(rest) + c * 2 * m);
  }
}

void Pack(const float* const* x, int m, int64_t k, void* panel) {
  PackRows<false>(x, m, k, panel, nullptr);
}

void PackSplit(const float* const* x, int m, int64_t k, void* high, void* low) {
  PackRows<true>(x, m, k, high, low);
}

// Rows of w in pairs, columns [column, + 32) in two tiles: in each word a column of both rows.
void PairRows(const void* const* w, int k, int64_t column, int64_t columns, char* tiles) {
  alignas(64) static constexpr uint16_t kFirst[32] = {0,  32, 1,  33, 2,  34, 3,  35, 4,  36, 5,
                                                      37, 6,  38, 7,  39, 8,  40, 9,  41, 10, 42,
                                                      11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  const __m512i first = _mm512_load_si512(kFirst);
  const __m512i second = _mm512_add_epi16(first, _mm512_set1_epi16(16));
  const auto mask = static_cast<__mmask32>((uint64_t{1} << columns) - 1);
  const auto row = [&](int j) {
    if (j >= k || w[j] == nullptr) return _mm512_setzero_si512();
    return _mm512_maskz_loadu_epi16(mask, static_cast<const char*>(w[j]) + column * 2);
  };
  for (int j = 0; j < kStep; j += 2) {
    const __m512i even = row(j), odd = row(j + 1);
    _mm512_store_si512(tiles + j * 32, _mm512_permutex2var_epi16(even, first, odd));
    _mm512_store_si512(tiles + kTileBytes + j * 32, _mm512_permutex2var_epi16(even, second, odd));
  }
}

// out[i] = (scale ? scale[i] * out[i] : 0) + sums[i], m rows, `columns` of two tiles' 32.
void AddSums(const float (*sums)[kSide][kSide], const float* scale, int m, int64_t column,
             int64_t columns, float* const* out) {
  for (int i = 0; i < m; ++i) {
    for (int half = 0; half < 2; ++half) {
      const int64_t left = columns - half * kLanes;
      if (left <= 0) break;
      float* to = out[i] + column + half * kLanes;
      const int64_t n = left < kLanes ? left : kLanes;
      const F sum = Load(sums[half][i]);
      StorePart(to, n, scale ? Fma(Set(scale[i]), LoadPart(to, n), sum) : sum);
    }
  }
}

void MixSplit(const float* const* p, int m, const void* const* w, int k, int64_t n,
              const float* scale, float* const* out) {
  constexpr int kGroups = kSplitRows / kSide;
  constexpr int kChunks = kAttentionTile / kStep;
  // p by 16 rows, in both parts, and by 32 columns; missing ones are zero.
  alignas(64) char parts[kGroups][kChunks][2][kTileBytes];
  const int groups = (m + kSide - 1) / kSide;
  const int chunks = (k + kStep - 1) / kStep;
  for (int i = 0; i < groups * kSide; ++i) {
    for (int chunk = 0; chunk < chunks; ++chunk) {
      const int64_t left = i < m ? k - chunk * kStep : 0;
      const int64_t first = left < 0 ? 0 : left < kLanes ? left : kLanes;
      const int64_t second = left < kStep ? left - first : kLanes;
      const float* from = i < m ? p[i] + chunk * kStep : nullptr;
      const F a = first > 0 ? LoadPart(from, first) : Zero();
      const F b = second > 0 ? LoadPart(from + first, second) : Zero();
      const __m512i high = Narrowed(a, b);
      char(*to)[kTileBytes] = parts[i / kSide][chunk];
      _mm512_store_si512(to[0] + i % kSide * 64, high);
      _mm512_store_si512(to[1] + i % kSide * 64,
                         Narrowed(Left(a, _mm512_castsi512_si256(high)),
                                  Left(b, _mm512_extracti64x4_epi64(high, 1))));
    }
  }
  Configure(kSide, kSide);
  for (int64_t c = 0; c < n; c += kStep) {
    const int64_t columns = n - c < kStep ? n - c : kStep;
    alignas(64) char pairs[kChunks][2][kTileBytes];
    for (int chunk = 0; chunk < chunks; ++chunk) {
      PairRows(w + chunk * kStep, k - chunk * kStep, c, columns, pairs[chunk][0]);
    }
    Settle();
    for (int group = 0; group < groups; ++group) {
      _tile_zero(0);
      _tile_zero(1);
      for (int chunk = 0; chunk < chunks; ++chunk) {
        _tile_loadd(6, pairs[chunk][0], 64);
        _tile_loadd(7, pairs[chunk][1], 64);
        _tile_loadd(4, parts[group][chunk][0], 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, parts[group][chunk][1], 64);
        _tile_dpbf16ps(0, 5, 6);
        _tile_dpbf16ps(1, 5, 7);
      }
      alignas(64) float sums[2][kSide][kSide];
      _tile_stored(0, sums[0], 64);
      _tile_stored(1, sums[1], 64);
      const int first = group * kSide;
      AddSums(sums, scale ? scale + first : nullptr, m - first < kSide ? m - first : kSide, c,
              columns, out + first);
    }
  }
}

constexpr Tiles kTiles = {.pack = Pack,
                          .dot = DotPanels,
                          .dot_packed = {DotPacked<UnpackInts, 32>, DotPacked<UnpackFp4, 16>},
                          .pack_split = PackSplit,
                          .dot_split = DotSplit,
                          .mix_split = MixSplit};
static_assert(kSplitRows / kSide < kManyPanels);

}  // namespace

const Kernels kKernelsAmxBf16 = Table(nullptr, &kTiles);

}  // namespace conclave::worker::cpu

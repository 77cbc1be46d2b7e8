// Products of BF16 by AMX: a tile of 16 rows of w, as they lie in memory, times a tile of up to 16
// rows of x, packed. One instruction sums 32 columns for 256 outputs, so that even a batch of
// hundreds of rows waits for the memory that w comes from.
//
// Of every output the even and the odd ones of 32 columns are summed apart, in ascending order,
// then their sum is added to that of the columns before: the instruction's own order, the same in
// every shape.

#include "worker/device/cpu/simd_avx512.h"
// The vectors come first: the kernels are written over them.
#include "worker/device/cpu/kernels-inl.h"

namespace conclave::worker::cpu {
namespace {

constexpr int kSide = kPanelRows;  // rows of a tile, of w or of x
constexpr int kStep = 32;          // columns of x and w in a tile
constexpr int kWays = 2;           // tiles of w, and of x, that are multiplied with each other
constexpr int kPanels = kTileDotRows / kSide;
constexpr int64_t kTileBytes = kSide * 64;
// Where x has many panels, w is copied tile by tile, so many columns at a time: they stay in the
// first cache, where rows a power of two apart would displace each other.
constexpr int kManyPanels = 4;
constexpr int64_t kBlock = 128;

// Tiles: 0 .. 3 sums [tile of w][panel], 4 and 5 of w, 6 and 7 of x.
struct alignas(64) TileConfig {
  uint8_t palette;
  uint8_t start_row;
  uint8_t reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};

// The rows in both panels that the tiles of this thread are set for. Setting them costs as much as
// a few products.
thread_local int configured = -1;

void Configure(int m0, int m1) {
  if (configured == (m0 << 8 | m1)) return;
  configured = m0 << 8 | m1;
  TileConfig config = {.palette = 1};
  const uint16_t panels[kWays] = {static_cast<uint16_t>(m0 * 4), static_cast<uint16_t>(m1 * 4)};
  const uint16_t bytes[] = {panels[0], panels[1], panels[0], panels[1],
                            64,        64,        panels[0], panels[1]};
  for (int tile = 0; tile < 8; ++tile) {
    config.row_bytes[tile] = bytes[tile];
    config.rows[tile] = kSide;
  }
  // The intrinsic of GCC 12 claims to read 8 bytes only.
  asm volatile("ldtilecfg %0" ::"m"(config));
}

// What was written before is in memory before tiles are loaded: their intrinsics do not say that
// they read it.
inline void Settle() { asm volatile("" ::: "memory"); }

// 16 rows of w, fewer at its end.
struct WeightTile {
  const char* rows;
  int64_t stride;            // bytes from a row to the next
  int count;                 // of rows
  int64_t step = kStep * 2;  // bytes from a tile's columns to the next tile's

  const char* at(int64_t column) const { return rows + column / kStep * step; }
};

// Beyond the last row or column are zeros.
inline void CopyTile(const WeightTile& w, int64_t column, int64_t columns, char* copy) {
  const char* from = w.at(column);
  if (w.count == kSide && columns == kStep) {
#pragma GCC unroll 16
    for (int r = 0; r < kSide; ++r, from += w.stride) {
      _mm512_store_si512(copy + r * 64, _mm512_loadu_si512(from));
    }
    return;
  }
  const auto mask = static_cast<__mmask32>((uint64_t{1} << columns) - 1);
  for (int r = 0; r < kSide; ++r) {
    const __mmask32 have = r < w.count ? mask : 0;
    _mm512_store_si512(copy + r * 64, _mm512_maskz_loadu_epi16(have, from + r * w.stride));
  }
}

struct Panel {
  const char* data;
  int rows;
  int64_t row_bytes() const { return rows * 4; }
  const char* at(int64_t column) const { return data + column * 2 * rows; }
  int64_t step() const { return rows * 64; }
};

// Where tiles are loaded from: rows `stride` bytes apart, the next columns' tile `step` behind.
struct Place {
  const char* data;
  int64_t stride;
  int64_t step;
};

// Adds the products of so many tiles to the sums in the tiles.
template <int kTiles, int kPair>
inline void MultiplyTiles(const Place* x, const Place* w, int64_t count) {
  const char* x0 = x[0].data;
  const char* x1 = x[kPair - 1].data;
  const char* w0 = w[0].data;
  const char* w1 = w[kTiles - 1].data;
  for (int64_t i = 0; i < count; ++i) {
    _tile_loadd(6, x0, x[0].stride);
    _tile_loadd(4, w0, w[0].stride);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (kPair == 2) {
      _tile_loadd(7, x1, x[1].stride);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (kTiles == 2) {
      _tile_loadd(5, w1, w[1].stride);
      _tile_dpbf16ps(2, 5, 6);
      if constexpr (kPair == 2) _tile_dpbf16ps(3, 5, 7);
    }
    x0 += x[0].step;
    x1 += x[kPair - 1].step;
    w0 += w[0].step;
    w1 += w[kTiles - 1].step;
  }
}

// Adds the products of columns [begin, end) to sums [tile of w][panel][kSide][rows of the panel].
template <int kTiles, int kPair>
void AddProducts(const Panel* x, const WeightTile* w, int64_t begin, int64_t end,
                 float (*const* sums)[kSide * kSide]) {
  const auto sum = [&](int tile, int panel) { return sums[tile][panel]; };
  Settle();
  if (begin == 0) {
    _tile_zero(0);
    if constexpr (kPair == 2) _tile_zero(1);
    if constexpr (kTiles == 2) _tile_zero(2);
    if constexpr (kTiles == 2 && kPair == 2) _tile_zero(3);
  } else {
    _tile_loadd(0, sum(0, 0), x[0].row_bytes());
    if constexpr (kPair == 2) _tile_loadd(1, sum(0, 1), x[1].row_bytes());
    if constexpr (kTiles == 2) _tile_loadd(2, sum(1, 0), x[0].row_bytes());
    if constexpr (kTiles == 2 && kPair == 2) _tile_loadd(3, sum(1, 1), x[1].row_bytes());
  }
  const Place from_x[] = {{x[0].at(begin), x[0].row_bytes(), x[0].step()},
                          {x[kPair - 1].at(begin), x[kPair - 1].row_bytes(), x[kPair - 1].step()}};
  Place from_w[kTiles];
  bool rows = true;
  for (int tile = 0; tile < kTiles; ++tile) {
    from_w[tile] = {w[tile].at(begin), w[tile].stride, w[tile].step};
    rows = rows && w[tile].count == kSide;
  }
  const int64_t whole = rows ? (end - begin) / kStep : 0;
  MultiplyTiles<kTiles, kPair>(from_x, from_w, whole);
  // At an end of w: copies, one tile after the other.
  for (int64_t c = begin + whole * kStep; c < end; c += kStep) {
    alignas(64) char copies[kTiles][kTileBytes];
    const Place next_x[] = {{x[0].at(c), x[0].row_bytes(), 0},
                            {x[kPair - 1].at(c), x[kPair - 1].row_bytes(), 0}};
    for (int tile = 0; tile < kTiles; ++tile) {
      CopyTile(w[tile], c, end - c < kStep ? end - c : kStep, copies[tile]);
      from_w[tile] = {copies[tile], 64, 0};
    }
    Settle();
    MultiplyTiles<kTiles, kPair>(next_x, from_w, 1);
  }
  _tile_stored(0, sum(0, 0), x[0].row_bytes());
  if constexpr (kPair == 2) _tile_stored(1, sum(0, 1), x[1].row_bytes());
  if constexpr (kTiles == 2) _tile_stored(2, sum(1, 0), x[0].row_bytes());
  if constexpr (kTiles == 2 && kPair == 2) _tile_stored(3, sum(1, 1), x[1].row_bytes());
}

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

template <int kTiles>
void DotTiles(const Panel* x, int panels, const WeightTile* w, int64_t k, int64_t column,
              float* const* out) {
  alignas(64) float sums[kTiles][kPanels][kSide * kSide];
  alignas(64) char copies[kTiles][kBlock / kStep * kTileBytes];
  const bool many = panels >= kManyPanels;
  const int64_t block = many ? kBlock : k;
  for (int64_t begin = 0; begin < k; begin += block) {
    const int64_t end = k - begin < block ? k : begin + block;
    WeightTile from[kTiles];
    for (int tile = 0; tile < kTiles; ++tile) {
      from[tile] = w[tile];
      if (!many) continue;
      for (int64_t c = begin; c < end; c += kStep) {
        const int64_t columns = end - c < kStep ? end - c : kStep;
        CopyTile(w[tile], c, columns, copies[tile] + (c - begin) / kStep * kTileBytes);
      }
      from[tile] = {copies[tile] - begin / kStep * kTileBytes, 64, kSide, kTileBytes};
    }
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
      StoreTile(sums[tile][p], x[p].rows, w[tile].count, column + tile * kSide, out + p * kSide);
    }
  }
}

void DotPacked(const void* x, int m, const void* w, int64_t stride, int n, int64_t k,
               float* const* out) {
  Panel panels[kPanels];
  int count = 0;
  const auto* data = static_cast<const char*>(x);
  for (int i = 0; i < m; i += kSide) {
    const int rows = m - i < kSide ? m - i : kSide;
    panels[count++] = {data, rows};
    data += rows * PackedRowBytes(k);
  }
  const auto* row = static_cast<const char*>(w);
  for (int j = 0; j < n; j += kWays * kSide) {
    const int first = n - j < kSide ? n - j : kSide;
    const int second = n - j - first < kSide ? n - j - first : kSide;
    const WeightTile tiles[kWays] = {{row + j * stride, stride, first},
                                     {row + (j + kSide) * stride, stride, second}};
    if (second > 0) {
      DotTiles<2>(panels, count, tiles, k, j, out);
    } else {
      DotTiles<1>(panels, count, tiles, k, j, out);
    }
  }
}

// Pairs of columns of all rows side by side: what a tile of x is.
void Pack(const float* const* x, int m, int64_t k, void* panel) {
  auto* to = static_cast<char*>(panel);
  // As the product takes them: what is denormal is zero.
  const auto rounded = [](F low, F high) {
    return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
  };
  for (int64_t c = 0; c < k; c += kStep) {
    const int64_t left = k - c;
    __m512i rows[kSide];
    for (int i = 0; i < m; ++i) {
      if (left >= kStep) {
        rows[i] = rounded(Load(x[i] + c), Load(x[i] + c + kLanes));
      } else {
        const int64_t low = left < kLanes ? left : kLanes;
        rows[i] = rounded(LoadPart(x[i] + c, low), LoadPart(x[i] + c + low, left - low));
      }
    }
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
    to += m * 64;
  }
}

constexpr Tiles kTiles = {.pack = Pack, .dot = DotPacked};

}  // namespace

const Kernels kKernelsAmxBf16 = Table(nullptr, &kTiles);

}  // namespace conclave::worker::cpu

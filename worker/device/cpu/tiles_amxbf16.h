#pragma once
// Tiles of AMX, and sums of their products in the order that kernels_amxbf16.cc tells. Included
// there alone, behind kernels-inl.h.

#include <immintrin.h>

#include <cstdint>

#include "worker/device/cpu/kernels.h"

namespace conclave::worker::cpu {
namespace {

constexpr int kSide = kPanelRows;  // rows of a tile, of w or of x
constexpr int kStep = 32;          // columns of x and w in a tile
constexpr int kWays = 2;           // tiles of w, and of x, that are multiplied with each other
constexpr int kPanels = kTileDotRows / kSide;
constexpr int64_t kTileBytes = kSide * 64;
// Where x has many panels, w is copied tile by tile, so many columns at a time: they stay in the
// first cache, where rows a power of two apart would displace each other.
constexpr int kManyPanels = 5;
constexpr int64_t kBlock = 128;

// Tiles: 0 .. 3 sums [tile of w][panel], 4 and 5 of w, 6 and 7 of x.
struct alignas(64) TileConfig {
  uint8_t palette;
  uint8_t start_row;
  uint8_t reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};

// The rows in both panels that the tiles of this thread are set for: nobody else sets tiles in a
// thread that computes. Setting them costs as much as a few products.
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

// What was written before is in memory before tiles are loaded, and what is written after them
// comes after: their intrinsics do not say that they read memory.
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
  const char* low = nullptr;  // of split rows: what `data` leaves
  int64_t row_bytes() const { return rows * 4; }
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

// Adds the products of columns [begin, end) of a part of x to the sums in the tiles.
template <int kTiles, int kPair>
inline void AddPart(const Panel* x, const char* Panel::*part, const WeightTile* w, int64_t begin,
                    int64_t end) {
  const Panel& other = x[kPair - 1];
  const auto at = [&](const Panel& panel, int64_t column) {
    return panel.*part + column * 2 * panel.rows;
  };
  const Place from_x[] = {{at(x[0], begin), x[0].row_bytes(), x[0].step()},
                          {at(other, begin), other.row_bytes(), other.step()}};
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
    const Place next_x[] = {{at(x[0], c), x[0].row_bytes(), 0},
                            {at(other, c), other.row_bytes(), 0}};
    for (int tile = 0; tile < kTiles; ++tile) {
      CopyTile(w[tile], c, end - c < kStep ? end - c : kStep, copies[tile]);
      from_w[tile] = {copies[tile], 64, 0};
    }
    Settle();
    MultiplyTiles<kTiles, kPair>(next_x, from_w, 1);
    Settle();
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
  AddPart<kTiles, kPair>(x, &Panel::data, w, begin, end);
  if (x[0].low != nullptr) AddPart<kTiles, kPair>(x, &Panel::low, w, begin, end);
  _tile_stored(0, sum(0, 0), x[0].row_bytes());
  if constexpr (kPair == 2) _tile_stored(1, sum(0, 1), x[1].row_bytes());
  if constexpr (kTiles == 2) _tile_stored(2, sum(1, 0), x[0].row_bytes());
  if constexpr (kTiles == 2 && kPair == 2) _tile_stored(3, sum(1, 1), x[1].row_bytes());
  Settle();
}

}  // namespace
}  // namespace conclave::worker::cpu

// The kernels of one dispatch level, over the vectors of the simd_LEVEL.h included before this
// file. That header gives
// clang-format off
//   F, kLanes                  a vector of floats and how many it holds
//   Add .. Fma, Max, Min       by lane; Fma(a, b, c) = a * b + c; Max and Min give b if either is NaN
//   Pow2                       2^n of integral n in [-126, 127]
//   Load.., Store..            without alignment; ..Part: the first n < kLanes, others read as 0
//   Round..                    to the type, nearest even, and back
//   Sum, StoreSums             one tree over the lanes, the same in both
//   UnpackInts, UnpackFp4      16 groups of packed numbers as BF16, each `stride` behind the other
//   kTileRows .. kMixVectors   tiles that fit the registers
// clang-format on

#include "worker/device/cpu/kernels.h"

namespace conclave::worker::cpu {
namespace {

// ---- Rows of a type ----

struct RowF32 {
  static constexpr int kBytes = 4;
  static F Read(const void* p) { return Load(p); }
  static F ReadPart(const void* p, int64_t n) { return LoadPart(p, n); }
  static void Write(void* p, F x) { Store(p, x); }
  static void WritePart(void* p, int64_t n, F x) { StorePart(p, n, x); }
  static F Round(F x) { return x; }
};
struct RowBf16 {
  static constexpr int kBytes = 2;
  static F Read(const void* p) { return LoadBf16(p); }
  static F ReadPart(const void* p, int64_t n) { return LoadBf16Part(p, n); }
  static void Write(void* p, F x) { StoreBf16(p, x); }
  static void WritePart(void* p, int64_t n, F x) { StoreBf16Part(p, n, x); }
  static F Round(F x) { return RoundBf16(x); }
};
struct RowF16 {
  static constexpr int kBytes = 2;
  static F Read(const void* p) { return LoadF16(p); }
  static F ReadPart(const void* p, int64_t n) { return LoadF16Part(p, n); }
  static void Write(void* p, F x) { StoreF16(p, x); }
  static void WritePart(void* p, int64_t n, F x) { StoreF16Part(p, n, x); }
  static F Round(F x) { return RoundF16(x); }
};

template <class Row>
const void* At(const void* row, int64_t column) {
  return static_cast<const char*>(row) + column * Row::kBytes;
}
template <class Row>
void* At(void* row, int64_t column) {
  return static_cast<char*>(row) + column * Row::kBytes;
}

// Calls body(column, count) for whole vectors and then, if any is left, for the rest; body sees
// which by its overload.
struct Whole {
  template <class Row>
  F Read(const void* row, int64_t column) const {
    return Row::Read(At<Row>(row, column));
  }
  template <class Row>
  void Write(void* row, int64_t column, F x) const {
    Row::Write(At<Row>(row, column), x);
  }
};
struct Rest {
  int64_t count;
  template <class Row>
  F Read(const void* row, int64_t column) const {
    return Row::ReadPart(At<Row>(row, column), count);
  }
  template <class Row>
  void Write(void* row, int64_t column, F x) const {
    Row::WritePart(At<Row>(row, column), count, x);
  }
};
template <class Body>
inline void ForVectors(int64_t n, Body body) {
  int64_t column = 0;
  for (; column + kLanes <= n; column += kLanes) body(column, Whole{});
  if (column < n) body(column, Rest{n - column});
}

// ---- Products ----

// How a step of a product reads x and w.
template <class Row>
struct Widened {
  static constexpr int kStep = kLanes;
  static constexpr int kXBytes = 4;
  static constexpr int kWBytes = Row::kBytes;
  using X = F;
  using W = F;
  static X ReadX(const char* p) { return Load(p); }
  static X ReadXPart(const char* p, int64_t n) { return LoadPart(p, n); }
  static W ReadW(const char* p) { return Row::Read(p); }
  static W ReadWPart(const char* p, int64_t n) { return Row::ReadPart(p, n); }
  static F Step(F sum, X x, W w) { return Fma(x, w, sum); }
};

// M x N sums over the whole of k in one pass, while the next tile's rows of w are fetched: the rows
// of a small expert are too short for the hardware to foresee.
template <class Pair, int M, int N>
inline void DotTile(const void* const* x, const void* const* w, const void* const* next, int64_t k,
                    int64_t column, float* const* out) {
  const char* px[M];
  const char* pw[N];
  const char* ahead[N];
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i) px[i] = static_cast<const char*>(x[i]);
#pragma GCC unroll 8
  for (int j = 0; j < N; ++j) pw[j] = static_cast<const char*>(w[j]);
#pragma GCC unroll 8
  for (int j = 0; j < N; ++j) ahead[j] = static_cast<const char*>(next[j]);
  F sum[M][N];
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) sum[i][j] = Zero();
  }
  int64_t c = 0;
  for (; c + Pair::kStep <= k; c += Pair::kStep) {
    typename Pair::X vx[M];
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) vx[i] = Pair::ReadX(px[i] + c * Pair::kXBytes);
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) {
      __builtin_prefetch(ahead[j] + c * Pair::kWBytes);
      const typename Pair::W vw = Pair::ReadW(pw[j] + c * Pair::kWBytes);
#pragma GCC unroll 8
      for (int i = 0; i < M; ++i) sum[i][j] = Pair::Step(sum[i][j], vx[i], vw);
    }
  }
  if (c < k) {
    typename Pair::X vx[M];
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) vx[i] = Pair::ReadXPart(px[i] + c * Pair::kXBytes, k - c);
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) {
      const typename Pair::W vw = Pair::ReadWPart(pw[j] + c * Pair::kWBytes, k - c);
#pragma GCC unroll 8
      for (int i = 0; i < M; ++i) sum[i][j] = Pair::Step(sum[i][j], vx[i], vw);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i) StoreSums<N>(sum[i], out[i] + column);
}

// Rows beyond whole tiles, m < M of them.
template <class Pair, int M, int N>
inline void DotRest(const void* const* x, int m, const void* const* w, const void* const* next,
                    int64_t k, int64_t column, float* const* out) {
  if constexpr (M > 1) {
    if (m == M - 1) return DotTile<Pair, M - 1, N>(x, w, next, k, column, out);
    DotRest<Pair, M - 1, N>(x, m, w, next, k, column, out);
  }
}

template <class Pair, int N>
inline void DotColumns(const void* const* x, int m, const void* const* w, const void* const* next,
                       int64_t k, int64_t column, float* const* out) {
  int i = 0;
  for (; i + kTileRows <= m; i += kTileRows) {
    DotTile<Pair, kTileRows, N>(x + i, w, next, k, column, out + i);
  }
  DotRest<Pair, kTileRows, N>(x + i, m - i, w, next, k, column, out + i);
}

template <class Pair>
void Dot(const void* const* x, int m, const void* const* w, int n, int64_t k, float* const* out) {
  int j = 0;
  for (; j + kTileColumns <= n; j += kTileColumns) {
    const void* const* next = j + 2 * kTileColumns <= n ? w + j + kTileColumns : w + j;
    DotColumns<Pair, kTileColumns>(x, m, w + j, next, k, j, out);
  }
  for (; j < n; ++j) DotColumns<Pair, 1>(x, m, w + j, w + j, k, j, out);
}

template <class Row, int M, int V, class Part>
inline void MixTile(const float* const* p, const void* const* w, int k, int64_t column,
                    const float* scale, Part part, float* const* out) {
  F sum[M][V];
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      sum[i][v] = scale
                      ? Mul(Set(scale[i]), part.template Read<RowF32>(out[i], column + v * kLanes))
                      : Zero();
    }
  }
  for (int j = 0; j < k; ++j) {
    F vw[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) vw[v] = part.template Read<Row>(w[j], column + v * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
      const F vp = Set(p[i][j]);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sum[i][v] = Fma(vp, vw[v], sum[i][v]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) part.template Write<RowF32>(out[i], column + v * kLanes, sum[i][v]);
  }
}

template <class Row, int M>
inline void MixRows(const float* const* p, const void* const* w, int k, int64_t n,
                    const float* scale, float* const* out) {
  int64_t c = 0;
  for (; c + kMixVectors * kLanes <= n; c += kMixVectors * kLanes) {
    MixTile<Row, M, kMixVectors>(p, w, k, c, scale, Whole{}, out);
  }
  for (; c + kLanes <= n; c += kLanes) MixTile<Row, M, 1>(p, w, k, c, scale, Whole{}, out);
  if (c < n) MixTile<Row, M, 1>(p, w, k, c, scale, Rest{n - c}, out);
}

template <class Row>
void Mix(const float* const* p, int m, const void* const* w, int k, int64_t n, const float* scale,
         float* const* out) {
  int i = 0;
  for (; i + kMixRows <= m; i += kMixRows) {
    MixRows<Row, kMixRows>(p + i, w, k, n, scale ? scale + i : nullptr, out + i);
  }
  for (; i < m; ++i) MixRows<Row, 1>(p + i, w, k, n, scale ? scale + i : nullptr, out + i);
}

// ---- Packed rows ----

// How far ahead of what is unpacked memory is asked for, whatever is there.
constexpr int64_t kFetchAhead = 1024;

using UnpackTile = void (*)(const uint8_t* from, const uint8_t* scales, uint16_t* to,
                            int64_t stride);

// So many columns of a band, each row `stride` behind the one before.
template <UnpackTile kUnpack, int kGroupBytes>
inline void UnpackBand(const void* data, const uint8_t* scales, int64_t k, uint16_t* out,
                       int64_t stride) {
  const auto* from = static_cast<const uint8_t*>(data);
  for (int64_t c = 0; c < k; c += 32) {
    for (int64_t line = 0; line < 16 * kGroupBytes; line += 64)
      __builtin_prefetch(from + kFetchAhead + line);
    kUnpack(from, scales, out + c, stride);
    from += 16 * kGroupBytes;
    scales += 16;
  }
}

// ---- Functions ----

// x to the nearest integer, |x| < 2^22.
inline F Nearest(F x) {
  const F shift = Set(0x1.8p23f);
  return Sub(Add(x, shift), shift);
}

// Within 2 units in the last place; 0 below -104, infinite above 88.73, NaN stays. Coefficients:
// Cephes expf.
inline F Exp(F x) {
  x = Max(Set(-110.0f), Min(Set(89.0f), x));
  const F n = Nearest(Mul(x, Set(1.44269504f)));
  F r = Fma(n, Set(-0.693359375f), x);
  r = Fma(n, Set(2.12194440e-4f), r);
  F p = Set(1.9875691500e-4f);
  p = Fma(p, r, Set(1.3981999507e-3f));
  p = Fma(p, r, Set(8.3334519073e-3f));
  p = Fma(p, r, Set(4.1665795894e-2f));
  p = Fma(p, r, Set(1.6666665459e-1f));
  p = Fma(p, r, Set(5.0000001201e-1f));
  p = Add(Fma(p, Mul(r, r), r), Set(1.0f));
  const F half = Nearest(Mul(n, Set(0.5f)));  // 2^n alone would leave the exponent's range
  return Mul(Mul(p, Pow2(half)), Pow2(Sub(n, half)));
}

inline F OnePlusExpMinus(F x) { return Add(Set(1.0f), Exp(Sub(Zero(), x))); }

// ---- Rows, element by element ----

template <class Row>
void Widen(const void* x, int64_t n, float* out) {
  ForVectors(n, [=](int64_t c, auto part) {
    part.template Write<RowF32>(out, c, part.template Read<Row>(x, c));
  });
}

template <class Row>
void Narrow(const float* x, int64_t n, void* out) {
  ForVectors(n, [=](int64_t c, auto part) {
    part.template Write<Row>(out, c, part.template Read<RowF32>(x, c));
  });
}

template <class Row>
void Round(const float* x, int64_t n, float* out) {
  ForVectors(n, [=](int64_t c, auto part) {
    part.template Write<RowF32>(out, c, Row::Round(part.template Read<RowF32>(x, c)));
  });
}

float SumSquares(const float* x, int64_t n) {
  F sum = Zero();
  ForVectors(n, [&](int64_t c, auto part) {
    const F v = part.template Read<RowF32>(x, c);
    sum = Fma(v, v, sum);
  });
  return Sum(sum);
}

template <class Row>
void Scale(const float* x, float by, const void* w, int64_t n, float* out) {
  const F vby = Set(by);
  ForVectors(n, [=](int64_t c, auto part) {
    const F scaled = Mul(part.template Read<RowF32>(x, c), vby);
    part.template Write<RowF32>(out, c, Mul(scaled, part.template Read<Row>(w, c)));
  });
}

void Divide(const float* x, float by, int64_t n, float* out) {
  const F vby = Set(by);
  ForVectors(n, [=](int64_t c, auto part) {
    part.template Write<RowF32>(out, c, Div(part.template Read<RowF32>(x, c), vby));
  });
}

void SiluMul(const float* gate, const float* up, int64_t n, float* out) {
  ForVectors(n, [=](int64_t c, auto part) {
    const F g = part.template Read<RowF32>(gate, c);
    const F silu = Div(g, OnePlusExpMinus(g));
    part.template Write<RowF32>(out, c, Mul(silu, part.template Read<RowF32>(up, c)));
  });
}

void ClampedSwish(const float* gate, const float* up, int64_t n, float alpha, float limit,
                  float* out) {
  const F valpha = Set(alpha);
  const F top = Set(limit);
  const F bottom = Set(-limit);
  ForVectors(n, [=](int64_t c, auto part) {
    const F g = Min(top, part.template Read<RowF32>(gate, c));  // a NaN stays
    const F u = Max(bottom, Min(top, part.template Read<RowF32>(up, c)));
    const F swish = Div(g, OnePlusExpMinus(Mul(valpha, g)));
    part.template Write<RowF32>(out, c, Mul(Add(u, Set(1.0f)), swish));
  });
}

void Sigmoid(const float* x, int64_t n, float* out) {
  ForVectors(n, [=](int64_t c, auto part) {
    const F v = part.template Read<RowF32>(x, c);
    part.template Write<RowF32>(out, c, Div(Set(1.0f), OnePlusExpMinus(v)));
  });
}

float ExpRow(const float* x, int64_t n, float max, float temperature, float* out) {
  const F vmax = Set(max);
  const F vtemperature = Set(temperature);
  F sum = Zero();
  int64_t c = 0;
  for (; c + kLanes <= n; c += kLanes) {
    const F e = Exp(Div(Sub(Load(x + c), vmax), vtemperature));
    Store(out + c, e);
    sum = Add(sum, e);
  }
  if (c < n) {
    const F e = Exp(Div(Sub(LoadPart(x + c, n - c), vmax), vtemperature));
    StorePart(out + c, n - c, e);
    sum = Add(sum, LoadPart(out + c, n - c));
  }
  return Sum(sum);
}

float MaxOfRow(const float* x, int64_t n, bool* finite) {
  F max = Set(-__builtin_inff());
  F zero = Zero();
  int64_t c = 0;
  for (; c + kLanes <= n; c += kLanes) {
    const F v = Load(x + c);
    max = Max(max, v);
    zero = Add(zero, Sub(v, v));  // NaN if v is NaN or infinite
  }
  float rest = MaxLane(max);
  bool ok = Sum(zero) == 0.0f;
  for (; c < n; ++c) {
    rest = rest > x[c] ? rest : x[c];
    ok = ok && x[c] - x[c] == 0.0f;
  }
  *finite = ok;
  return rest;
}

float SoftmaxTile(float* s, int count, float scale, float* max, float* sum) {
  const F vscale = Set(scale);
  for (int c = 0; c < kAttentionTile; c += kLanes) Store(s + c, Mul(Load(s + c), vscale));
  for (int c = count; c < kAttentionTile; ++c) s[c] = -__builtin_inff();
  F top = Load(s);
  for (int c = kLanes; c < kAttentionTile; c += kLanes) top = Max(top, Load(s + c));
  const float old = *max;
  const float tile = MaxLane(top);
  const float now = old > tile ? old : tile;
  const F vnow = Set(now);
  F total = Zero();
  for (int c = 0; c < kAttentionTile; c += kLanes) {
    const F e = Exp(Sub(Load(s + c), vnow));
    Store(s + c, e);
    total = Add(total, e);
  }
  float shrink[kLanes];
  Store(shrink, Exp(Sub(Set(old), vnow)));
  *max = now;
  *sum = *sum * shrink[0] + Sum(total);
  return shrink[0];
}

constexpr Kernels Table(Kernels::Dot dot_bf16, const Tiles* tiles) {
  return {
      .dot = {Dot<Widened<RowF32>>, Dot<Widened<RowBf16>>, Dot<Widened<RowF16>>},
      .dot_bf16 = dot_bf16,
      .tiles = tiles,
      .mix = {Mix<RowF32>, Mix<RowBf16>, Mix<RowF16>},
      .widen = {Widen<RowF32>, Widen<RowBf16>, Widen<RowF16>},
      .narrow = {Narrow<RowF32>, Narrow<RowBf16>, Narrow<RowF16>},
      .round = {Round<RowF32>, Round<RowBf16>, Round<RowF16>},
      .unpack = {UnpackBand<UnpackInts, 32>, UnpackBand<UnpackFp4, 16>},
      .sum_squares = SumSquares,
      .scale = {Scale<RowF32>, Scale<RowBf16>, Scale<RowF16>},
      .divide = Divide,
      .silu_mul = SiluMul,
      .clamped_swish = ClampedSwish,
      .sigmoid = Sigmoid,
      .exp = ExpRow,
      .max = MaxOfRow,
      .softmax_tile = SoftmaxTile,
  };
}

}  // namespace
}  // namespace conclave::worker::cpu

#pragma once
// The inner loops of the CPU device, one table per dispatch level. kernels-inl.h writes them once
// over the vectors of simd_LEVEL.h; kernels_LEVEL.cc compiles them with the level's instructions.
//
// Every output is computed in an order that depends on its own length alone: sums run over vectors
// of the level's width in ascending order, the last one padded with zeros, and end in one fixed
// tree over the lanes, in every tile shape. What is multiplied by `Tiles` has an order of its own,
// told where it is written.
//
// Only this header, <cstdint> and intrinsics are included where a level is compiled: an inline
// function of anybody else's compiled there could be the copy the linker keeps, and would then run
// on a CPU without the level.

#include <cstdint>

namespace conclave::worker::cpu {

inline constexpr int kTypes = 3;  // tables below are indexed by DType: F32, BF16, F16
inline constexpr int kPackedTypes =
    2;  // and what packed ones become by those behind: MXINT8, MXFP4

// Rows of x that are packed together, and the most of them in one product.
inline constexpr int kPanelRows = 16;
inline constexpr int kTileDotRows = 256;
// The most rows of x in a product that splits them.
inline constexpr int kSplitRows = 64;
// Bytes a row of k columns takes in a panel.
static constexpr int64_t PackedRowBytes(int64_t k) { return (k + 31) / 32 * 64; }

struct Tiles;

struct Kernels {
  // out[i][j] = sum over c < k of x[i][c] * w[j][c], for i < m, j < n. x in fp32, w of the type.
  using Dot = void (*)(const void* const* x, int m, const void* const* w, int n, int64_t k,
                       float* const* out);
  Dot dot[kTypes];
  // x and w both BF16; both null where the level has no instruction for it, else one of them.
  Dot dot_bf16;
  const Tiles* tiles;

  // out[i][c] = (scale ? scale[i] * out[i][c] : 0) + sum over j < k ascending of p[i][j] * w[j][c],
  // for i < m, c < n.
  using Mix = void (*)(const float* const* p, int m, const void* const* w, int k, int64_t n,
                       const float* scale, float* const* out);
  Mix mix[kTypes];

  // Between fp32 and the type; to nearest even, a NaN stays one. F32 copies. No overlap.
  void (*widen[kTypes])(const void* x, int64_t n, float* out);
  void (*narrow[kTypes])(const float* x, int64_t n, void* out);
  void (*round[kTypes])(const float* x, int64_t n, float* out);  // out may be x

  // The numbers of a band of kPanelRows packed rows of k columns as BF16, each row `stride` of them
  // behind the one before; what lies behind the band is fetched meanwhile. Its scales are within
  // kLeastScale and kGreatestScale, or the numbers mean nothing.
  using Unpack = void (*)(const void* data, const uint8_t* scales, int64_t k, uint16_t* out,
                          int64_t stride);
  Unpack unpack[kPackedTypes];

  float (*sum_squares)(const float* x, int64_t n);
  // out = x * by * w; out may be x.
  void (*scale[kTypes])(const float* x, float by, const void* w, int64_t n, float* out);
  // out = x / by; out may be x.
  void (*divide)(const float* x, float by, int64_t n, float* out);
  // out = gate / (1 + exp(-gate)) * up; out may be either.
  void (*silu_mul)(const float* gate, const float* up, int64_t n, float* out);
  // out = (u + 1) * g / (1 + exp(-alpha * g)), g = min(gate, limit), u = up within +- limit; out
  // may be either.
  void (*clamped_swish)(const float* gate, const float* up, int64_t n, float alpha, float limit,
                        float* out);
  // out = 1 / (1 + exp(-x))
  void (*sigmoid)(const float* x, int64_t n, float* out);
  // out = exp((x - max) / temperature); returns their sum. out may be x.
  float (*exp)(const float* x, int64_t n, float max, float temperature, float* out);
  // The greatest x; *finite tells whether all are.
  float (*max)(const float* x, int64_t n, bool* finite);

  // One tile of an online softmax. s [kAttentionTile] holds `count` products of q and k and becomes
  // exp(scale * s - max), zero from `count` on; max and sum are the running ones of the row, the
  // return value what earlier sums shrink by.
  float (*softmax_tile)(float* s, int count, float scale, float* max, float* sum);
};

// Positions in a tile of attention: part of what results depend on.
inline constexpr int kAttentionTile = 64;

// Products of BF16 by BF16 where a level multiplies tiles: x is packed once for many rows of w,
// which stay as they are.
struct Tiles {
  // The panel of x [m, k], rounded to BF16 (m * PackedRowBytes(k) bytes), m in [1, kPanelRows].
  // Columns [a, b) of it, a a multiple of 32, begin at m * PackedRowBytes(a).
  void (*pack)(const float* const* x, int m, int64_t k, void* panel);
  // Kernels::Dot of m <= kTileDotRows rows, whose panels follow one another in x, each but the last
  // of kPanelRows rows, and n rows of w, `stride` bytes from one to the next.
  void (*dot)(const void* x, int m, const void* w, int64_t stride, int n, int64_t k,
              float* const* out);
  // The same of n packed rows of w, whole bands.
  void (*dot_packed[kPackedTypes])(const void* x, int m, const void* w, const uint8_t* scales,
                                   int n, int64_t k, float* const* out);

  // For what is to stay in fp32: x as the sum of two BF16, `high` and `low`, within 2^-17 of it.
  void (*pack_split)(const float* const* x, int m, int64_t k, void* high, void* low);
  // Kernels::Dot of m <= kSplitRows rows of split x and n rows of w, 16 of which begin at each of
  // w[0], w[1] .., `stride` bytes from one to the next.
  void (*dot_split)(const void* high, const void* low, int m, const void* const* w, int64_t stride,
                    int n, int64_t k, float* const* out);
  // Kernels::Mix of split p, m <= kSplitRows, and k <= kAttentionTile rows of w; one that is null
  // counts as zeros.
  Kernels::Mix mix_split;
};

extern const Kernels kKernelsPortable;
extern const Kernels kKernelsAvx2;
extern const Kernels kKernelsAvx512;
extern const Kernels kKernelsAvx512Bf16;
extern const Kernels kKernelsAmxBf16;

}  // namespace conclave::worker::cpu

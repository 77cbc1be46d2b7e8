#pragma once
// What computes: the batch-sized operations of a step, one interface for every kind of device.
//
// Exactness (the contract every implementation keeps): each output row of every operation is a
// function of its own input row (and, for attention, of the cache positions up to its own) and of
// the weights only, computed in an order that does not depend on how many rows came with it, on
// chunking, or on the number of threads. Two devices of one `numerics()` give the same bits; other
// numerics may differ.
//
// Threads: one thread at a time calls a Device (the engine thread); operations return when their
// outputs are complete. Shapes are CHECKed, never reported: weights and configurations are
// validated when a model is loaded. To add an operation: one function here with its shapes, one
// file in device/cpu/, one case in tests/parity/.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/device/tensor.h"

namespace conclave::worker {

// How activations enter a product with weights: rounded to the model's activation type (BF16
// models: to nearest even; F32 and F16 models compute in fp32: not at all), or kept in fp32
// (gates). Sums are always fp32.
enum class Inputs : uint8_t { kActivationType, kFloat };

// Rotary embedding of `dim` leading columns of a head. cos and sin are [positions, dim / 2], made
// at load in double.
struct RopeTable {
  int32_t dim = 0;
  bool interleaved = false;  // pairs (2i, 2i+1) as DeepSeek publishes; else halves (i, i + dim/2)
  int64_t positions = 0;
  std::vector<float> cos;
  std::vector<float> sin;
};

// One layer's paged cache: position p of a sequence is row blocks[p / block_size] * block_size + p
// % block_size of `data` [rows, width], in the activation type.
struct KvLayer {
  void* data = nullptr;
  DType type = DType::kF32;
  int64_t rows = 0;
  int64_t width = 0;
  int32_t block_size = 0;
};

// Where a row of the batch stands in its sequence. Rows of one sequence are consecutive and
// ascending.
struct RowPlace {
  int32_t position = 0;
  int32_t sequence = 0;  // index into BatchPlaces::block_tables
};
struct BatchPlaces {
  std::span<const RowPlace> rows;
  std::span<const std::span<const int32_t>> block_tables;
};

// Grouped-query attention over cache rows. Keys of kv head h start at key_offset + h * key_dim,
// values at value_offset + h * value_dim. MLA, absorbed, is kv_heads = 1, key = [latent | rope],
// value = the latent itself (value_offset 0).
//
// `window` above 0 is Mistral's sliding window: position p sees p - window + 1 .. p. `sinks`
// [heads] are gpt-oss's: a logit of each head (not scaled) that takes its share of the softmax and
// gives no value.
struct AttentionShape {
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t key_dim = 0;
  int32_t value_dim = 0;
  int32_t key_offset = 0;
  int32_t value_offset = 0;
  float scale = 1.0f;
  int32_t window = 0;            // positions, the own one included; 0: all
  std::span<const float> sinks;  // empty: none
};

// The gate as a pipeline of small fp32 functions: Score -> Shift -> Select -> Weight -> Filter;
// ties go to the lower slot.
struct GateShape {
  // kLogit: slots are chosen by their logits; weights are then the softmax of the chosen ones.
  enum class Score : uint8_t { kSoftmax, kSigmoid, kLogit };
  enum class Select : uint8_t {
    kTopK,
    kGroupMax,
    kGroupTop2Sum
  };  // groups scored by their best, or best two, slots
  int32_t slots = 0;
  int32_t top_k = 0;
  Score score = Score::kSoftmax;
  Select select = Select::kTopK;
  int32_t groups = 1;      // of slots / groups consecutive slots each
  int32_t top_groups = 1;  // slots of other groups are not chosen
  bool normalise = false;  // weights of the chosen sum to 1
  float scale = 1.0f;      // then multiplied by this
};
// Shift adds `bias` [slots] (empty: none) to the scores for selection only; weights are of the
// unshifted scores.

// What a feed-forward net makes of its two hidden rows.
struct FfnActivation {
  // kSilu: silu(gate) * up. kClampedSwish (gpt-oss): (up + 1) * gate * sigmoid(alpha * gate), of
  // gate up to `limit` and up within +- limit.
  enum class Kind : uint8_t { kSilu, kClampedSwish };
  Kind kind = Kind::kSilu;
  float alpha = 1.0f;  // kClampedSwish
  float limit = 0.0f;  // kClampedSwish
};

// Gated feed-forward net: down(activation(gate x, up x)). gate, up [ffn, dim], down [dim, ffn],
// which may be packed, as a MatMul's may: results are those of the same numbers in BF16.
// Biases [ffn], [ffn], [dim], or none, are added to the products.
struct FfnWeights {
  Weight gate;
  Weight up;
  Weight down;
  Weight gate_bias;
  Weight up_bias;
  Weight down_bias;
  FfnActivation activation;
};

// One expert's share of a batch: input row inputs[i] of x yields row outputs[i] of the result.
struct ExpertWork {
  const FfnWeights* weights = nullptr;
  std::span<const int32_t> inputs;
  std::span<const int32_t> outputs;
};

// A change of one logit before sampling. The order is that of SampleRow's comment.
struct LogitEdit {
  int32_t token = 0;
  float bias = 0.0f;
  int32_t count = 0;       // in the output
  bool seen = false;       // in the prompt or the output
  bool forbidden = false;  // cannot be sampled
};

// One row of logits to sample from and report on. First the edits: bias added; where `seen`,
// divided by repetition_penalty if positive, else multiplied by it; presence_penalty taken off once
// and frequency_penalty `count` times where count > 0. Then temperature, top_k, top_p, min_p:
// Hugging Face's order, where each keeps at least one token and counts among what is left.
struct SampleRow {
  float temperature = 0.0f;  // 0: greedy, ties to the lower id; top_k, top_p, min_p do not count
  float top_p = 1.0f;        // of the mass that top_k left, the least set that reaches this
  int32_t top_k = 0;         // 0: all
  float min_p = 0.0f;        // at least so many times as likely as the likeliest
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  std::span<const LogitEdit> edits = {};  // each token once, not all of them forbidden
  uint64_t seed = 0;
  uint64_t token_index =
      0;  // how many tokens were sampled for the request before this one; keys the noise with seed
  int32_t target = -1;  // >= 0: nothing is sampled, this token is reported on
  int32_t top_logprobs =
      0;  // how many of the most likely to report, ties to the lower id; at most kMaxTopLogprobs
};
inline constexpr int32_t kMaxTopLogprobs = 20;
struct SampledToken {
  int32_t token = 0;
  float logprob = 0.0f;  // of the unmodified distribution
  bool finite =
      true;  // false: a logit of this row was NaN or infinite and nothing else here counts
  int32_t top_count = 0;
  int32_t top_tokens[kMaxTopLogprobs];
  float top_logprobs[kMaxTopLogprobs];
};

// The largest shapes operations take; a model is validated against them when it is loaded.
inline constexpr int32_t kMaxGateSlots = 4096;
inline constexpr int32_t kMaxHeadDim = 4096;  // in_dim of an untransposed MatMulPerHead

class Device {
 public:
  virtual ~Device() = default;

  // What results depend on: device kind, dispatch level, kernel version, activation type,
  // "cpu-avx512bf16-1-bf16" say.
  virtual std::string numerics() const = 0;
  virtual DType activation_type() const = 0;

  // out [n, dim] = rows of table [vocab, dim].
  virtual void Embed(Weight table, std::span<const int32_t> ids, Rows out) = 0;

  // out = x / sqrt(mean(x^2) + eps) * weight over every run of weight.cols columns (one, or a head
  // each); x, out [n, runs * weight.cols]; out may be x.
  virtual void RmsNorm(ConstRows x, Weight weight, float eps, Rows out) = 0;

  // out [n, weight.rows] = x [n, weight.cols] weight^T (+ bias [weight.rows] if given). The weight
  // may be packed.
  virtual void MatMul(ConstRows x, Weight weight, Weight bias, Inputs inputs, Rows out) = 0;

  // Per head h: out[:, h] [n, b] = x[:, h] [n, a] * w_h, inputs kept in fp32. Heads lie side by
  // side in x and out.
  //   transposed false: w_h = rows [h * head_stride + first, + a) of weight [.., b]:   out = x w_h
  //   transposed true:  w_h = rows [h * head_stride + first, + b) of weight [.., a]:   out = x
  //   w_h^T
  struct HeadMatMul {
    int32_t heads = 0;
    int32_t head_stride = 0;  // rows of weight per head
    int32_t first = 0;
    int32_t in_dim = 0;      // a
    int32_t out_dim = 0;     // b
    int32_t in_stride = 0;   // columns from one head to the next in x
    int32_t out_stride = 0;  // and in out
    bool transposed = false;
  };
  virtual void MatMulPerHead(ConstRows x, Weight weight, const HeadMatMul& shape, Rows out) = 0;

  // x = max(-limit, min(limit, x)).
  virtual void Clip(Rows x, float limit) = 0;

  // x [n, cols] = sigmoid(logits [n, 1]) * x.
  virtual void ScaleBySigmoid(ConstRows logits, Rows x) = 0;

  // Rotates columns [h * head_stride + first, + table.dim) of every head h of x by the rows'
  // positions and writes them to columns [h * out_stride + out_first, + table.dim) of out; out may
  // be x with the same columns.
  struct RopeColumns {
    int32_t heads = 0;
    int32_t in_stride = 0;
    int32_t in_first = 0;
    int32_t out_stride = 0;
    int32_t out_first = 0;
  };
  virtual void Rope(ConstRows x, const RopeColumns& columns, const BatchPlaces& places,
                    const RopeTable& table, Rows out) = 0;

  // Writes x [n, x.cols] to columns [column, + x.cols) of the rows' cache positions, in the cache's
  // type.
  virtual void StoreKv(ConstRows x, const BatchPlaces& places, int64_t column, KvLayer cache) = 0;

  // Rows of block `to` = rows of block `from`.
  virtual void CopyKv(KvLayer cache, int32_t from, int32_t to) = 0;

  // out [n, heads * value_dim]: softmax(scale * q k) v over positions 0 .. own, or those of them in
  // the window; q [n, heads * key_dim]. Reduced by absolute position, so neither chunking nor the
  // layout of blocks shows.
  virtual void Attention(ConstRows q, const AttentionShape& shape, const BatchPlaces& places,
                         KvLayer cache, Rows out) = 0;

  // slots, weights [n, top_k], chosen from logits [n, slots] in descending order of selection
  // score. bias may be null.
  virtual void Gate(ConstRows logits, const GateShape& shape, const float* bias,
                    std::span<int32_t> slots, std::span<float> weights) = 0;

  // For every work item, rows of out [.., dim] = FFN(rows of x), rounded to the activation type.
  // Each weight is read once for all its rows. Output rows of different items are distinct.
  virtual void Experts(ConstRows x, std::span<const ExpertWork> work, Rows out) = 0;

  // hidden [n, dim] += shared [n, dim] (if any) + sum over j ascending of weights[i, j] * outputs[i
  // * top_k + j]. One order: gate order first, then the shared row, then the residual.
  virtual void Combine(ConstRows outputs, std::span<const float> weights, int32_t top_k,
                       ConstRows shared, Rows hidden) = 0;

  // x += y.
  virtual void Add(ConstRows y, Rows x) = 0;

  // out row i = x row rows[i].
  virtual void Gather(ConstRows x, std::span<const int32_t> rows, Rows out) = 0;

  // Log-probabilities and samples of logits [rows.size(), vocab], which are as before afterwards.
  virtual void Sample(Rows logits, std::span<const SampleRow> rows,
                      std::span<SampledToken> out) = 0;

  // Zeroed memory of this device for activations and caches; freed with the device. kNow: taken
  // whole, or refused, at once; kTouched: page by page as it is used.
  enum class Take : uint8_t { kTouched, kNow };
  virtual absl::StatusOr<void*> Allocate(size_t bytes, std::string_view name,
                                         Take take = Take::kTouched) = 0;
};

struct CpuDeviceOptions {
  int threads = 0;    // compute threads, the caller included; 0: one per CPU of the affinity mask
  std::string level;  // "amxbf16", "avx512bf16", "avx512", "avx2", "portable"; empty: the best
  DType activation_type = DType::kBF16;
  int32_t max_rows =
      512;  // rows of x in the largest call, for scratch memory (touched only as used)
  int32_t max_columns = 16384;  // widest input of a product
  int32_t spin_us = 50;         // how long an idle compute thread watches for work before it sleeps
};

// Fails with FAILED_PRECONDITION, naming it, when the CPU lacks the level; INVALID_ARGUMENT for an
// unknown one.
absl::StatusOr<std::unique_ptr<Device>> MakeCpuDevice(const CpuDeviceOptions& options);

// How that would fail for this level; empty: the best there is.
absl::Status CheckCpuLevel(const std::string& level);

// Levels this CPU can run, best first.
std::vector<std::string> CpuLevels();

}  // namespace conclave::worker

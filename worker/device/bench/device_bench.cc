// Speed of the CPU device's heavy operations. Arguments: level as an index into CpuLevels(),
// threads, then shapes.
//   conclave-device-bench --benchmark_filter=MatMul

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "worker/device/device.h"

namespace conclave::worker {
namespace {

std::unique_ptr<Device> Make(const benchmark::State& state) {
  CpuDeviceOptions options;
  options.level = CpuLevels().at(static_cast<size_t>(state.range(0)));
  options.threads = static_cast<int>(state.range(1));
  options.max_rows = 1024;
  return *MakeCpuDevice(options);
}

// BF16 values about 1 in size.
std::vector<uint16_t> Bf16(size_t size) {
  std::mt19937 random(1);
  std::vector<uint16_t> values(size);
  for (uint16_t& value : values) value = static_cast<uint16_t>(0x3f00 | (random() & 0x80ff));
  return values;
}

std::vector<float> Floats(size_t size) {
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  std::vector<float> values(size);
  for (float& value : values) value = normal(random);
  return values;
}

// Repeats a call and reports its best time: what it costs where nobody disturbs.
template <typename Call>
void Measure(benchmark::State& state, double operations, double bytes, Call call) {
  using Clock = std::chrono::steady_clock;
  double best = 1e9;
  call();  // touches what it writes
  for (auto _ : state) {
    const Clock::time_point start = Clock::now();
    call();
    best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
  }
  state.counters["best_us"] = best * 1e6;
  state.counters["GF/s"] = operations / best / 1e9;
  state.counters["GB/s"] = bytes / best / 1e9;
}

// level, threads, rows, K = N, weight matrices taken in turn: 1 is hot, many are cold.
void MatMul(benchmark::State& state) {
  const std::unique_ptr<Device> device = Make(state);
  const int64_t m = state.range(2), k = state.range(3), matrices = state.range(4);
  const std::vector<uint16_t> weights = Bf16(static_cast<size_t>(matrices * k * k));
  const std::vector<float> x = Floats(static_cast<size_t>(m * k));
  std::vector<float> out(static_cast<size_t>(m * k));
  int64_t next = 0;
  Measure(state, 2.0 * static_cast<double>(m * k * k), 2.0 * static_cast<double>(k * k), [&] {
    const Weight weight = {weights.data() + next * k * k, DType::kBF16, k, k};
    device->MatMul({x.data(), m, k, k}, weight, {}, Inputs::kActivationType, {out.data(), m, k, k});
    next = (next + 1) % matrices;
  });
}

// The same matrices as bytes of another type, whatever their numbers are then: all are finite.
std::vector<Weight> Matrices(DType type, const std::vector<uint16_t>& pool, int64_t count,
                             int64_t rows, int64_t cols) {
  static const std::vector<uint8_t> scales(size_t{1} << 20, 120);
  std::vector<Weight> matrices;
  Weight matrix = {pool.data(), type, rows, cols, IsPacked(type) ? scales.data() : nullptr};
  for (int64_t i = 0; i < count; ++i) {
    matrices.push_back(matrix);
    matrix.data = static_cast<const char*>(matrix.data) + matrix.bytes();
  }
  return matrices;
}

// level, threads, rows, experts, dim, ffn, type; every row goes to 6 experts, spread evenly.
void Experts(benchmark::State& state) {
  const std::unique_ptr<Device> device = Make(state);
  const int64_t m = state.range(2), experts = state.range(3), dim = state.range(4);
  const int64_t ffn = state.range(5), top_k = 6;
  const auto size = static_cast<size_t>(ffn * dim);
  const std::vector<uint16_t> pool = Bf16(static_cast<size_t>(3 * experts) * size);
  const auto type = static_cast<DType>(state.range(6));
  const std::vector<Weight> matrices = Matrices(type, pool, 3 * experts, ffn, dim);
  std::vector<FfnWeights> weights;
  for (size_t e = 0; e < static_cast<size_t>(experts); ++e) {
    Weight down = matrices[3 * e + 2];
    std::swap(down.rows, down.cols);
    weights.push_back({matrices[3 * e], matrices[3 * e + 1], down});
  }
  std::vector<std::vector<int32_t>> in(weights.size()), to(weights.size());
  for (int32_t a = 0; a < m * top_k; ++a) {
    const auto e = static_cast<size_t>(a * 7 % experts);
    in[e].push_back(a / static_cast<int32_t>(top_k));
    to[e].push_back(a);
  }
  std::vector<ExpertWork> work;
  for (size_t e = 0; e < weights.size(); ++e) {
    if (!in[e].empty()) work.push_back({&weights[e], in[e], to[e]});
  }
  const std::vector<float> x = Floats(static_cast<size_t>(m * dim));
  std::vector<float> out(static_cast<size_t>(m * top_k * dim));
  Measure(state, 6.0 * static_cast<double>(m * top_k * ffn * dim),
          3.0 * static_cast<double>(work.size()) *
              static_cast<double>(matrices[0].bytes() + matrices[0].scale_bytes()),
          [&] {
            device->Experts({x.data(), m, dim, dim}, work, {out.data(), m * top_k, dim, dim});
          });
}

// level, threads, rows, cached positions before them, heads; rows of one sequence, or (negative) of
// as many sequences.
void Attend(benchmark::State& state, const AttentionShape& base, int64_t width) {
  const std::unique_ptr<Device> device = Make(state);
  const bool decode = state.range(2) < 0;
  const auto rows = static_cast<int32_t>(std::abs(state.range(2)));
  const auto before = static_cast<int32_t>(state.range(3));
  const int32_t sequences = decode ? rows : 1;
  const int32_t length = before + (decode ? 1 : rows);
  constexpr int32_t kBlock = 16;
  const int32_t blocks = (length + kBlock - 1) / kBlock;
  const std::vector<uint16_t> cache =
      Bf16(static_cast<size_t>(sequences * blocks * kBlock) * static_cast<size_t>(width));
  std::vector<std::vector<int32_t>> tables(static_cast<size_t>(sequences));
  std::vector<std::span<const int32_t>> spans;
  std::vector<RowPlace> places;
  for (int32_t s = 0; s < sequences; ++s) {
    for (int32_t b = 0; b < blocks; ++b)
      tables[static_cast<size_t>(s)].push_back(b * sequences + s);
    spans.emplace_back(tables[static_cast<size_t>(s)]);
  }
  double pairs = 0;
  for (int32_t r = 0; r < rows; ++r) {
    places.push_back({decode ? before : before + r, decode ? r : 0});
    pairs += places.back().position + 1;
  }
  const KvLayer layer = {const_cast<uint16_t*>(cache.data()), DType::kBF16,
                         sequences * blocks * kBlock, width, kBlock};
  const int64_t q_cols = int64_t{base.heads} * base.key_dim,
                out_cols = int64_t{base.heads} * base.value_dim;
  const std::vector<float> q = Floats(static_cast<size_t>(rows * q_cols));
  std::vector<float> out(static_cast<size_t>(rows * out_cols));
  Measure(state, 2.0 * pairs * base.heads * (base.key_dim + base.value_dim),
          2.0 * static_cast<double>(width) * length * sequences, [&] {
            device->Attention({q.data(), rows, q_cols, q_cols}, base, {places, spans}, layer,
                              {out.data(), rows, out_cols, out_cols});
          });
}

void LatentAttention(benchmark::State& state) {
  Attend(state, {.heads = 16, .kv_heads = 1, .key_dim = 576, .value_dim = 512, .scale = 0.07f},
         576);
}
void GroupedAttention(benchmark::State& state) {
  Attend(state,
         {.heads = 16,
          .kv_heads = 16,
          .key_dim = 128,
          .value_dim = 128,
          .value_offset = 2048,
          .scale = 0.09f},
         4096);
}

// level, threads, rows: q of MLA into the latent, 16 heads of 128 to 512.
void PerHead(benchmark::State& state) {
  const std::unique_ptr<Device> device = Make(state);
  const int64_t m = state.range(2);
  const std::vector<uint16_t> weight = Bf16(16 * 256 * 512);
  const std::vector<float> x = Floats(static_cast<size_t>(m * 16 * 128));
  std::vector<float> out(static_cast<size_t>(m * 16 * 512));
  const Device::HeadMatMul shape = {16, 256, 0, 128, 512, 128, 512, false};
  Measure(state, 2.0 * static_cast<double>(m) * 16 * 128 * 512, 16 * 128 * 512 * 2.0, [&] {
    device->MatMulPerHead({x.data(), m, 2048, 2048}, {weight.data(), DType::kBF16, 4096, 512},
                          shape, {out.data(), m, 8192, 8192});
  });
}

// level, threads, rows, vocabulary, top_p in percent
void Sample(benchmark::State& state) {
  const std::unique_ptr<Device> device = Make(state);
  const int64_t m = state.range(2), vocab = state.range(3);
  std::vector<float> logits = Floats(static_cast<size_t>(m * vocab));
  const SampleRow how = {.temperature = 1.0f, .top_p = static_cast<float>(state.range(4)) / 100.0f};
  const std::vector<SampleRow> rows(static_cast<size_t>(m), how);
  std::vector<SampledToken> out(rows.size());
  Measure(state, 0, 4.0 * static_cast<double>(m * vocab), [&] {
    device->Sample({logits.data(), m, vocab, vocab}, rows, out);
  });
}

void Common(benchmark::internal::Benchmark* bench) {
  bench->UseRealTime()->MinTime(0.2)->Unit(benchmark::kMicrosecond);
}

BENCHMARK(MatMul)
    ->Apply(Common)
    ->ArgsProduct({{0, 1, 2, 3}, {1}, {16}, {512}, {1}})
    ->ArgsProduct({{0}, {1, 2}, {1, 4, 16, 64, 256}, {1024, 2048}, {1}})
    ->ArgsProduct({{0}, {1, 2}, {1, 4, 16, 64, 256}, {2048}, {32}});
BENCHMARK(Experts)
    ->Apply(Common)
    ->ArgsProduct({{0}, {1, 2}, {1, 16, 64, 256, 1024}, {64}, {2048}, {1408}, {1, 3, 4}})
    ->ArgsProduct({{0}, {1, 2}, {1, 16, 64}, {32}, {256}, {128}, {1, 3, 4}})
    ->ArgsProduct({{1, 2, 3, 4}, {1}, {1, 16}, {64}, {2048}, {1408}, {1, 3, 4}});
BENCHMARK(LatentAttention)
    ->Apply(Common)
    ->ArgsProduct({{0}, {1, 2}, {-1, -16, 4, 128}, {250, 2048}});
BENCHMARK(GroupedAttention)
    ->Apply(Common)
    ->ArgsProduct({{0}, {1, 2}, {-1, -16, 4, 128}, {250, 2048}});
BENCHMARK(PerHead)->Apply(Common)->ArgsProduct({{0}, {1}, {1, 16, 64}});
BENCHMARK(Sample)->Apply(Common)->ArgsProduct({{0}, {1}, {1}, {102400}, {100, 90}});

}  // namespace
}  // namespace conclave::worker

BENCHMARK_MAIN();

// A row's bits depend on the row: not on how many came with it, on the threads, or on where in
// memory anything lies.

#include <cstring>

#include "tests/parity/tensors.h"

namespace conclave::worker::parity {
namespace {

class Exactness : public testing::TestWithParam<LevelCase> {
 protected:
  static constexpr int64_t kRows = 131;
  static constexpr int64_t kManyRows = 290;  // more than one task of tiles

  // Calls body(device, first, count) so that all rows are covered: at once and in batches, with 1,
  // 2 and 4 threads. Each call must write the rows of `out` it covers; all outcomes must be equal.
  template <typename Body>
  void ExpectSame(int64_t cols, Body body) {
    Batch expected(kRows, cols);
    body(*devices_[0], expected, 0, kRows);
    for (const std::unique_ptr<Device>& device : devices_) {
      for (const int64_t batch : {int64_t{1}, int64_t{3}, int64_t{7}, int64_t{64}, kRows}) {
        Batch out(kRows, cols, batch % 5);
        for (int64_t first = 0; first < kRows; first += batch) {
          body(*device, out, first, std::min(batch, kRows - first));
        }
        ASSERT_TRUE(SameBits(expected, out)) << "in batches of " << batch;
      }
    }
  }

  std::unique_ptr<Device> devices_[3] = {MakeDevice(GetParam(), 1), MakeDevice(GetParam(), 2),
                                         MakeDevice(GetParam(), 4)};
  Batch reference_{0, 0};
};

TEST_P(Exactness, OfProducts) {
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const int64_t k : {33, 200}) {
      const int64_t n = 75;
      const Matrix weight(n, k, type, 1), bias(1, n, type, 2);
      const Batch x(kRows, k, 3, 1.0);
      for (const Inputs inputs : {Inputs::kActivationType, Inputs::kFloat}) {
        ExpectSame(n, [&](Device& device, Batch& out, int64_t first, int64_t count) {
          device.MatMul(x.Part(first, count), weight.weight(), bias.weight(), inputs,
                        out.Part(first, count));
        });
      }
    }
  }
}

TEST_P(Exactness, OfManyRows) {
  const int64_t dim = 72, ffn = 45;
  const Matrix gate(ffn, dim, GetParam().activations, 1, 0.3),
      up(ffn, dim, GetParam().activations, 2, 0.3), down(dim, ffn, GetParam().activations, 3, 0.3);
  const FfnWeights expert = {gate.weight(), up.weight(), down.weight()};
  const Batch x(kManyRows, dim, 4, 1.0);
  const auto run = [&](Device& device, int64_t batch) {
    Batch products(kManyRows, ffn), nets(kManyRows, dim);
    for (int64_t first = 0; first < kManyRows; first += batch) {
      const int64_t count = std::min(batch, kManyRows - first);
      std::vector<int32_t> all(static_cast<size_t>(count));
      for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int32_t>(i);
      device.MatMul(x.Part(first, count), gate.weight(), {}, Inputs::kActivationType,
                    products.Part(first, count));
      const ExpertWork work[] = {{&expert, all, all}};
      device.Experts(x.Part(first, count), work, nets.Part(first, count));
    }
    return std::pair(std::move(products), std::move(nets));
  };
  const auto expected = run(*devices_[0], 1);
  // Scratch memory for a row or two: passes end between the rows of a panel.
  const std::unique_ptr<Device> narrow = MakeDevice(GetParam(), 1, 1);
  for (const int64_t batch : {17, 100, 256, 257, 290}) {
    for (Device* device : {devices_[0].get(), devices_[1].get(), narrow.get()}) {
      const auto [products, nets] = run(*device, batch);
      EXPECT_TRUE(SameBits(expected.first, products)) << "in batches of " << batch;
      EXPECT_TRUE(SameBits(expected.second, nets)) << "in batches of " << batch;
    }
  }
}

TEST_P(Exactness, OfProductsWhereverTheyLie) {
  const int64_t k = 100, n = 10;
  const Matrix aligned(n, k, GetParam().activations, 1, 1.0, 0);
  const Matrix shifted(n, k, GetParam().activations, 1, 1.0, 6);
  const Batch x(5, k, 3, 1.0);
  Batch a(5, n), b(5, n);
  devices_[0]->MatMul(x.rows(), aligned.weight(), {}, Inputs::kActivationType, a.rows());
  devices_[0]->MatMul(x.rows(), shifted.weight(), {}, Inputs::kActivationType, b.rows());
  EXPECT_TRUE(SameBits(a, b));
  // A product's column is the same whichever columns are computed with it.
  Batch last(5, 1);
  devices_[0]->MatMul(x.rows(), aligned.weight().Slice(7, 1), {}, Inputs::kActivationType,
                      last.rows());
  for (int64_t r = 0; r < 5; ++r) EXPECT_EQ(last.at(r, 0), a.at(r, 7));
}

TEST_P(Exactness, OfProductsPerHead) {
  for (const bool transposed : {false, true}) {
    Device::HeadMatMul shape;
    shape.heads = 3;
    shape.head_stride = 60;
    shape.first = transposed ? 20 : 0;
    shape.in_dim = shape.in_stride = transposed ? 210 : 20;
    shape.out_dim = shape.out_stride = transposed ? 40 : 210;
    shape.transposed = transposed;
    const Matrix weight(180, 210, GetParam().activations, 5);
    const Batch x(kRows, 3 * shape.in_stride, 6, 1.0);
    ExpectSame(3 * shape.out_stride, [&](Device& device, Batch& out, int64_t first, int64_t count) {
      device.MatMulPerHead(x.Part(first, count), weight.weight(), shape, out.Part(first, count));
    });
  }
}

TEST_P(Exactness, OfExperts) {
  const int64_t dim = 72, ffn = 45;
  const Matrix gate(ffn, dim, GetParam().activations, 1, 0.3),
      up(ffn, dim, GetParam().activations, 2, 0.3), down(dim, ffn, GetParam().activations, 3, 0.3);
  const FfnWeights a = {gate.weight(), up.weight(), down.weight()};
  const Matrix bias(1, dim, GetParam().activations, 5, 0.3);
  FfnWeights b = {up.weight(), gate.weight(), down.weight()};
  b.gate_bias = bias.weight().Slice(0, 1);
  b.gate_bias.cols = ffn;
  b.down_bias = bias.weight();
  b.activation = {FfnActivation::Kind::kClampedSwish, 1.702f, 7.0f};
  const Batch x(kRows, dim, 4, 1.0);
  ExpectSame(dim, [&](Device& device, Batch& out, int64_t first, int64_t count) {
    std::vector<int32_t> a_rows, b_rows;
    for (int64_t r = 0; r < count; ++r) {
      ((first + r) % 3 == 0 ? a_rows : b_rows).push_back(static_cast<int32_t>(r));
    }
    const ExpertWork work[] = {{&a, a_rows, a_rows}, {&b, b_rows, b_rows}};
    device.Experts(x.Part(first, count), work, out.Part(first, count));
  });
}

TEST_P(Exactness, OfAttentionAndItsCacheInAnyChunksAndBlocks) {
  struct Shape {
    AttentionShape attention;
    int64_t width;
  };
  static constexpr float kSinks[] = {0.5f, -1.0f, 2.0f, 0.0f, 9.0f, -9.0f};
  const Shape shapes[] = {
      {{.heads = 12, .kv_heads = 1, .key_dim = 40, .value_dim = 36, .scale = 0.2f}, 40},
      {{.heads = 4,
        .kv_heads = 4,
        .key_dim = 24,
        .value_dim = 24,
        .value_offset = 96,
        .scale = 0.2f},
       192},
      {{.heads = 40,
        .kv_heads = 20,
        .key_dim = 5,
        .value_dim = 3,
        .value_offset = 100,
        .scale = 0.4f},
       160},
      {{.heads = 6,
        .kv_heads = 2,
        .key_dim = 24,
        .value_dim = 24,
        .value_offset = 48,
        .scale = 0.2f},
       96},
      {{.heads = 6,
        .kv_heads = 2,
        .key_dim = 24,
        .value_dim = 24,
        .value_offset = 48,
        .scale = 0.2f,
        .window = 70,
        .sinks = kSinks},
       96}};
  for (const Shape& shape : shapes) {
    for (const int32_t block_size : {16, 5, 200}) {
      std::vector<int32_t> blocks;
      const int32_t count_of_blocks = static_cast<int32_t>(kRows) / block_size + 1;
      for (int32_t b = 0; b < count_of_blocks; ++b) blocks.push_back(count_of_blocks - 1 - b);
      const std::vector<std::span<const int32_t>> tables = {blocks};
      const Batch kv(kRows, shape.width, 1, 1.0);
      const Batch q(kRows, int64_t{shape.attention.heads} * shape.attention.key_dim, 2, 1.0);
      std::vector<RowPlace> places;
      for (int32_t r = 0; r < kRows; ++r) places.push_back({r, 0});
      const int64_t cols = int64_t{shape.attention.heads} * shape.attention.value_dim;
      std::vector<char> bytes(static_cast<size_t>(count_of_blocks * block_size * shape.width) * 4);
      const KvLayer cache = {bytes.data(), GetParam().activations, count_of_blocks * block_size,
                             shape.width, block_size};
      Batch out_of_first(kRows, cols);
      ExpectSame(cols, [&](Device& device, Batch& out, int64_t first, int64_t count) {
        if (first == 0) std::memset(bytes.data(), 0xff, bytes.size());
        const BatchPlaces at = {
            std::span(places).subspan(static_cast<size_t>(first), static_cast<size_t>(count)),
            tables};
        device.StoreKv(kv.Part(first, count), at, 0, cache);
        device.Attention(q.Part(first, count), shape.attention, at, cache, out.Part(first, count));
        out_of_first = out;
      });
      // The layout of blocks does not show either.
      if (block_size == 16) reference_ = out_of_first;
      EXPECT_TRUE(SameBits(reference_, out_of_first)) << "blocks of " << block_size;
    }
  }
}

TEST_P(Exactness, OfNormsAndGates) {
  const int64_t dim = 130;
  const Matrix weight(1, dim, GetParam().activations, 1);
  const Batch x(kRows, dim, 2, 1.0);
  ExpectSame(dim, [&](Device& device, Batch& out, int64_t first, int64_t count) {
    device.RmsNorm(x.Part(first, count), weight.weight(), 1e-6f, out.Part(first, count));
  });
  const Matrix head_weight(1, 26, GetParam().activations, 1);
  ExpectSame(dim, [&](Device& device, Batch& out, int64_t first, int64_t count) {
    device.RmsNorm(x.Part(first, count), head_weight.weight(), 1e-6f, out.Part(first, count));
    device.ScaleBySigmoid(x.Part(first, count).Columns(0, 1), out.Part(first, count));
  });
  const GateShape shape = {.slots = 130, .top_k = 6, .normalise = true};
  ExpectSame(12, [&](Device& device, Batch& out, int64_t first, int64_t count) {
    std::vector<int32_t> slots(static_cast<size_t>(count * 6));
    std::vector<float> weights(slots.size());
    device.Gate(x.Part(first, count), shape, nullptr, slots, weights);
    for (int64_t r = 0; r < count; ++r) {
      for (int64_t j = 0; j < 6; ++j) {
        out.at(first + r, j) = static_cast<float>(slots[static_cast<size_t>(r * 6 + j)]);
        out.at(first + r, 6 + j) = weights[static_cast<size_t>(r * 6 + j)];
      }
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Cpu, Exactness, testing::ValuesIn(AllCases()), CaseName);

}  // namespace
}  // namespace conclave::worker::parity

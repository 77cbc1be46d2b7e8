#include <cmath>

#include "tests/parity/tensors.h"

namespace conclave::worker::parity {
namespace {

// Two sequences in a shuffled cache, keys and values side by side as the step lays them out.
class Attention : public testing::TestWithParam<LevelCase> {
 protected:
  static constexpr int64_t kPositions = 150;
  static constexpr int32_t kBlockSize = 24;
  static constexpr int64_t kCacheRows = 16 * kBlockSize;

  void Fill(int64_t width) {
    width_ = width;
    const DType type = GetParam().activations;
    const absl::StatusOr<void*> data =
        device_->Allocate(static_cast<size_t>(kCacheRows * width) * SizeOf(type), "cache");
    ASSERT_TRUE(data.ok());
    cache_ = {*data, type, kCacheRows, width, kBlockSize};
    for (const int32_t sequence : {0, 1}) {
      std::vector<RowPlace> places;
      for (int32_t p = 0; p < kPositions; ++p) places.push_back({p, sequence});
      const Batch& from = sequence == 0 ? first_ : second_;
      const_cast<Batch&>(from) =
          Batch(kPositions, width, 11 + static_cast<uint64_t>(sequence), 0.7);
      // In two pieces, at a column each.
      const int64_t half = width / 2;
      device_->StoreKv(from.rows().Columns(0, half), {places, tables_}, 0, cache_);
      device_->StoreKv(from.rows().Columns(half, width - half), {places, tables_}, half, cache_);
    }
  }

  double Cached(int32_t sequence, int64_t position, int64_t column) const {
    const Batch& from = sequence == 0 ? first_ : second_;
    return static_cast<double>(Rounded(from.at(position, column), GetParam().activations));
  }

  // Where BF16 tiles are multiplied, queries and weights are within 2^-17.
  static double Tolerance() {
    const bool split = GetParam().level == "amxbf16" && GetParam().activations == DType::kBF16;
    return split ? 2e-5 : 4e-6;
  }

  void Expect(const AttentionShape& shape, const std::vector<RowPlace>& places) {
    const auto rows = static_cast<int64_t>(places.size());
    const Batch q(rows, int64_t{shape.heads} * shape.key_dim, 13, 1.0);
    Batch out(rows, int64_t{shape.heads} * shape.value_dim);
    device_->Attention(q.rows(), shape, {places, tables_}, cache_, out.rows());
    for (int64_t r = 0; r < rows; ++r) {
      for (int32_t h = 0; h < shape.heads; ++h)
        ExpectHead(shape, places[static_cast<size_t>(r)], q, r, h, out);
    }
  }

  void ExpectHead(const AttentionShape& shape, RowPlace place, const Batch& q, int64_t r, int32_t h,
                  const Batch& out) {
    const int32_t kv = h / (shape.heads / shape.kv_heads);
    const int32_t begin = shape.window > 0 ? std::max(0, place.position - shape.window + 1) : 0;
    const bool sink = !shape.sinks.empty();
    std::vector<double> weights;
    double max = sink ? static_cast<double>(shape.sinks[static_cast<size_t>(h)]) : -1e300;
    double sum = 0.0;
    for (int32_t p = begin; p <= place.position; ++p) {
      double score = 0.0;
      for (int32_t c = 0; c < shape.key_dim; ++c) {
        score += static_cast<double>(q.at(r, int64_t{h} * shape.key_dim + c)) *
                 Cached(place.sequence, p, shape.key_offset + kv * shape.key_dim + c);
      }
      weights.push_back(score * static_cast<double>(shape.scale));
      max = std::max(max, weights.back());
    }
    for (double& w : weights) {
      w = std::exp(w - max);
      sum += w;
    }
    if (sink) sum += std::exp(static_cast<double>(shape.sinks[static_cast<size_t>(h)]) - max);
    for (int32_t c = 0; c < shape.value_dim; ++c) {
      double expected = 0.0;
      for (int32_t p = begin; p <= place.position; ++p) {
        expected += weights[static_cast<size_t>(p - begin)] / sum *
                    Cached(place.sequence, p, shape.value_offset + kv * shape.value_dim + c);
      }
      ASSERT_NEAR(out.at(r, int64_t{h} * shape.value_dim + c), expected, Tolerance())
          << "row " << r << " head " << h << " column " << c;
    }
  }

  const std::vector<int32_t> blocks_[2] = {{7, 2, 11, 0, 14, 5, 9}, {1, 15, 3, 8, 6, 10, 4}};
  const std::vector<std::span<const int32_t>> tables_ = {blocks_[0], blocks_[1]};
  std::unique_ptr<Device> device_ = MakeDevice(GetParam(), 2);
  Batch first_{0, 0}, second_{0, 0};
  int64_t width_ = 0;
  KvLayer cache_;
};

// Of rows of 80 columns in the cache, and of 16.
const AttentionShape kGrouped = {.heads = 6,
                                 .kv_heads = 2,
                                 .key_dim = 20,
                                 .value_dim = 20,
                                 .key_offset = 0,
                                 .value_offset = 40,
                                 .scale = 0.22f};
const AttentionShape kSmall = {.heads = 2,
                               .kv_heads = 1,
                               .key_dim = 8,
                               .value_dim = 8,
                               .key_offset = 0,
                               .value_offset = 8,
                               .scale = 0.3f};

std::vector<RowPlace> Places(int32_t sequence, int32_t first, int32_t count) {
  std::vector<RowPlace> places;
  for (int32_t p = first; p < first + count; ++p) places.push_back({p, sequence});
  return places;
}

std::vector<RowPlace> operator+(std::vector<RowPlace> a, const std::vector<RowPlace>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

TEST_P(Attention, GroupedQueryEqualsTheReference) {
  Fill(80);
  Expect(kGrouped, {});
  Expect(kGrouped, Places(0, 0, 1));
  Expect(kGrouped, Places(1, 63, 3));
  Expect(kGrouped, Places(0, 0, 150));
  Expect(kGrouped, Places(0, 149, 1) + Places(1, 30, 50));
}

TEST_P(Attention, LatentEqualsTheReference) {
  const AttentionShape shape = {.heads = 10,
                                .kv_heads = 1,
                                .key_dim = 43,
                                .value_dim = 35,
                                .key_offset = 0,
                                .value_offset = 0,
                                .scale = 0.15f};
  Fill(43);
  Expect(shape, Places(1, 149, 1));
  Expect(shape, Places(0, 120, 30) + Places(1, 0, 70));
}

TEST_P(Attention, LooksAtNothingBeyondARowsOwnPosition) {
  Fill(16);
  Batch poison(1, 16);
  for (int64_t c = 0; c < 16; ++c) poison.at(0, c) = NAN;
  const std::vector<RowPlace> after = Places(0, 71, 1);
  device_->StoreKv(poison.rows(), {after, tables_}, 0, cache_);
  Expect(kSmall, Places(0, 60, 11));
  // A row that does see it says so.
  const Batch q(1, 16, 3, 1.0);
  Batch out(1, 16);
  device_->Attention(q.rows(), kSmall, {after, tables_}, cache_, out.rows());
  EXPECT_TRUE(std::isnan(out.at(0, 0)));
}

TEST_P(Attention, HeadsAsWideAsTheyMayBeEqualTheReference) {
  // The widest that fit a task's memory as tiles, and wider; with many heads a task takes a few.
  for (const int32_t key_dim : {kMaxHeadDim, kMaxHeadDim + 4}) {
    const AttentionShape shape = {.heads = 2,
                                  .kv_heads = 1,
                                  .key_dim = key_dim,
                                  .value_dim = 16,
                                  .value_offset = 0,
                                  .scale = 0.01f};
    Fill(key_dim);
    Expect(shape, Places(0, 68, 2));
  }
  const AttentionShape many = {.heads = 16,
                               .kv_heads = 16,
                               .key_dim = 272,
                               .value_dim = 4,
                               .value_offset = 16 * 272,
                               .scale = 0.04f};
  Fill(16 * (272 + 4));
  Expect(many, Places(0, 60, 6) + Places(1, 3, 1));
}

TEST_P(Attention, AValueThatIsNotFiniteIsSeenOnlyByThoseWhoSeeIt) {
  AttentionShape shape = {.heads = 4,
                          .kv_heads = 2,
                          .key_dim = 8,
                          .value_dim = 8,
                          .key_offset = 0,
                          .value_offset = 16,
                          .scale = 0.3f};
  for (const int32_t window : {0, 6}) {
    shape.window = window;
    Fill(32);
    Batch poison(1, 32);
    for (int64_t c = 0; c < 32; ++c) poison.at(0, c) = INFINITY;
    device_->StoreKv(poison.rows().Columns(16, 16), {Places(0, 70, 1), tables_}, 16, cache_);
    const std::vector<RowPlace> places = Places(0, 65, 15);
    const Batch q(15, 32, 3, 1.0);
    Batch together(15, 32);
    device_->Attention(q.rows(), shape, {places, tables_}, cache_, together.rows());
    for (int64_t r = 0; r < 15; ++r) {
      SCOPED_TRACE(r);
      Batch alone(1, 32);
      const std::vector<RowPlace> place = {places[static_cast<size_t>(r)]};
      device_->Attention(q.Part(r, 1), shape, {place, tables_}, cache_, alone.rows());
      const bool sees = r >= 5 && (window == 0 || r < 5 + window);
      for (int64_t c = 0; c < 32; ++c) {
        EXPECT_EQ(std::isfinite(together.at(r, c)), !sees);
        if (!sees) {
          EXPECT_EQ(together.at(r, c), alone.at(0, c));
        }
      }
    }
  }
}

TEST_P(Attention, InAWindowEqualsTheReference) {
  AttentionShape shape = kGrouped;
  Fill(80);
  // Within a tile of positions, about one, across two, longer than the sequence.
  for (const int32_t window : {1, 2, 7, 63, 64, 65, 100, 149, 150, 1000}) {
    SCOPED_TRACE(window);
    shape.window = window;
    Expect(shape, Places(0, 0, 150));
    Expect(shape, Places(1, 149, 1));
    Expect(shape, Places(0, 3, 1) + Places(0, 60, 9) + Places(0, 140, 10) + Places(1, 64, 1));
  }
}

TEST_P(Attention, WithSinksEqualsTheReference) {
  const float sinks[] = {-2.0f, 0.5f, 3.0f, 60.0f, -80.0f, 0.0f};
  AttentionShape shape = kGrouped;
  shape.sinks = sinks;
  Fill(80);
  for (const int32_t window : {0, 5, 90}) {
    SCOPED_TRACE(window);
    shape.window = window;
    Expect(shape, Places(0, 0, 150) + Places(1, 100, 2));
  }
}

TEST_P(Attention, LooksAtNothingBeforeTheWindow) {
  AttentionShape shape = kSmall;
  shape.window = 5;
  Fill(16);
  Batch poison(81, 16);
  for (int64_t r = 0; r < 81; ++r) {
    for (int64_t c = 0; c < 16; ++c) poison.at(r, c) = NAN;
  }
  device_->StoreKv(poison.rows(), {Places(0, 0, 81), tables_}, 0, cache_);
  Expect(shape, Places(0, 85, 30));
  const Batch q(1, 16, 3, 1.0);
  Batch out(1, 16);
  device_->Attention(q.rows(), shape, {Places(0, 84, 1), tables_}, cache_, out.rows());
  EXPECT_TRUE(std::isnan(out.at(0, 0)));
}

TEST_P(Attention, RopeEqualsTheReferenceInBothLayouts) {
  for (const bool interleaved : {false, true}) {
    RopeTable table{.dim = 10, .interleaved = interleaved, .positions = 40};
    for (int i = 0; i < 200; ++i) {
      table.cos.push_back(static_cast<float>(std::cos(0.1 * i)));
      table.sin.push_back(static_cast<float>(std::sin(0.1 * i)));
    }
    const std::vector<RowPlace> places = Places(0, 37, 3) + Places(1, 5, 2);
    const Batch before(5, 60, 3, 1.0);
    Batch x = before;
    const Device::RopeColumns in_place = {3, 20, 4, 20, 4};
    device_->Rope(x.rows(), in_place, {places, tables_}, table, x.rows());
    Batch elsewhere(5, 33);
    device_->Rope(before.rows(), {3, 20, 4, 11, 1}, {places, tables_}, table, elsewhere.rows());
    for (int64_t r = 0; r < 5; ++r) {
      for (int64_t h = 0; h < 3; ++h) {
        EXPECT_EQ(elsewhere.at(r, h * 11), -77.0f);
        for (int64_t c = 0; c < 10; ++c) {
          EXPECT_EQ(elsewhere.at(r, h * 11 + 1 + c), x.at(r, h * 20 + 4 + c));
        }
      }
    }
    for (int64_t r = 0; r < 5; ++r) {
      for (int64_t c = 0; c < 60; ++c) {
        const int64_t i = c % 20 - 4;
        double expected = static_cast<double>(before.at(r, c));
        if (i >= 0 && i < 10) {
          const int64_t pair = interleaved ? i / 2 : i % 5;
          const bool is_second = interleaved ? i % 2 == 1 : i >= 5;
          const int64_t other = interleaved ? (c ^ 1) : (is_second ? c - 5 : c + 5);
          const double angle =
              0.1 * static_cast<double>(places[static_cast<size_t>(r)].position * 5 + pair);
          expected = expected * std::cos(angle) + static_cast<double>(before.at(r, other)) *
                                                      std::sin(angle) * (is_second ? 1 : -1);
        }
        ASSERT_NEAR(x.at(r, c), expected, 1e-6) << interleaved << " " << r << "," << c;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, Attention, testing::ValuesIn(AllCases()), CaseName);

}  // namespace
}  // namespace conclave::worker::parity

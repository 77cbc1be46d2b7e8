// Attention over the paged cache.
//
// A task is (some consecutive rows of one sequence) x (some heads): its tiles of positions are read
// once for all of them, each kv head's part by every head that shares it. Each (row, head) goes
// through the positions in tiles of kAttentionTile, which begin at multiples of it, in the online
// softmax's way, so its result is a function of the positions it sees, whatever shares the task.

#include <algorithm>
#include <cstring>
#include <limits>

#include "scheduler/check.h"
#include "worker/device/cpu/cpu_device.h"
#include "worker/device/cpu/places.h"

namespace conclave::worker {
namespace {

// Towards the second cache.
void Fetch(const char* data, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(data + at, 0, 2);
}

// BF16.
bool AllFinite(const char* values, int64_t count) {
  bool finite = true;
  for (int64_t i = 0; i < count; ++i) {
    uint16_t bits;
    std::memcpy(&bits, values + i * 2, sizeof bits);
    finite = finite && (bits & 0x7F80) != 0x7F80;
  }
  return finite;
}

}  // namespace

struct CpuDevice::AttentionCall {
  ConstRows q;
  const AttentionShape& shape;
  const BatchPlaces& places;
  KvLayer cache;
  Rows out;
  int32_t kv_at_once = 0;  // kv heads in a task
  int32_t kv_tasks = 0;    // tasks that share the kv heads
  int32_t at_once = 0;     // heads in a task for each of its kv heads
  int32_t head_tasks = 0;  // tasks that share the heads of a kv head

  int32_t group() const { return shape.heads / shape.kv_heads; }
  int32_t position(int64_t row) const { return places.rows[static_cast<size_t>(row)].position; }
  // The first position a row sees.
  int32_t begin(int64_t row) const {
    return shape.window > 0 ? std::max(0, position(row) - shape.window + 1) : 0;
  }
  int32_t sequence(int64_t row) const { return places.rows[static_cast<size_t>(row)].sequence; }
  void Split(int32_t kv, int32_t heads) {
    kv_at_once = kv;
    kv_tasks = (shape.kv_heads + kv - 1) / kv;
    at_once = heads;
    head_tasks = (group() + heads - 1) / heads;
  }
};

// The (row, head) pairs of one kv head in a task, heads within rows, and the positions they are at.
struct CpuDevice::AttentionTile {
  RowBlock block;
  int64_t kv_head = 0;
  int64_t first_head = 0;
  int heads = 0;
  int32_t first = 0;                   // position
  int count = 0;                       // of positions
  const char* const* cache = nullptr;  // their rows
  float* max = nullptr;                // running, of each pair
  float* sum = nullptr;
  float* scores = nullptr;  // [pairs, kAttentionTile]
  // By tiles: the queries of the pairs in two parts, and memory for keys that lie apart.
  char* high = nullptr;
  char* low = nullptr;
  char* keys = nullptr;

  int pairs() const { return block.count * heads; }
};

int64_t CpuDevice::MakeRowBlocks(const AttentionCall& call, int32_t rows_at_once) {
  int64_t blocks = 0;
  for (int32_t r = 0; r < call.q.rows; ++r) {
    RowBlock* last = blocks > 0 ? &blocks_[static_cast<size_t>(blocks - 1)] : nullptr;
    if (last != nullptr && last->count < rows_at_once &&
        call.sequence(last->first) == call.sequence(r)) {
      ++last->count;
    } else {
      blocks_[static_cast<size_t>(blocks++)] = {.first = r, .count = 1};
    }
  }
  return blocks;
}

void CpuDevice::Attention(ConstRows q, const AttentionShape& shape, const BatchPlaces& places,
                          KvLayer cache, Rows out) {
  CheckPlaces(places, q.rows);
  CONCLAVE_CHECK(q.rows <= options_.max_rows && out.rows == q.rows);
  CONCLAVE_CHECK(shape.kv_heads >= 1 && shape.heads % shape.kv_heads == 0);
  CONCLAVE_CHECK(q.cols == int64_t{shape.heads} * shape.key_dim);
  CONCLAVE_CHECK(out.cols == int64_t{shape.heads} * shape.value_dim);
  CONCLAVE_CHECK(shape.key_offset + int64_t{shape.kv_heads} * shape.key_dim <= cache.width);
  CONCLAVE_CHECK(shape.value_offset + int64_t{shape.kv_heads} * shape.value_dim <= cache.width);
  CONCLAVE_CHECK(shape.window >= 0);
  CONCLAVE_CHECK(shape.sinks.empty() || shape.sinks.size() == static_cast<size_t>(shape.heads));

  AttentionCall call{q, shape, places, cache, out};
  const auto pairs = static_cast<int32_t>(kAttentionPairs);
  call.Split(std::min(shape.kv_heads, kTaskKvHeads), std::min(call.group(), pairs));
  while (SplitBytes(call) > kQueryBytes) call.Split((call.kv_at_once + 1) / 2, call.at_once);
  const int64_t blocks = MakeRowBlocks(call, pairs / call.at_once);
  const auto tasks = [&] { return blocks * call.kv_tasks * call.head_tasks; };
  // A lone sequence keeps every thread busy, if need be at the price of reading its cache once for
  // each.
  while (tasks() < pool_.threads() && call.kv_at_once > 1) {
    call.Split((call.kv_at_once + 1) / 2, call.at_once);
  }
  while (tasks() < pool_.threads() && call.at_once > 4) call.Split(1, (call.at_once + 1) / 2);
  pool_.For(tasks(), [&](int thread, int64_t task) { AttendTask(call, task, thread); });
}

void CpuDevice::AttendTask(const AttentionCall& call, int64_t task, int thread) {
  const AttentionShape& shape = call.shape;
  const RowBlock block = blocks_[static_cast<size_t>(task / call.head_tasks / call.kv_tasks)];
  const int64_t first_kv = task / call.head_tasks % call.kv_tasks * call.kv_at_once;
  const int64_t last_kv = std::min<int64_t>(first_kv + call.kv_at_once, shape.kv_heads);
  const int32_t first_head = static_cast<int32_t>(task % call.head_tasks) * call.at_once;
  const int heads = std::min(call.at_once, call.group() - first_head);
  const int pairs = block.count * heads;
  char* scratch = static_cast<char*>(threads_.data()) + thread * kThreadBytes;
  float max[kTaskKvHeads][kAttentionPairs];
  float sum[kTaskKvHeads][kAttentionPairs];
  const bool by_tiles = AttendsByTiles(call);
  AttentionTile tiles[kTaskKvHeads];  // of each kv head: what stays from tile to tile
  for (int64_t kv = first_kv; kv < last_kv; ++kv) {
    const int64_t i = kv - first_kv;
    const int64_t part = pairs * cpu::PackedRowBytes(shape.key_dim);
    char* queries = scratch + kResultBytes + 2 * i * part;
    tiles[i] = {.block = block,
                .kv_head = kv,
                .first_head = kv * call.group() + first_head,
                .heads = heads,
                .max = max[i],
                .sum = sum[i],
                .scores = reinterpret_cast<float*>(scratch),
                .high = queries,
                .low = queries + part,
                .keys = scratch + kResultBytes + kQueryBytes};
    StartSums(call, tiles[i]);
    if (by_tiles) SplitQueries(call, tiles[i]);
  }
  const int32_t begin = call.begin(block.first) / cpu::kAttentionTile * cpu::kAttentionTile;
  const int32_t end = call.position(block.first + block.count - 1) + 1;  // rows ascend
  // Rows of the cache for this tile of positions and the next one, which is fetched meanwhile: a
  // head's part of a row is too short for the hardware to foresee the others.
  const char* cache[2][cpu::kAttentionTile];
  const auto find = [&](int32_t first, const char** rows) {
    const int count = std::clamp(end - first, 0, cpu::kAttentionTile);
    for (int p = 0; p < count; ++p) {
      rows[p] = CacheRow(call.cache, call.places, call.sequence(block.first), first + p);
    }
    return count;
  };
  const auto element = static_cast<int64_t>(SizeOf(call.cache.type));
  const int64_t kv_heads = last_kv - first_kv;
  int count = find(begin, cache[0]);
  for (int32_t first = begin, turn = 0; first < end; first += cpu::kAttentionTile, turn ^= 1) {
    const int next = find(first + cpu::kAttentionTile, cache[turn ^ 1]);
    for (int64_t kv = first_kv; kv < last_kv; ++kv) {
      const int64_t i = kv - first_kv;
      for (int64_t p = next * i / kv_heads; p < next * (i + 1) / kv_heads; ++p) {
        const char* row = cache[turn ^ 1][p];
        Fetch(row + (shape.key_offset + first_kv * shape.key_dim) * element,
              kv_heads * shape.key_dim * element);
        Fetch(row + (shape.value_offset + first_kv * shape.value_dim) * element,
              kv_heads * shape.value_dim * element);
      }
      AttentionTile& tile = tiles[i];
      tile.first = first;
      tile.count = count;
      tile.cache = cache[turn];
      if (by_tiles) {
        AttendTileSplit(call, tile);
      } else {
        AttendTile(call, tile);
      }
    }
    count = next;
  }
  for (int64_t kv = first_kv; kv < last_kv; ++kv) {
    for (int i = 0; i < pairs; ++i) {
      float* out = call.out.row(block.first + i / heads) +
                   (kv * call.group() + first_head + i % heads) * shape.value_dim;
      kernels_.divide(out, sum[kv - first_kv][i], shape.value_dim, out);
    }
  }
}

// Before its first position a pair has seen nothing, or its head's sink.
void CpuDevice::StartSums(const AttentionCall& call, const AttentionTile& tile) {
  const std::span<const float> sinks = call.shape.sinks;
  for (int i = 0; i < tile.pairs(); ++i) {
    const auto head = static_cast<size_t>(tile.first_head + i % tile.heads);
    tile.max[i] = sinks.empty() ? -std::numeric_limits<float>::infinity() : sinks[head];
    tile.sum[i] = sinks.empty() ? 0.0f : 1.0f;
  }
}

void CpuDevice::AttendTile(const AttentionCall& call, const AttentionTile& tile) {
  const AttentionShape& shape = call.shape;
  const int type = static_cast<int>(call.cache.type);
  const auto element = static_cast<int64_t>(SizeOf(call.cache.type));
  const void* keys[cpu::kAttentionTile];
  const void* values[cpu::kAttentionTile];
  for (int p = 0; p < tile.count; ++p) {
    keys[p] = tile.cache[p] + (shape.key_offset + tile.kv_head * shape.key_dim) * element;
    values[p] = tile.cache[p] + (shape.value_offset + tile.kv_head * shape.value_dim) * element;
  }
  const int pairs = tile.pairs();
  const void* queries[kAttentionPairs];
  float* scores[kAttentionPairs];
  float* outputs[kAttentionPairs];
  float shrink[kAttentionPairs];
  for (int i = 0; i < pairs; ++i) {
    const int64_t row = tile.block.first + i / tile.heads;
    const int64_t head = tile.first_head + i % tile.heads;
    queries[i] = call.q.row(row) + head * shape.key_dim;
    outputs[i] = call.out.row(row) + head * shape.value_dim;
    scores[i] = tile.scores + i * cpu::kAttentionTile;
  }
  // The positions [first, end) of the tile that a pair sees, and whether they are its first.
  struct Seen {
    int first, end;
    bool starts;
    bool operator==(const Seen&) const = default;
  };
  const auto seen = [&](int i) {
    const int64_t row = tile.block.first + i / tile.heads;
    const int32_t begin = call.begin(row);
    return Seen{std::max(begin - tile.first, 0),
                std::min(call.position(row) + 1 - tile.first, tile.count), begin >= tile.first};
  };
  int begin = 0;
  int end = pairs;
  while (seen(begin).end <= 0) begin += tile.heads;  // rows that ended in an earlier tile
  while (end > begin && seen(end - 1).first >= tile.count)
    end -= tile.heads;  // or begin in a later
  if (begin == end) return;
  kernels_.dot[type](queries + begin, end - begin, keys, tile.count, shape.key_dim, scores + begin);
  while (begin < end) {
    const Seen sees = seen(begin);
    int next = begin + tile.heads;  // pairs that see the same go together
    while (next < end && seen(next) == sees) next += tile.heads;
    for (int i = begin; i < next; ++i) {
      std::fill_n(scores[i], sees.first, -std::numeric_limits<float>::infinity());
      shrink[i] =
          kernels_.softmax_tile(scores[i], sees.end, shape.scale, &tile.max[i], &tile.sum[i]);
      scores[i] += sees.first;
    }
    kernels_.mix[type](scores + begin, next - begin, values + sees.first, sees.end - sees.first,
                       shape.value_dim, sees.starts ? nullptr : shrink + begin, outputs + begin);
    begin = next;
  }
}

bool CpuDevice::AttendsByTiles(const AttentionCall& call) const {
  return kernels_.tiles != nullptr && call.cache.type == DType::kBF16 &&
         call.shape.key_dim <= kMaxHeadDim;
}

// Of all split queries of a task.
int64_t CpuDevice::SplitBytes(const AttentionCall& call) const {
  if (!AttendsByTiles(call)) return 0;
  return 2 * call.kv_at_once * kAttentionPairs * cpu::PackedRowBytes(call.shape.key_dim);
}

// And sums of values that begin at zero.
void CpuDevice::SplitQueries(const AttentionCall& call, const AttentionTile& tile) {
  const AttentionShape& shape = call.shape;
  const float* queries[kAttentionPairs];
  for (int i = 0; i < tile.pairs(); ++i) {
    const int64_t row = tile.block.first + i / tile.heads;
    const int64_t head = tile.first_head + i % tile.heads;
    queries[i] = call.q.row(row) + head * shape.key_dim;
    std::fill_n(call.out.row(row) + head * shape.value_dim, shape.value_dim, 0.0f);
  }
  for (int i = 0; i < tile.pairs(); i += cpu::kPanelRows) {
    const int64_t at = i * cpu::PackedRowBytes(shape.key_dim);
    kernels_.tiles->pack_split(queries + i, std::min(cpu::kPanelRows, tile.pairs() - i),
                               shape.key_dim, tile.high + at, tile.low + at);
  }
}

// AttendTile by products of BF16, whose left operand is split: scores and values come within 2^-17
// of the factors. What a pair does not see has a weight of zero, so that all share one product;
// where a value is not finite, only those that see the same do.
void CpuDevice::AttendTileSplit(const AttentionCall& call, const AttentionTile& tile) {
  const AttentionShape& shape = call.shape;
  constexpr int64_t kElement = 2;
  const int64_t key_column = shape.key_offset + tile.kv_head * shape.key_dim;
  const int64_t value_column = shape.value_offset + tile.kv_head * shape.value_dim;
  // Runs of keys: as they lie where a block of the cache holds whole runs, else copies.
  const void* keys[cpu::kAttentionTile / cpu::kPanelRows];
  int64_t stride = call.cache.width * kElement;
  const bool whole = call.cache.block_size % cpu::kPanelRows == 0;
  if (!whole) {
    stride = shape.key_dim * kElement;
    for (int p = 0; p < tile.count; ++p) {
      std::memcpy(tile.keys + p * stride, tile.cache[p] + key_column * kElement,
                  static_cast<size_t>(stride));
    }
  }
  for (int p = 0; p < tile.count; p += cpu::kPanelRows) {
    keys[p / cpu::kPanelRows] =
        whole ? tile.cache[p] + key_column * kElement : tile.keys + p * stride;
  }
  const int pairs = tile.pairs();
  float* scores[kAttentionPairs];
  float* outputs[kAttentionPairs];
  float shrink[kAttentionPairs];
  for (int i = 0; i < pairs; ++i) {
    const int64_t row = tile.block.first + i / tile.heads;
    outputs[i] = call.out.row(row) + (tile.first_head + i % tile.heads) * shape.value_dim;
    scores[i] = tile.scores + i * cpu::kAttentionTile;
  }
  kernels_.tiles->dot_split(tile.high, tile.low, pairs, keys, stride, tile.count, shape.key_dim,
                            scores);
  struct Seen {
    int first, end;  // positions of the tile
    bool operator==(const Seen&) const = default;
  };
  Seen seen[kAttentionPairs];
  for (int i = 0; i < pairs; ++i) {
    const int64_t row = tile.block.first + i / tile.heads;
    const int first = std::clamp(call.begin(row) - tile.first, 0, tile.count);
    const int end = std::clamp(call.position(row) + 1 - tile.first, 0, tile.count);
    seen[i] = {first, end};
    shrink[i] = 1.0f;
    if (first >= end) {  // it ended in an earlier tile, or begins in a later
      std::fill_n(scores[i], cpu::kAttentionTile, 0.0f);
      continue;
    }
    std::fill_n(scores[i], first, -std::numeric_limits<float>::infinity());
    shrink[i] = kernels_.softmax_tile(scores[i], end, shape.scale, &tile.max[i], &tile.sum[i]);
  }
  // Pairs ascend in position: those that see the same are together.
  const auto mix = [&](int begin, int end, Seen which) {
    const void* values[cpu::kAttentionTile];
    for (int p = 0; p < tile.count; ++p) {
      const bool sees = p >= which.first && p < which.end;
      values[p] = sees ? tile.cache[p] + value_column * kElement : nullptr;
    }
    kernels_.tiles->mix_split(scores + begin, end - begin, values, tile.count, shape.value_dim,
                              shrink + begin, outputs + begin);
  };
  const Seen all = {seen[0].first, seen[pairs - 1].end};
  bool finite = true;
  for (int p = all.first; p < all.end && finite && seen[0] != seen[pairs - 1]; ++p) {
    finite = AllFinite(tile.cache[p] + value_column * kElement, shape.value_dim);
  }
  if (finite) return mix(0, pairs, all);
  for (int begin = 0, end = 0; begin < pairs; begin = end) {
    while (end < pairs && seen[end] == seen[begin]) ++end;
    mix(begin, end, seen[begin]);
  }
}

}  // namespace conclave::worker

// The cache, its rotary embedding, and attention over it.
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

namespace conclave::worker {
namespace {

char* CacheRow(const KvLayer& cache, const BatchPlaces& places, int32_t sequence,
               int64_t position) {
  const std::span<const int32_t> blocks = places.block_tables[static_cast<size_t>(sequence)];
  const auto index = static_cast<size_t>(position / cache.block_size);
  CONCLAVE_CHECK(index < blocks.size());
  const int64_t row = int64_t{blocks[index]} * cache.block_size + position % cache.block_size;
  CONCLAVE_CHECK(row >= 0 && row < cache.rows);
  return static_cast<char*>(cache.data) +
         row * cache.width * static_cast<int64_t>(SizeOf(cache.type));
}

void CheckPlaces(const BatchPlaces& places, int64_t rows) {
  CONCLAVE_CHECK(static_cast<int64_t>(places.rows.size()) == rows);
  for (const RowPlace& place : places.rows) {
    CONCLAVE_CHECK(place.position >= 0 && place.sequence >= 0);
    CONCLAVE_CHECK(static_cast<size_t>(place.sequence) < places.block_tables.size());
  }
}

// Rotates one head; the two of a pair are `step` apart and pairs begin every `next` columns.
void Rotate(const float* x, const float* cos, const float* sin, int32_t pairs, int32_t step,
            int32_t next, float* out) {
  for (int32_t i = 0; i < pairs; ++i) {
    const float a = x[i * next];
    const float b = x[i * next + step];
    out[i * next] = a * cos[i] - b * sin[i];
    out[i * next + step] = b * cos[i] + a * sin[i];
  }
}

}  // namespace

void CpuDevice::Rope(ConstRows x, const RopeColumns& columns, const BatchPlaces& places,
                     const RopeTable& table, Rows out) {
  const int32_t pairs = table.dim / 2;
  const int64_t last = columns.heads - 1;
  CheckPlaces(places, x.rows);
  CONCLAVE_CHECK(columns.heads >= 1 && out.rows == x.rows);
  CONCLAVE_CHECK(last * columns.in_stride + columns.in_first + table.dim <= x.cols);
  CONCLAVE_CHECK(last * columns.out_stride + columns.out_first + table.dim <= out.cols);
  const int32_t step = table.interleaved ? 1 : pairs;
  const int32_t next = table.interleaved ? 2 : 1;
  ForRows(x.rows, int64_t{columns.heads} * table.dim * 2, [&](int64_t begin, int64_t count) {
    for (int64_t r = begin; r < begin + count; ++r) {
      const int64_t position = places.rows[static_cast<size_t>(r)].position;
      CONCLAVE_CHECK(position < table.positions);
      const float* cos = table.cos.data() + position * pairs;
      const float* sin = table.sin.data() + position * pairs;
      for (int64_t h = 0; h < columns.heads; ++h) {
        Rotate(x.row(r) + h * columns.in_stride + columns.in_first, cos, sin, pairs, step, next,
               out.row(r) + h * columns.out_stride + columns.out_first);
      }
    }
  });
}

void CpuDevice::StoreKv(ConstRows x, const BatchPlaces& places, int64_t column, KvLayer cache) {
  CheckPlaces(places, x.rows);
  CONCLAVE_CHECK(column >= 0 && column + x.cols <= cache.width);
  const auto narrow = kernels_.narrow[static_cast<int>(cache.type)];
  ForRows(x.rows, x.cols, [&](int64_t first, int64_t count) {
    for (int64_t r = first; r < first + count; ++r) {
      const RowPlace& place = places.rows[static_cast<size_t>(r)];
      narrow(x.row(r), x.cols,
             CacheRow(cache, places, place.sequence, place.position) +
                 column * static_cast<int64_t>(SizeOf(cache.type)));
    }
  });
}

void CpuDevice::CopyKv(KvLayer cache, int32_t from, int32_t to) {
  const int64_t blocks = cache.rows / cache.block_size;
  CONCLAVE_CHECK(from >= 0 && from < blocks && to >= 0 && to < blocks && from != to);
  const int64_t bytes = cache.block_size * cache.width * static_cast<int64_t>(SizeOf(cache.type));
  char* data = static_cast<char*>(cache.data);
  std::memcpy(data + to * bytes, data + from * bytes, static_cast<size_t>(bytes));
}

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
  auto* scores =
      reinterpret_cast<float*>(static_cast<char*>(threads_.data()) + thread * kThreadBytes);
  float max[kTaskKvHeads][kAttentionPairs];
  float sum[kTaskKvHeads][kAttentionPairs];
  for (int64_t kv = first_kv; kv < last_kv; ++kv) {
    StartSums(call, {.block = block,
                     .first_head = kv * call.group() + first_head,
                     .heads = heads,
                     .max = max[kv - first_kv],
                     .sum = sum[kv - first_kv]});
  }
  const int32_t begin = call.begin(block.first) / cpu::kAttentionTile * cpu::kAttentionTile;
  const int32_t end = call.position(block.first + block.count - 1) + 1;  // rows ascend
  for (int32_t first = begin; first < end; first += cpu::kAttentionTile) {
    const int count = std::min(end - first, cpu::kAttentionTile);
    const char* cache[cpu::kAttentionTile];
    for (int p = 0; p < count; ++p) {
      cache[p] = CacheRow(call.cache, call.places, call.sequence(block.first), first + p);
    }
    for (int64_t kv = first_kv; kv < last_kv; ++kv) {
      AttendTile(call, {.block = block,
                        .kv_head = kv,
                        .first_head = kv * call.group() + first_head,
                        .heads = heads,
                        .first = first,
                        .count = count,
                        .cache = cache,
                        .max = max[kv - first_kv],
                        .sum = sum[kv - first_kv],
                        .scores = scores});
    }
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
  for (int i = 0; i < tile.block.count * tile.heads; ++i) {
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
  const int pairs = tile.block.count * tile.heads;
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

}  // namespace conclave::worker

// The cache, its rotary embedding, and attention over it.
//
// A task is (some consecutive rows of one sequence) x (some heads of one kv head): they share every
// read of the cache. Each (row, head) goes through the positions in tiles of kAttentionTile from 0,
// in the online softmax's way, so its result is a function of its own positions, whatever shares
// the task.

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

struct CpuDevice::AttentionCall {
  ConstRows q;
  const AttentionShape& shape;
  const BatchPlaces& places;
  KvLayer cache;
  Rows out;
  int32_t task_heads = 0;  // heads in a task, all of one kv head
  int64_t head_tasks = 0;  // tasks for the heads of one kv head
};

void CpuDevice::Attention(ConstRows q, const AttentionShape& shape, const BatchPlaces& places,
                          KvLayer cache, Rows out) {
  CheckPlaces(places, q.rows);
  CONCLAVE_CHECK(q.rows <= options_.max_rows && out.rows == q.rows);
  CONCLAVE_CHECK(shape.kv_heads >= 1 && shape.heads % shape.kv_heads == 0);
  CONCLAVE_CHECK(q.cols == int64_t{shape.heads} * shape.key_dim);
  CONCLAVE_CHECK(out.cols == int64_t{shape.heads} * shape.value_dim);
  CONCLAVE_CHECK(shape.key_offset + int64_t{shape.kv_heads} * shape.key_dim <= cache.width);
  CONCLAVE_CHECK(shape.value_offset + int64_t{shape.kv_heads} * shape.value_dim <= cache.width);

  const int32_t group = shape.heads / shape.kv_heads;
  const auto limit = static_cast<int32_t>(kTaskRows);
  int32_t task_heads = std::min(group, limit);
  const int32_t rows_at_once = std::max(1, limit / task_heads);
  int64_t blocks = 0;
  for (int32_t r = 0; r < q.rows; ++r) {
    RowBlock* last = blocks > 0 ? &blocks_[static_cast<size_t>(blocks - 1)] : nullptr;
    if (last != nullptr && last->count < rows_at_once &&
        places.rows[static_cast<size_t>(last->first)].sequence ==
            places.rows[static_cast<size_t>(r)].sequence) {
      ++last->count;
    } else {
      blocks_[static_cast<size_t>(blocks++)] = {.first = r, .count = 1};
    }
  }
  // A lone sequence keeps every thread busy at the price of reading its cache once for each.
  const auto tasks_of = [&](int32_t heads) {
    return blocks * shape.kv_heads * ((group + heads - 1) / heads);
  };
  while (task_heads > 4 && tasks_of(task_heads) < pool_.threads()) {
    task_heads = (task_heads + 1) / 2;
  }
  const AttentionCall call{
      q, shape, places, cache, out, task_heads, (group + task_heads - 1) / task_heads};
  pool_.For(tasks_of(task_heads),
            [&](int thread, int64_t task) { AttendTask(call, task, thread); });
}

void CpuDevice::AttendTask(const AttentionCall& call, int64_t task, int thread) {
  const AttentionShape& shape = call.shape;
  const int32_t group = shape.heads / shape.kv_heads;
  const int64_t per_block = call.head_tasks * shape.kv_heads;
  const RowBlock block = blocks_[static_cast<size_t>(task / per_block)];
  const int64_t kv_head = task % per_block / call.head_tasks;
  const int64_t first_head = kv_head * group + task % call.head_tasks * call.task_heads;
  const auto heads =
      static_cast<int>(std::min<int64_t>(call.task_heads, (kv_head + 1) * group - first_head));
  const int units = block.count * heads;  // (row, head) pairs, heads within rows
  const int32_t sequence = call.places.rows[static_cast<size_t>(block.first)].sequence;
  const auto position = [&](int row) {
    return call.places.rows[static_cast<size_t>(block.first + row)].position;
  };

  auto* scores =
      reinterpret_cast<float*>(static_cast<char*>(threads_.data()) + thread * kThreadBytes);
  const void* queries[kTaskRows];
  float* score_rows[kTaskRows];
  float* outputs[kTaskRows];
  float max[kTaskRows];
  float sum[kTaskRows];
  float shrink[kTaskRows];
  for (int u = 0; u < units; ++u) {
    const int64_t row = block.first + u / heads;
    const int64_t head = first_head + u % heads;
    queries[u] = call.q.row(row) + head * shape.key_dim;
    outputs[u] = call.out.row(row) + head * shape.value_dim;
    score_rows[u] = scores + u * cpu::kAttentionTile;
    max[u] = -std::numeric_limits<float>::infinity();
    sum[u] = 0.0f;
  }

  const int type = static_cast<int>(call.cache.type);
  const auto element = static_cast<int64_t>(SizeOf(call.cache.type));
  const int64_t key = (shape.key_offset + kv_head * shape.key_dim) * element;
  const int64_t value = (shape.value_offset + kv_head * shape.value_dim) * element;
  const int32_t end = position(block.count - 1) + 1;  // rows ascend
  int done = 0;  // units whose positions ended in an earlier tile
  for (int32_t first = 0; first < end; first += cpu::kAttentionTile) {
    const int count = std::min(end - first, cpu::kAttentionTile);
    const void* keys[cpu::kAttentionTile];
    const void* values[cpu::kAttentionTile];
    for (int p = 0; p < count; ++p) {
      const char* row = CacheRow(call.cache, call.places, sequence, first + p);
      keys[p] = row + key;
      values[p] = row + value;
    }
    while (position(done / heads) < first) done += heads;
    kernels_.dot[type](queries + done, units - done, keys, count, shape.key_dim, score_rows + done);
    for (int u = done; u < units;) {
      // Units that see the same positions of this tile go together.
      const int visible = std::min(position(u / heads) + 1 - first, count);
      int next = u + heads;
      while (next < units && std::min(position(next / heads) + 1 - first, count) == visible)
        next += heads;
      for (int i = u; i < next; ++i) {
        shrink[i] = kernels_.softmax_tile(score_rows[i], visible, shape.scale, &max[i], &sum[i]);
      }
      kernels_.mix[type](score_rows + u, next - u, values, visible, shape.value_dim,
                         first == 0 ? nullptr : shrink + u, outputs + u);
      u = next;
    }
  }
  for (int u = 0; u < units; ++u) {
    kernels_.divide(outputs[u], sum[u], shape.value_dim, outputs[u]);
  }
}

}  // namespace conclave::worker

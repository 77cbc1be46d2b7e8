// What a row's place decides: its rotary embedding, and where its keys and values are kept.

#include "worker/device/cpu/places.h"

#include <cstring>

#include "scheduler/check.h"
#include "worker/device/cpu/cpu_device.h"

namespace conclave::worker {
namespace {

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

void CheckPlaces(const BatchPlaces& places, int64_t rows) {
  CONCLAVE_CHECK(static_cast<int64_t>(places.rows.size()) == rows);
  for (const RowPlace& place : places.rows) {
    CONCLAVE_CHECK(place.position >= 0 && place.sequence >= 0);
    CONCLAVE_CHECK(static_cast<size_t>(place.sequence) < places.block_tables.size());
  }
}

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

}  // namespace conclave::worker

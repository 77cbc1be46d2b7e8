#pragma once
// Where rows of a batch stand in their sequences, and so in the cache.

#include <cstdint>

#include "worker/device/device.h"

namespace conclave::worker {

// CHECKs that these are places of `rows` rows.
void CheckPlaces(const BatchPlaces& places, int64_t rows);

// The row of the cache that holds a position of a sequence, which its block table must reach.
char* CacheRow(const KvLayer& cache, const BatchPlaces& places, int32_t sequence, int64_t position);

}  // namespace conclave::worker

#pragma once
// The paged storage behind a planner's block ids: one pool on the device, split by layer. Engine
// thread only. A row holds what attention needs of one position: keys then values (grouped-query),
// or the latent then the rotated key that all heads share (MLA; DeepSeek-V2 §2.1.2).

#include <cstdint>

#include "absl/status/statusor.h"
#include "worker/device/device.h"
#include "worker/model/spec.h"

namespace conclave::worker {

class KvCache {
 public:
  struct Options {
    int32_t blocks = 0;
    int32_t block_size = 16;
  };

  // RESOURCE_EXHAUSTED if the device cannot give the memory.
  static absl::StatusOr<KvCache> Create(const ModelSpec& spec, const Options& options,
                                        Device& device);

  // Columns of a row: what one position takes in one layer, in elements.
  static int64_t Width(const AttentionSpec& attention);
  // Of one block over all layers.
  static int64_t BlockBytes(const ModelSpec& spec, int32_t block_size);

  KvLayer layer(int32_t index) const;

 private:
  char* data_ = nullptr;  // [layers, blocks * block_size, width]
  DType type_ = DType::kF32;
  int64_t rows_ = 0;
  int64_t width_ = 0;
  int32_t block_size_ = 0;
};

}  // namespace conclave::worker

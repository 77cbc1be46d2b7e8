#include "worker/kv_cache.h"

namespace conclave::worker {

int64_t KvCache::Width(const AttentionSpec& attention) {
  return attention.kind == AttentionSpec::Kind::kMla
             ? attention.kv_lora_rank + attention.qk_rope_dim
             : int64_t{2} * attention.kv_heads * attention.head_dim;
}

int64_t KvCache::BlockBytes(const ModelSpec& spec, int32_t block_size) {
  return Width(spec.attention) * block_size *
         static_cast<int64_t>(spec.layers.size() * SizeOf(spec.activation_type()));
}

absl::StatusOr<KvCache> KvCache::Create(const ModelSpec& spec, const Options& options,
                                        Device& device) {
  KvCache cache;
  cache.type_ = spec.activation_type();
  cache.rows_ = int64_t{options.blocks} * options.block_size;
  cache.width_ = Width(spec.attention);
  cache.block_size_ = options.block_size;
  const int64_t bytes = BlockBytes(spec, options.block_size) * options.blocks;
  auto memory =
      // A cache of prefixes fills sooner or later: better to miss the memory at the start.
      device.Allocate(static_cast<size_t>(bytes), "kv cache", Device::Take::kNow);
  if (!memory.ok()) return memory.status();
  cache.data_ = static_cast<char*>(*memory);
  return cache;
}

KvLayer KvCache::layer(int32_t index) const {
  const int64_t layer_bytes = rows_ * width_ * static_cast<int64_t>(SizeOf(type_));
  return {data_ + index * layer_bytes, type_, rows_, width_, block_size_};
}

}  // namespace conclave::worker

#include "worker/batch.h"

#include <algorithm>
#include <numeric>

#include "scheduler/check.h"
#include "worker/kv_cache.h"
#include "worker/status.h"

namespace conclave::worker {
namespace {

absl::Status Allocate(Device& device, int64_t rows, int64_t columns, std::string_view name,
                      Rows& out) {
  if (columns == 0) return absl::OkStatus();
  CONCLAVE_ASSIGN_OR_RETURN(
      void* memory, device.Allocate(static_cast<size_t>(rows * columns) * sizeof(float), name));
  out = {static_cast<float*>(memory), rows, columns, columns};
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Batch>> Batch::Create(const ModelSpec& spec, int32_t max_rows,
                                                     int32_t max_sequences, int32_t logit_rows,
                                                     Device& device) {
  auto batch = std::make_unique<Batch>();
  const AttentionSpec& a = spec.attention;
  const bool mla = a.kind == AttentionSpec::Kind::kMla;
  const bool moe =
      std::any_of(spec.layers.begin(), spec.layers.end(), [](const LayerSpec& l) { return l.moe; });
  const int64_t query = a.heads * int64_t{mla ? a.qk_nope_dim + a.qk_rope_dim : a.head_dim};
  const int64_t value = a.heads * int64_t{mla ? a.value_dim : a.head_dim};

  CONCLAVE_RETURN_IF_ERROR(Allocate(device, max_rows, spec.dim, "hidden", batch->hidden));
  CONCLAVE_RETURN_IF_ERROR(Allocate(device, max_rows, spec.dim, "normed", batch->normed));
  CONCLAVE_RETURN_IF_ERROR(Allocate(device, max_rows, query, "query", batch->query));
  CONCLAVE_RETURN_IF_ERROR(
      Allocate(device, max_rows, mla ? a.q_lora_rank : 0, "low-rank query", batch->query_low));
  CONCLAVE_RETURN_IF_ERROR(
      Allocate(device, max_rows, KvCache::Width(a), "keys and values", batch->key_value));
  CONCLAVE_RETURN_IF_ERROR(Allocate(device, max_rows,
                                    mla ? a.heads * int64_t{a.kv_lora_rank + a.qk_rope_dim} : 0,
                                    "absorbed query", batch->absorbed));
  CONCLAVE_RETURN_IF_ERROR(Allocate(device, max_rows, mla ? a.heads * int64_t{a.kv_lora_rank} : 0,
                                    "latent output", batch->latent_out));
  CONCLAVE_RETURN_IF_ERROR(Allocate(device, max_rows, value, "attention output", batch->attended));
  CONCLAVE_RETURN_IF_ERROR(Allocate(device, max_rows, spec.dim, "projection", batch->projected));
  if (moe) {
    const size_t routes = static_cast<size_t>(max_rows) * static_cast<size_t>(spec.gate.top_k);
    CONCLAVE_RETURN_IF_ERROR(
        Allocate(device, max_rows, spec.gate.slots, "gate logits", batch->gate_logits));
    CONCLAVE_RETURN_IF_ERROR(Allocate(device, max_rows, spec.shared_ffn_dim > 0 ? spec.dim : 0,
                                      "shared expert", batch->shared));
    CONCLAVE_RETURN_IF_ERROR(Allocate(device, max_rows, spec.shared_ffn_dim > 0 ? 1 : 0,
                                      "shared expert's gate", batch->shared_logits));
    CONCLAVE_RETURN_IF_ERROR(Allocate(device, int64_t{max_rows} * spec.gate.top_k, spec.dim,
                                      "expert rows", batch->expert_rows));
    batch->slots.resize(routes);
    batch->weights.resize(routes);
    batch->experts.resize(routes);
  }
  CONCLAVE_RETURN_IF_ERROR(Allocate(device, logit_rows, spec.dim, "head input", batch->head_rows));
  CONCLAVE_RETURN_IF_ERROR(Allocate(device, logit_rows, spec.vocab, "logits", batch->logits));
  batch->sampled.resize(static_cast<size_t>(logit_rows));

  batch->ids.reserve(static_cast<size_t>(max_rows));
  batch->place.reserve(static_cast<size_t>(max_rows));
  batch->block_tables.reserve(static_cast<size_t>(max_sequences));
  batch->every_row.resize(static_cast<size_t>(max_rows));
  std::iota(batch->every_row.begin(), batch->every_row.end(), 0);
  return batch;
}

void Batch::Clear() {
  ids.clear();
  place.clear();
  block_tables.clear();
}

void Batch::Append(std::span<const scheduler::TokenId> tokens, int32_t first,
                   std::span<const scheduler::BlockId> blocks) {
  CONCLAVE_CHECK(ids.size() + tokens.size() <= every_row.size());
  const auto sequence = static_cast<int32_t>(block_tables.size());
  block_tables.push_back(blocks);
  for (size_t i = 0; i < tokens.size(); ++i) {
    ids.push_back(tokens[i]);
    place.push_back({first + static_cast<int32_t>(i), sequence});
  }
}

}  // namespace conclave::worker

#include "worker/batch.h"

#include <algorithm>
#include <initializer_list>
#include <numeric>

#include "scheduler/check.h"
#include "worker/kv_cache.h"
#include "worker/status.h"

namespace conclave::worker {
namespace {

constexpr int64_t kAlignment = 64;  // of a buffer in floats

// A buffer of `rows` by `columns` floats; none if that is nothing.
struct Buffer {
  Rows* rows = nullptr;
  int64_t count = 0;
  int64_t columns = 0;
  int64_t floats() const { return (count * columns + kAlignment - 1) / kAlignment * kAlignment; }
};

int64_t FloatsOf(std::span<const Buffer> buffers) {
  return std::accumulate(buffers.begin(), buffers.end(), int64_t{0},
                         [](int64_t sum, const Buffer& buffer) { return sum + buffer.floats(); });
}

// One after the other from `memory` on.
void Lay(std::span<const Buffer> buffers, float* memory) {
  for (const Buffer& buffer : buffers) {
    if (buffer.floats() > 0) *buffer.rows = {memory, buffer.count, buffer.columns, buffer.columns};
    memory += buffer.floats();
  }
}

// Phases that never overlap share memory: a worker has it for the largest of them.
absl::Status Allocate(Device& device, std::string_view name,
                      std::initializer_list<std::span<const Buffer>> phases) {
  int64_t floats = 0;
  for (const std::span<const Buffer> phase : phases) floats = std::max(floats, FloatsOf(phase));
  CONCLAVE_ASSIGN_OR_RETURN(void* memory,
                            device.Allocate(static_cast<size_t>(floats) * sizeof(float), name));
  for (const std::span<const Buffer> phase : phases) Lay(phase, static_cast<float*>(memory));
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

  const int64_t rows = max_rows, heads = mla ? a.heads : 0;
  const int64_t routes = moe ? rows * spec.gate.top_k : 0;
  const bool shares = moe && spec.shared_ffn_dim > 0;
  const Buffer all[] = {{&batch->hidden, rows, spec.dim}, {&batch->normed, rows, spec.dim}};
  const Buffer attention[] = {
      {&batch->query, rows, query},
      {&batch->query_low, rows, mla ? a.q_lora_rank : 0},
      {&batch->key_value, rows, KvCache::Width(a)},
      {&batch->absorbed, rows, heads * int64_t{a.kv_lora_rank + a.qk_rope_dim}},
      {&batch->latent_out, rows, heads * int64_t{a.kv_lora_rank}},
      {&batch->attended, rows, value},
      {&batch->projected, rows, spec.dim},
  };
  const Buffer experts[] = {
      {&batch->gate_logits, rows, moe ? spec.gate.slots : 0},
      {&batch->shared, rows, shares ? spec.dim : 0},
      {&batch->shared_logits, rows, shares ? 1 : 0},
      {&batch->expert_rows, routes, spec.dim},
  };
  const Buffer head[] = {{&batch->head_rows, logit_rows, spec.dim},
                         {&batch->logits, logit_rows, spec.vocab}};
  CONCLAVE_RETURN_IF_ERROR(Allocate(device, "hidden rows", {all}));
  CONCLAVE_RETURN_IF_ERROR(Allocate(device, "a layer's rows", {attention, experts, head}));
  batch->slots.resize(static_cast<size_t>(routes));
  batch->weights.resize(static_cast<size_t>(routes));
  batch->ones.assign(static_cast<size_t>(rows), 1.0f);
  batch->experts.resize(static_cast<size_t>(routes));
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

void Batch::Append(std::span<const scheduler::TokenId> tokens,
                   std::span<const scheduler::TokenId> proposed, int32_t first,
                   std::span<const scheduler::BlockId> blocks) {
  CONCLAVE_CHECK(ids.size() + tokens.size() + proposed.size() <= every_row.size());
  const auto sequence = static_cast<int32_t>(block_tables.size());
  block_tables.push_back(blocks);
  for (const auto part : {tokens, proposed}) {
    for (const scheduler::TokenId token : part) {
      ids.push_back(token);
      place.push_back({first++, sequence});
    }
  }
}

}  // namespace conclave::worker

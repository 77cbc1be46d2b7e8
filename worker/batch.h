#pragma once
// The buffers of one step, allocated once at their largest and reused, and the layout of a plan's
// rows in them. Engine thread only. Rows: all planned tokens, sequence after sequence, positions
// ascending.

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "scheduler/types.h"
#include "worker/device/device.h"
#include "worker/model/spec.h"

namespace conclave::worker {

struct Batch {
  // For at most max_rows tokens of max_sequences sequences, and logit_rows rows of logits.
  static absl::StatusOr<std::unique_ptr<Batch>> Create(const ModelSpec& spec, int32_t max_rows,
                                                       int32_t max_sequences, int32_t logit_rows,
                                                       Device& device);

  void Clear();
  // Appends a sequence's rows: tokens at positions first.., the proposed ones behind them, with its
  // block table.
  void Append(std::span<const scheduler::TokenId> tokens,
              std::span<const scheduler::TokenId> proposed, int32_t first,
              std::span<const scheduler::BlockId> blocks);

  int32_t rows() const { return static_cast<int32_t>(ids.size()); }
  BatchPlaces places() const { return {place, block_tables}; }

  std::vector<int32_t> ids;                            // [rows]
  std::vector<RowPlace> place;                         // [rows]
  std::vector<std::span<const int32_t>> block_tables;  // [sequences]
  std::vector<int32_t> every_row;                      // 0, 1, ... [max_rows]

  // Activations, fp32, [max_rows, columns].
  Rows hidden;  // dim                               the residual stream
  Rows normed;  // dim
  // Attention, dense feed-forward nets. Each of these three phases writes over what the others
  // left.
  Rows query;       // heads * key dim
  Rows query_low;   // q_lora_rank                       MLA with a low-rank query
  Rows key_value;   // the cache row: keys and values, or latent and rotated key
  Rows absorbed;    // heads * (kv_lora_rank + rope)     MLA: queries in the latent's space
  Rows latent_out;  // heads * kv_lora_rank              MLA: attention's result there
  Rows attended;    // heads * value dim
  Rows projected;   // dim                               what a block adds to the residual
  // Experts.
  Rows gate_logits;    // slots
  Rows shared;         // dim                               the shared expert's result
  Rows shared_logits;  // 1                               how much of it counts
  Rows expert_rows;  // [max_rows * top_k, dim]           one row per (token, expert), in gate order

  std::vector<int32_t> slots;                // [rows, top_k]
  std::vector<float> weights;                // [rows, top_k]
  std::vector<float> ones;                   // [max_rows]
  std::vector<scheduler::ExpertId> experts;  // [rows, top_k]

  // Head: a tile of rows whose logits are wanted.
  Rows head_rows;  // [logit_rows, dim]
  Rows logits;     // [logit_rows, vocab]

  std::vector<SampledToken> sampled;  // [logit_rows]
};

}  // namespace conclave::worker

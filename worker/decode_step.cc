// One step of a worker, top to bottom: take what arrived, plan, copy blocks, load, run the layers,
// sample (step_head.cc), commit, publish (step_results.cc). All control flow of a step is here, in
// calling order; leaf mathematics is in the device, leaf decisions in the scheduler. Everything
// below runs on the engine thread.

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "scheduler/check.h"
#include "worker/engine_impl.h"
#include "worker/status.h"

namespace conclave::worker {

using scheduler::FinishReason;
using scheduler::Micros;
using scheduler::PlannedSequence;
using scheduler::SequenceId;
using scheduler::StepPlan;

bool Engine::Impl::Step(Micros now) {
  const auto begin = std::chrono::steady_clock::now();
  TakePlacementNews();
  if (const auto adopted = host_->BeginStep(++step_)) FollowAdapters(*adopted);
  TakeArrivalsAndCancels(now);
  const StepPlan plan = planner_->Plan(now);
  EndDropped(plan);
  if (!plan.sequences.empty()) {
    At("step.begin");
    CopyBlocks(plan);
    LoadBatch(plan);
    if (const absl::Status status = RunLayers(plan); status.ok()) {
      RunHead(plan);
      Commit(plan);
    } else if (plan.proposed > 0) {
      Abandon(plan);  // the sequences themselves may not need what is missing
    } else if (const auto lacking = host_->LackingOwner()) {
      LeaveLacking(plan, *lacking);
    } else if (MayRedo(status)) {
      Wait(plan, status, now);
    } else {
      FailBatch(plan, status);  // only this batch's sequences end
    }
    At("step.publish");
  }
  const bool worked = !plan.sequences.empty() || !plan.dropped.empty() || !events_.empty();
  Publish(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  return worked;
}

void Engine::Impl::EndDropped(const StepPlan& plan) {
  for (const scheduler::DroppedSequence& dropped : plan.dropped) {
    if (dropped.reason == scheduler::DropReason::kDeadline) {
      ++step_stats_.ended_deadline;
      if (stuck_.ok()) {
        End(dropped.id, absl::DeadlineExceededError("the deadline passed"), FinishReason::kStop);
      } else {
        EndStuck(dropped.id);
      }
    } else {
      ++step_stats_.ended_cancelled;
      End(dropped.id, absl::CancelledError("cancelled"), FinishReason::kStop);
    }
  }
}

void Engine::Impl::CopyBlocks(const StepPlan& plan) {
  for (const scheduler::BlockCopy& copy : plan.copies) {
    for (int32_t layer = 0; layer < std::ssize(model_->spec.layers); ++layer) {
      device_->CopyKv(kv_.layer(layer), copy.from, copy.to);
    }
  }
}

void Engine::Impl::LoadBatch(const StepPlan& plan) {
  batch_->Clear();
  planned_.clear();
  for (const PlannedSequence& p : plan.sequences) {
    LiveSequence& sequence = Live(p.id);
    planned_.push_back(&sequence);
    const std::span<const scheduler::TokenId> tokens(sequence.tokens);
    const int32_t end = p.first + p.count - p.proposed;
    batch_->Append(tokens.subspan(static_cast<size_t>(p.first), static_cast<size_t>(end - p.first)),
                   std::span(sequence.proposals).first(static_cast<size_t>(p.proposed)), p.first,
                   planner_->Blocks(p.id));
    NoteFound(sequence, p.first);
    const int32_t fresh = std::max(p.first, sequence.computed);
    step_stats_.prompt_tokens +=
        static_cast<uint64_t>(std::max(0, std::min(end, sequence.prompt_size) - fresh));
    step_stats_.recomputed_tokens +=
        static_cast<uint64_t>(std::max(0, std::min(end, sequence.computed) - p.first));
    sequence.computed = std::max(sequence.computed, end);
  }
}

// A sequence that is planned behind all it ever computed found the positions in between.
void Engine::Impl::NoteFound(LiveSequence& sequence, int32_t first) {
  const bool might = prefix_keys_ != nullptr && !sequence.reports_on_prompt();
  if (might && sequence.computed == 0) {
    step_stats_.prefix_queries += static_cast<uint64_t>(sequence.prompt_size);
  }
  const int32_t found = std::min(first, sequence.prompt_size) - sequence.computed;
  if (found <= 0) return;
  step_stats_.prefix_hits += static_cast<uint64_t>(found);
  step_stats_.prompt_tokens += static_cast<uint64_t>(found);
  sequence.cached_prompt_tokens += found;
  sequence.computed += found;
}

// hidden [rows, dim] is read and written in place by every layer.
absl::Status Engine::Impl::RunLayers(const StepPlan& plan) {
  Batch& b = *batch_;
  const int32_t rows = b.rows();
  const ModelSpec& spec = model_->spec;
  const Rows hidden = b.hidden.Top(rows);
  const Rows normed = b.normed.Top(rows);

  device_->Embed(model_->embedding, b.ids, hidden);
  int32_t moe_layer = 0;
  for (int32_t i = 0; i < static_cast<int32_t>(spec.layers.size()); ++i) {
    const LayerWeights& layer = model_->layers[static_cast<size_t>(i)];
    device_->RmsNorm(hidden, layer.attention_norm, spec.norm_eps, normed);
    if (spec.attention.kind == AttentionSpec::Kind::kMla) {
      RunMla(i);
    } else {
      RunGqa(i);
    }
    device_->RmsNorm(hidden, layer.ffn_norm, spec.norm_eps, normed);
    if (spec.layers[static_cast<size_t>(i)].moe) {
      CONCLAVE_RETURN_IF_ERROR(RunExperts(plan, i, moe_layer++));
    } else {
      RunDenseFfn(i);
    }
  }
  At("step.layers");
  return absl::OkStatus();
}

// Grouped-query attention: normed -> q, k, v -> cache -> attention -> added to hidden.
void Engine::Impl::RunGqa(int32_t index) {
  Batch& b = *batch_;
  const ModelSpec& spec = model_->spec;
  const AttentionSpec& a = spec.attention;
  const AttentionWeights& w = model_->layers[static_cast<size_t>(index)].attention;
  const int32_t rows = b.rows();
  const int32_t kv_columns = a.kv_heads * a.head_dim;
  const KvLayer cache = kv_.layer(index);
  const Rows normed = b.normed.Top(rows);
  const Rows query = b.query.Top(rows);
  const Rows key = b.key_value.Top(rows).Columns(0, kv_columns);
  const Rows value = b.key_value.Top(rows).Columns(kv_columns, kv_columns);

  device_->MatMul(normed, w.q, w.q_bias, Inputs::kActivationType, query);
  device_->MatMul(normed, w.k, w.k_bias, Inputs::kActivationType, key);
  device_->MatMul(normed, w.v, w.v_bias, Inputs::kActivationType, value);
  if (a.qk_norm != AttentionSpec::QkNorm::kNone) {
    device_->RmsNorm(query, w.q_norm, spec.norm_eps, query);
    device_->RmsNorm(key, w.k_norm, spec.norm_eps, key);
  }
  if (a.clip_qkv > 0.0f) {
    device_->Clip(query, a.clip_qkv);
    device_->Clip(key, a.clip_qkv);
    device_->Clip(value, a.clip_qkv);
  }
  device_->Rope(query, {a.heads, a.head_dim, 0, a.head_dim, 0}, b.places(), spec.rope, query);
  device_->Rope(key, {a.kv_heads, a.head_dim, 0, a.head_dim, 0}, b.places(), spec.rope, key);
  device_->StoreKv(b.key_value.Top(rows), b.places(), 0, cache);

  const AttentionShape shape = {.heads = a.heads,
                                .kv_heads = a.kv_heads,
                                .key_dim = a.head_dim,
                                .value_dim = a.head_dim,
                                .key_offset = 0,
                                .value_offset = kv_columns,
                                .scale = a.scale,
                                .window = spec.layers[static_cast<size_t>(index)].window,
                                .sinks = w.sinks};
  device_->Attention(query, shape, b.places(), cache, b.attended.Top(rows));
  device_->MatMul(b.attended.Top(rows), w.o, w.o_bias, Inputs::kActivationType,
                  b.projected.Top(rows));
  device_->Add(b.projected.Top(rows), b.hidden.Top(rows));
}

// Multi-head latent attention, absorbed at every length (DeepSeek-V2 §2.1.2): queries are taken
// into the latent's space, attention runs over [latent | rotated key] shared by all heads, and its
// result is taken out of the latent's space.
void Engine::Impl::RunMla(int32_t index) {
  Batch& b = *batch_;
  const ModelSpec& spec = model_->spec;
  const AttentionSpec& a = spec.attention;
  const AttentionWeights& w = model_->layers[static_cast<size_t>(index)].attention;
  const int32_t rows = b.rows();
  const int32_t query_dim = a.qk_nope_dim + a.qk_rope_dim;
  const int32_t latent_dim = a.kv_lora_rank;
  const int32_t key_dim = latent_dim + a.qk_rope_dim;
  const KvLayer cache = kv_.layer(index);
  const Rows normed = b.normed.Top(rows);
  const Rows query = b.query.Top(rows);
  const Rows absorbed = b.absorbed.Top(rows);
  const Rows latent = b.key_value.Top(rows).Columns(0, latent_dim);
  const Rows rotated = b.key_value.Top(rows).Columns(latent_dim, a.qk_rope_dim);

  if (a.q_lora_rank > 0) {
    const Rows low = b.query_low.Top(rows);
    device_->MatMul(normed, w.q_a, w.q_a_bias, Inputs::kActivationType, low);
    device_->RmsNorm(low, w.q_a_norm, a.latent_norm_eps, low);
    device_->MatMul(low, w.q_b, {}, Inputs::kActivationType, query);
  } else {
    device_->MatMul(normed, w.q, {}, Inputs::kActivationType, query);
  }
  device_->MatMul(normed, w.kv_a, w.kv_a_bias, Inputs::kActivationType, b.key_value.Top(rows));
  device_->RmsNorm(latent, w.kv_a_norm, a.latent_norm_eps, latent);
  device_->Rope(rotated, {1, a.qk_rope_dim, 0, a.qk_rope_dim, 0}, b.places(), spec.rope, rotated);
  device_->StoreKv(b.key_value.Top(rows), b.places(), 0, cache);

  const int32_t kv_b_rows = a.qk_nope_dim + a.value_dim;  // of one head
  device_->MatMulPerHead(query, w.kv_b,
                         {.heads = a.heads,
                          .head_stride = kv_b_rows,
                          .first = 0,
                          .in_dim = a.qk_nope_dim,
                          .out_dim = latent_dim,
                          .in_stride = query_dim,
                          .out_stride = key_dim,
                          .transposed = false},
                         absorbed);
  device_->Rope(query, {a.heads, query_dim, a.qk_nope_dim, key_dim, latent_dim}, b.places(),
                spec.rope, absorbed);

  const AttentionShape shape = {.heads = a.heads,
                                .kv_heads = 1,
                                .key_dim = key_dim,
                                .value_dim = latent_dim,
                                .key_offset = 0,
                                .value_offset = 0,
                                .scale = a.scale};
  device_->Attention(absorbed, shape, b.places(), cache, b.latent_out.Top(rows));
  device_->MatMulPerHead(b.latent_out.Top(rows), w.kv_b,
                         {.heads = a.heads,
                          .head_stride = kv_b_rows,
                          .first = a.qk_nope_dim,
                          .in_dim = latent_dim,
                          .out_dim = a.value_dim,
                          .in_stride = latent_dim,
                          .out_stride = a.value_dim,
                          .transposed = true},
                         b.attended.Top(rows));
  device_->MatMul(b.attended.Top(rows), w.o, w.o_bias, Inputs::kActivationType,
                  b.projected.Top(rows));
  device_->Add(b.projected.Top(rows), b.hidden.Top(rows));
}

void Engine::Impl::RunDenseFfn(int32_t index) {
  Batch& b = *batch_;
  const std::span<const int32_t> all(b.every_row.data(), static_cast<size_t>(b.rows()));
  const ExpertWork work = {&model_->layers[static_cast<size_t>(index)].dense, all, all};
  device_->Experts(b.normed.Top(b.rows()), {&work, 1}, b.projected.Top(b.rows()));
  device_->Add(b.projected.Top(b.rows()), b.hidden.Top(b.rows()));
}

// gate -> send rows to where their experts are -> run the shared expert meanwhile -> bring results
// home, weighted.
absl::Status Engine::Impl::RunExperts(const StepPlan& plan, int32_t index, int32_t moe_layer) {
  Batch& b = *batch_;
  const LayerWeights& layer = model_->layers[static_cast<size_t>(index)];
  const GateShape& gate = model_->spec.gate;
  const int32_t rows = b.rows();
  const size_t routes = static_cast<size_t>(rows) * static_cast<size_t>(gate.top_k);
  const Rows normed = b.normed.Top(rows);
  const std::span<int32_t> slots(b.slots.data(), routes);
  const std::span<float> weights(b.weights.data(), routes);

  device_->MatMul(normed, layer.gate, layer.gate_logit_bias, Inputs::kFloat,
                  b.gate_logits.Top(rows));
  device_->Gate(b.gate_logits.Top(rows), gate,
                layer.gate_bias.empty() ? nullptr : layer.gate_bias.data(), slots, weights);
  ResolveExperts(moe_layer);
  CountRoutes(moe_layer);
  RecordRoutes(plan, moe_layer);
  CONCLAVE_RETURN_IF_ERROR(host_->exchange().Dispatch(moe_layer, normed, {b.experts.data(), routes},
                                                      weights, gate.top_k));
  Rows shared;
  if (model_->spec.shared_ffn_dim > 0) {
    shared = b.shared.Top(rows);
    RunShared(index, moe_layer, normed, shared);
    if (layer.shared_gate) {
      const Rows logits = b.shared_logits.Top(rows);
      device_->MatMul(normed, layer.shared_gate, {}, Inputs::kActivationType, logits);
      device_->ScaleBySigmoid(logits, shared);
    }
  }
  const Rows outputs = b.expert_rows.Top(static_cast<int64_t>(routes));
  CONCLAVE_RETURN_IF_ERROR(host_->exchange().Combine(outputs));
  if (options_.experts.returns == Returns::kRows) {
    device_->Combine(outputs, weights, gate.top_k, shared, b.hidden.Top(rows));
  } else {
    const ConstRows sums = {outputs.data, rows, outputs.cols, outputs.stride * gate.top_k};
    device_->Combine(sums, std::span(b.ones).first(static_cast<size_t>(rows)), 1, shared,
                     b.hidden.Top(rows));
  }
  return absl::OkStatus();
}

// Rows per expert, for whoever places experts.
void Engine::Impl::CountRoutes(int32_t moe_layer) {
  const GateShape& gate = model_->spec.gate;
  uint64_t* counts = step_expert_tokens_.data() + moe_layer * gate.slots;
  const size_t routes = batch_->place.size() * static_cast<size_t>(gate.top_k);
  for (size_t i = 0; i < routes; ++i) ++counts[batch_->slots[i]];
}

// Copies the routes of sequences that asked for them, positions not yet told.
void Engine::Impl::RecordRoutes(const StepPlan& plan, int32_t moe_layer) {
  const auto top_k = static_cast<size_t>(model_->spec.gate.top_k);
  const size_t width = static_cast<size_t>(moe_layers_) * top_k;  // of one token
  size_t row = 0;
  for (size_t s = 0; s < plan.sequences.size();
       row += static_cast<size_t>(plan.sequences[s].count), ++s) {
    LiveSequence& sequence = *planned_[s];
    const PlannedSequence& p = plan.sequences[s];
    const int32_t from = std::max(p.first, sequence.routing_told);
    const int32_t tokens = p.first + p.count - from;
    if (!sequence.request.routing || tokens <= 0) continue;
    RoutingRecord& record = EventOf(p.id).routing;
    record.tokens = tokens;
    record.slots.resize(static_cast<size_t>(tokens) * width);
    record.weights.resize(static_cast<size_t>(tokens) * width);
    for (size_t t = 0; t < static_cast<size_t>(tokens); ++t) {
      const size_t source = (row + static_cast<size_t>(from - p.first) + t) * top_k;
      const size_t target = t * width + static_cast<size_t>(moe_layer) * top_k;
      for (size_t j = 0; j < top_k; ++j) {
        record.slots[target + j] = static_cast<uint16_t>(batch_->slots[source + j]);
        record.weights[target + j] = batch_->weights[source + j];
      }
    }
  }
}

void Engine::Impl::Commit(const StepPlan& plan) {
  if (!std::exchange(stuck_, absl::OkStatus()).ok()) {
    // Of those too that were not of this step: nobody waits while steps bring something.
    for (auto& [id, sequence] : live_) sequence.stuck_since.reset();
  }
  commit_ends_.clear();
  commit_accepted_.clear();
  for (size_t s = 0; s < plan.sequences.size(); ++s) {
    if (!plan.sequences[s].samples) continue;
    const int32_t proposed = plan.sequences[s].proposed, accepted = Accepted(s);
    commit_ends_.push_back(ends_[s] || !failed_[s].ok());
    commit_accepted_.push_back(accepted);
    planned_[s]->computed += accepted;
    planned_[s]->speculation.Took(proposed, accepted);
    step_stats_.speculated_tokens += static_cast<uint64_t>(proposed);
    step_stats_.speculated_accepted += static_cast<uint64_t>(accepted);
  }
  for (size_t s = 0; s < plan.sequences.size(); ++s) {
    // Nobody else is to find these numbers.
    if (!failed_[s].ok()) planner_->DropAndForget(plan.sequences[s].id);
  }
  const std::vector<SequenceId> ended = planner_->Commit(plan, commit_ends_, commit_accepted_);
  size_t next = 0;  // ended is in plan order
  for (size_t s = 0; s < plan.sequences.size(); ++s) {
    const SequenceId id = plan.sequences[s].id;
    const bool is_over = next < ended.size() && ended[next] == id;
    if (is_over) ++next;
    if (!failed_[s].ok()) {
      ++step_stats_.ended_error;
      End(id, failed_[s], FinishReason::kStop);
    } else if (!is_over) {
      if (plan.sequences[s].samples) Propose(*planned_[s]);
    } else {
      End(id, absl::OkStatus(),
          planned_[s]->request.max_tokens == 0 ? FinishReason::kScored
          : ends_[s]                           ? FinishReason::kStop
                                               : FinishReason::kLength);
    }
  }
}

void Engine::Impl::FailBatch(const StepPlan& plan, const absl::Status& status) {
  for (const PlannedSequence& p : plan.sequences) {
    planner_->Drop(p.id);
    ++step_stats_.ended_error;
    End(p.id, status, FinishReason::kStop);
  }
  commit_ends_.clear();
  for (const PlannedSequence& p : plan.sequences) {
    if (p.samples) commit_ends_.push_back(0);
  }
  planner_->Commit(plan, commit_ends_);  // nobody is left in it
}

}  // namespace conclave::worker

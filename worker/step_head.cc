// The end of a step: logits of the rows they are wanted of, tokens sampled from them, and guesses
// at the next ones. Everything here runs on the engine thread, called by decode_step.cc.
//
// A proposed token has a row of the step as if it had been sampled, and each such row samples what
// would follow it. While what was sampled is what was proposed, the next row is of the sequence;
// the first token that differs is the sequence's own too, and the rows behind it are nobody's:
// nothing is told of them, and their positions are written again before anybody reads them.

#include <algorithm>
#include <utility>

#include "worker/engine_impl.h"

namespace conclave::worker {

using scheduler::PlannedSequence;
using scheduler::StepPlan;
using scheduler::TokenId;

// Which rows' logits are wanted: of every sequence that samples its last and those of proposals
// behind it, and of prompt tokens to report on.
void Engine::Impl::CollectLogitRows(const StepPlan& plan) {
  logit_rows_.clear();
  int32_t row = 0;
  for (size_t s = 0; s < plan.sequences.size(); ++s) {
    const PlannedSequence& p = plan.sequences[s];
    LiveSequence& sequence = *planned_[s];
    if (sequence.request.prompt_logprobs) {
      // The row at position q reports on the prompt token at q + 1.
      for (int32_t q = std::max(p.first, sequence.prompt_told - 1);
           q < p.first + p.count && q + 1 < sequence.prompt_size; ++q) {
        logit_rows_.push_back(
            {row + q - p.first, s, sequence.tokens[static_cast<size_t>(q) + 1], 0});
      }
    }
    if (p.samples && sequence.request.max_tokens > 0) {
      for (int32_t i = 0; i <= p.proposed; ++i)
        logit_rows_.push_back({row + p.count - 1 - p.proposed + i, s, -1, i});
    }
    row += p.count;
  }
}

// Logits a tile of rows at a time, so that their memory does not grow with the prompt.
void Engine::Impl::RunHead(const StepPlan& plan) {
  Batch& b = *batch_;
  CollectLogitRows(plan);
  ends_.assign(plan.sequences.size(), 0);
  sampled_.assign(plan.sequences.size(), 0);
  failed_.assign(plan.sequences.size(), absl::OkStatus());
  for (size_t first = 0; first < logit_rows_.size(); first += static_cast<size_t>(b.logits.rows)) {
    const size_t count = std::min(logit_rows_.size() - first, static_cast<size_t>(b.logits.rows));
    head_indices_.clear();
    sample_rows_.clear();
    edits_behind_.clear();
    for (size_t i = first; i < first + count; ++i) {
      head_indices_.push_back(logit_rows_[i].row);
      sample_rows_.push_back(SampleRowOf(logit_rows_[i]));
    }
    const Rows tile = b.head_rows.Top(static_cast<int64_t>(count));
    const Rows logits = b.logits.Top(static_cast<int64_t>(count));
    device_->Gather(b.hidden.Top(b.rows()), head_indices_, tile);
    device_->RmsNorm(tile, model_->final_norm, model_->spec.norm_eps, tile);
    device_->MatMul(tile, model_->head, {}, Inputs::kActivationType, logits);
    device_->Sample(logits, sample_rows_, {b.sampled.data(), count});
    for (size_t i = 0; i < count; ++i) TakeResult(plan, logit_rows_[first + i], b.sampled[i]);
  }
  NoteRouting(plan);
}

SampleRow Engine::Impl::SampleRowOf(const LogitRow& wanted) {
  const LiveSequence& sequence = *planned_[wanted.sequence];
  const SequenceRequest& r = sequence.request;
  // Of the step, in an earlier tile: the edits know of these.
  const int32_t sampled = sampled_[wanted.sequence];
  std::span<const LogitEdit> edits = sequence.edits.edits();
  if (wanted.proposed > sampled && sequence.edits.change()) {
    const std::span<const TokenId> proposed(sequence.proposals);
    edits_behind_.push_back(sequence.edits.Behind(proposed.subspan(
        static_cast<size_t>(sampled), static_cast<size_t>(wanted.proposed - sampled))));
    edits = edits_behind_.back();
  }
  return {.temperature = r.temperature,
          .top_p = r.top_p,
          .top_k = r.top_k,
          .min_p = r.min_p,
          .repetition_penalty = r.repetition_penalty,
          .presence_penalty = r.presence_penalty,
          .frequency_penalty = r.frequency_penalty,
          .edits = edits,
          .seed = r.seed,
          .token_index = static_cast<uint64_t>(sequence.generated() - sampled + wanted.proposed),
          .target = wanted.target,
          .top_logprobs = r.logprobs.value_or(0)};
}

// Whether all before this row's proposals are tokens of its sequence, and it goes on behind them.
bool Engine::Impl::IsOfItsSequence(const LogitRow& wanted) const {
  if (wanted.proposed == 0) return true;
  const LiveSequence& sequence = *planned_[wanted.sequence];
  return sampled_[wanted.sequence] == wanted.proposed && ends_[wanted.sequence] == 0 &&
         sequence.tokens.back() == sequence.proposals[static_cast<size_t>(wanted.proposed) - 1];
}

void Engine::Impl::TakeResult(const StepPlan& plan, const LogitRow& wanted,
                              const SampledToken& result) {
  LiveSequence& sequence = *planned_[wanted.sequence];
  if (!failed_[wanted.sequence].ok() || !IsOfItsSequence(wanted)) return;
  if (!result.finite) {
    failed_[wanted.sequence] = absl::InternalError("numerical_error: a logit is not finite");
    return;
  }
  SequenceEvent& event = EventOf(plan.sequences[wanted.sequence].id);
  Logprob logprob{.token = result.token, .logprob = result.logprob};
  for (int32_t i = 0; i < result.top_count; ++i) {
    logprob.top.emplace_back(result.top_tokens[i], result.top_logprobs[i]);
  }
  if (wanted.target >= 0) {
    ++sequence.prompt_told;
    event.prompt_logprobs.push_back(std::move(logprob));
    return;
  }
  AddToken(sequence, result.token);
  ++sampled_[wanted.sequence];
  event.tokens.push_back(result.token);
  if (sequence.generated() == 1) event.cached_prompt_tokens = sequence.cached_prompt_tokens;
  if (sequence.request.logprobs.has_value()) event.logprobs.push_back(std::move(logprob));
  ++step_stats_.generated_tokens;
  const auto& stops = sequence.request.stop_tokens;
  ends_[wanted.sequence] = std::find(stops.begin(), stops.end(), result.token) != stops.end();
}

// Its token, and with the last one of a block that block's key.
void Engine::Impl::AddToken(LiveSequence& sequence, TokenId token) {
  sequence.tokens.push_back(token);
  sequence.edits.Append(token);
  if (prefix_keys_ == nullptr) return;
  const auto size = static_cast<size_t>(prefix_keys_->block_size());
  if (sequence.tokens.size() % size != 0) return;
  sequence.last_key = prefix_keys_->Next(sequence.last_key, std::span(sequence.tokens).last(size));
  planner_->AddKey(sequence.id, sequence.last_key);
}

// What is told of routing by now, which is nothing of the rows that are nobody's.
void Engine::Impl::NoteRouting(const StepPlan& plan) {
  const auto width = static_cast<size_t>(moe_layers_ * model_->spec.gate.top_k);  // of one token
  for (size_t s = 0; s < plan.sequences.size(); ++s) {
    const PlannedSequence& p = plan.sequences[s];
    LiveSequence& sequence = *planned_[s];
    // The row that a sequence fails of is its own.
    const int32_t nobodys = p.proposed == 0 ? 0 : p.count - sampled_[s] - (failed_[s].ok() ? 0 : 1);
    const int32_t told = p.first + p.count - nobodys;
    if (nobodys > 0 && sequence.request.routing) {
      RoutingRecord& record = EventOf(p.id).routing;
      record.tokens -= nobodys;
      record.slots.resize(static_cast<size_t>(record.tokens) * width);
      record.weights.resize(static_cast<size_t>(record.tokens) * width);
    }
    sequence.routing_told = std::max(sequence.routing_told, told);
  }
}

// How many proposals became tokens of the sequence before the one it samples anyway.
int32_t Engine::Impl::Accepted(size_t planned) const { return std::max(sampled_[planned] - 1, 0); }

// For its next step, of a sequence that goes on. What it samples then depends on it in no way.
void Engine::Impl::Propose(LiveSequence& sequence) {
  if (options_.speculation.tokens == 0) return;
  int32_t wanted = sequence.speculation.Wants();
  const int32_t chunk = sequence.request.routing ? ReportChunk(sequence.request) : 0;
  if (chunk > 0) wanted = std::min(wanted, chunk - 1);
  sequence.proposals = LookUp(sequence.tokens, wanted, options_.lookup);
  planner_->Propose(sequence.id, static_cast<int32_t>(sequence.proposals.size()));
}

}  // namespace conclave::worker

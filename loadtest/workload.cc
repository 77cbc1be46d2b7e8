#include "loadtest/workload.h"

#include <algorithm>
#include <utility>

#include "scheduler/check.h"

namespace conclave::loadtest {
namespace {

using Seconds = std::chrono::duration<double>;

template <typename T>
const std::optional<T>& Either(const std::optional<T>& first, const std::optional<T>& second) {
  return first ? first : second;
}

// What `part` of the phase says, or else of the whole.
template <typename T>
const std::optional<T>& Choose(const Phase* phase, std::optional<T> Phase::*part,
                               const std::optional<T>& whole) {
  return phase == nullptr ? whole : Either(phase->*part, whole);
}

// `length` within `limit`; whether it was above.
bool Cut(uint32_t limit, uint32_t* length) {
  const bool above = *length > limit;
  *length = std::min(limit, *length);
  return above;
}

}  // namespace

Workload::Workload(Options options) : options_(std::move(options)) {
  double end = 0;
  for (const Phase& phase : options_.phases) phase_ends_.push_back(end += phase.seconds);
}

size_t Workload::PhaseAt(std::chrono::nanoseconds at) const {
  if (phase_ends_.empty()) return 0;
  const auto found = std::upper_bound(phase_ends_.begin(), phase_ends_.end(), Seconds(at).count());
  const auto index = static_cast<size_t>(found - phase_ends_.begin());
  return std::min(index, phase_ends_.size() - 1);
}

Ask Workload::At(uint64_t index, std::chrono::nanoseconds at) const {
  Ask ask = {.phase = PhaseAt(at)};
  const Phase* const phase = options_.phases.empty() ? nullptr : &options_.phases[ask.phase];
  Prompt& prompt = ask.prompt;
  if (!options_.prompts.empty()) prompt = options_.prompts[index % options_.prompts.size()];
  ask.cut = FillLengths(index, phase, &prompt);
  const std::optional<AdapterMix>& mix = Choose(phase, &Phase::adapters, options_.adapters);
  if (prompt.adapter.empty() && mix) {
    Random random(options_.seed, Random::Purpose::kAdapter, index);
    prompt.adapter = mix->Draw(random);
  }
  return ask;
}

bool Workload::FillLengths(uint64_t index, const Phase* phase, Prompt* prompt) const {
  const auto draw = [&](const Lengths& lengths, Random::Purpose purpose) {
    Random random(options_.seed, purpose, index);
    return lengths.Draw(random);
  };
  bool cut = false;
  std::optional<uint32_t> output;
  const std::optional<Lengths>& outputs =
      Choose(phase, &Phase::output_lengths, options_.output_lengths);
  if (outputs) output = draw(*outputs, Random::Purpose::kOutputLength);
  if (options_.prompts.empty()) {
    uint32_t tokens = 0;
    std::span<const uint64_t> blocks;
    if (!options_.trace.empty()) {
      const TraceRequest& request = options_.trace[index % options_.trace.size()];
      tokens = request.prompt_tokens;
      output = request.output_tokens;
      blocks = request.blocks;
    } else {
      const auto& prompts = Choose(phase, &Phase::prompt_lengths, options_.prompt_lengths);
      CONCLAVE_CHECK(prompts.has_value());
      tokens = draw(*prompts, Random::Purpose::kPromptLength);
    }
    cut = Cut(options_.prompt_tokens_limit, &tokens);
    blocks = blocks.first(
        std::min<size_t>(blocks.size(), (tokens + kTraceBlockTokens - 1) / kTraceBlockTokens));
    const Synthetic synthetic = {options_.seed, options_.vocabulary};
    prompt->token_ids = synthetic.Prompt(index, tokens, blocks);
  }
  if (output && !prompt->max_tokens) {
    cut |= Cut(options_.output_tokens_limit, &*output);
    prompt->max_tokens = output;
    // A length that was asked for is a length that must come.
    if (!prompt->ignore_eos) prompt->ignore_eos = true;
  }
  return cut;
}

}  // namespace conclave::loadtest

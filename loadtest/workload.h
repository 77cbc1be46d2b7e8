#pragma once
// What the n-th request of a load asks for: a prompt of a file in turn, or one made of token ids
// whose lengths a trace or a distribution gives; and for which adapter. It depends on n, on the
// seed and on the phase its time lies in, never on answers. Immutable; any thread.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "loadtest/adapter_mix.h"
#include "loadtest/lengths.h"
#include "loadtest/prompts.h"
#include "loadtest/synthetic.h"
#include "loadtest/trace.h"

namespace conclave::loadtest {

// A stretch of time with a load of its own. What it leaves out is as in the rest of the workload.
struct Phase {
  std::string name;
  double seconds = 0;
  double rate_from = 0;  // per second, at its start
  double rate_to = 0;    // at its end
  std::optional<AdapterMix> adapters;
  std::optional<Lengths> prompt_lengths;
  std::optional<Lengths> output_lengths;
};

// What one request asks for.
struct Ask {
  Prompt prompt;
  size_t phase = 0;
  bool cut = false;  // its lengths were above a limit
};

class Workload {
 public:
  struct Options {
    // Where prompts come from: one of these three, the first that is not empty.
    std::vector<Prompt> prompts;
    std::vector<TraceRequest> trace;
    std::optional<Lengths> prompt_lengths;

    // Of requests whose prompt or trace says nothing else.
    std::optional<Lengths> output_lengths;
    std::optional<AdapterMix> adapters;

    std::vector<Phase> phases;
    uint64_t seed = 0;
    uint32_t vocabulary = 0;  // ids of synthetic prompts are below; > 0 if there are any
    // Longer lengths of a trace or a distribution are cut to these.
    uint32_t prompt_tokens_limit = Lengths::kMaxTokens;
    uint32_t output_tokens_limit = Lengths::kMaxTokens;
  };

  explicit Workload(Options options);
  // Prompts that are asked for in turn.
  explicit Workload(std::vector<Prompt> prompts)
      : Workload(Options{.prompts = std::move(prompts)}) {}

  // `at` since the start.
  Ask At(uint64_t index, std::chrono::nanoseconds at) const;

  const Options& options() const { return options_; }
  size_t PhaseAt(std::chrono::nanoseconds at) const;  // what is after the last one belongs to it

 private:
  // Whether something was cut.
  bool FillLengths(uint64_t index, const Phase* phase, Prompt* prompt) const;

  const Options options_;
  std::vector<double> phase_ends_;  // seconds
};

}  // namespace conclave::loadtest

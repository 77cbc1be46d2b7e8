#include "loadtest/request.h"

#include <string>
#include <utility>
#include <vector>

#include "loadtest/random.h"

namespace conclave::loadtest {
namespace {

// Takes the text and the tokens away, for many streams may be open and none needs them twice.
v1::GenerateRequest MakeRequest(const Options& options, Prompt& prompt, uint64_t seed) {
  v1::GenerateRequest request;
  request.set_adapter(prompt.adapter);
  if (prompt.token_ids.empty()) {
    request.mutable_prompt()->set_text(std::exchange(prompt.text, {}));
  } else {
    const std::vector<uint32_t> ids = std::exchange(prompt.token_ids, {});
    request.mutable_prompt()->mutable_tokens()->mutable_ids()->Add(ids.begin(), ids.end());
  }
  v1::Sampling& sampling = *request.mutable_sampling();
  sampling.set_temperature(prompt.temperature.value_or(options.temperature));
  if (prompt.top_p) sampling.set_top_p(*prompt.top_p);
  if (prompt.top_k) sampling.set_top_k(*prompt.top_k);
  sampling.set_seed(prompt.seed.value_or(seed));
  v1::Stopping& stopping = *request.mutable_stopping();
  stopping.set_max_tokens(prompt.max_tokens.value_or(options.max_tokens));
  stopping.mutable_stop()->Add(prompt.stop.begin(), prompt.stop.end());
  stopping.set_ignore_eos(prompt.ignore_eos.value_or(options.ignore_eos));
  return request;
}

}  // namespace

Job MakeJob(const Options& options, uint64_t index, Ask ask) {
  const auto draws = [&](Random::Purpose purpose) { return Random(options.seed, purpose, index); };
  Random sampling = draws(Random::Purpose::kSampling);
  Job job = {.index = index};
  job.request = MakeRequest(options, ask.prompt, sampling());
  job.ask = std::move(ask);
  Random cancel = draws(Random::Purpose::kCancel);
  if (Uniform(cancel) < options.cancel_fraction) {
    const double tokens = job.request.stopping().max_tokens();
    job.cancel_at = static_cast<uint32_t>(Uniform(cancel) * tokens);
  }
  Random slow = draws(Random::Purpose::kSlowReader);
  if (Uniform(slow) < options.slow_fraction) job.slow_rate = options.slow_rate;
  return job;
}

}  // namespace conclave::loadtest

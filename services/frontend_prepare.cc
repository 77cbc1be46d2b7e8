// From an admitted request's tokens to its place in the queue. Where it leaves its adapter to the
// router, the base model first reads the beginning of the prompt, as a request of the router's own
// that waits for its turn like others, and what its gate chooses there decides. The client's
// request keeps its place meanwhile, and takes the probe with it when it ends.

#include <algorithm>
#include <utility>

#include "router/transcript.h"
#include "services/frontend.h"
#include "services/refusals.h"

namespace conclave::services {

using router::Admission;
using scheduler::TokenId;

void Frontend::Prepare(const LiveRequests& requests, const Tokens& tokens, const Decided& decided) {
  // Nobody else decides about one that is undecided.
  const bool undecided = requests[0]->request().undecided();
  const absl::StatusOr<Admission::Need> need = PrepareAll(requests, tokens, decided);
  if (!need.ok()) {
    for (const auto& request : requests) request->End(need.status());
    return;
  }
  if (undecided) return Probe(requests, *tokens, *need, decided);
  Enqueue(requests, *need, decided);
}

absl::StatusOr<Admission::Need> Frontend::PrepareAll(const LiveRequests& requests,
                                                     const Tokens& tokens, const Decided& decided) {
  if (!tokens.ok()) return tokens.status();
  const v1::ModelInfo& model = decided.served->info;
  const absl::StatusOr<int32_t> max_tokens =
      JudgeTokens(requests[0]->request(), *tokens, options_.limits, model);
  if (!max_tokens.ok()) return max_tokens.status();
  const auto count = static_cast<int32_t>(tokens->size());
  for (const auto& live : requests) {
    const router::Request& request = live->request();
    live->Prepare(Assign(request, *tokens, *max_tokens, *request.seed, model),
                  router::Transcript(codec_.tokenizer(), decided.stops, count,
                                     static_cast<int32_t>(request.min_tokens)),
                  model, decided.received);
  }
  return Admission::Need{.prompt = count, .output = *max_tokens};
}

void Frontend::Enqueue(const LiveRequests& requests, const Admission::Need& need,
                       const Decided& decided) {
  absl::Status status;
  {
    std::lock_guard lock(mutex_);
    std::optional<uint64_t> home = decided.home;
    if (!home && requests[0]->request().resume_from > 0)
      home = homes_.KeeperOf(requests[0]->request().id);
    status = requests_.Enqueue(requests, need, home);
  }
  if (!status.ok()) {
    for (const auto& request : requests) request->End(status);
    return;
  }
  Dispatch();
  MaybeFailWaiting();
}

void Frontend::Probe(const LiveRequests& requests, const std::vector<TokenId>& tokens,
                     const Admission::Need& need, const Decided& decided) {
  const auto read =
      std::min<ptrdiff_t>(std::ssize(tokens), ptrdiff_t{options_.auto_adapter.tokens});
  const router::AutoRecord probe{.tokens = static_cast<uint32_t>(read)};
  const auto end = [this, requests, need, decided, probe,
                    begun = Now()](const GateProbe::Shares& shares) {
    const absl::Status status = Decide(requests, shares, probe, begun);
    if (status.ok()) return Enqueue(requests, need, decided);
    ++metrics_.probes_failed;
    for (const auto& request : requests) request->End(status);
  };
  const auto reader = std::make_shared<GateProbe>(
      decided.served->info, [this, end](LiveRequest& score, const GateProbe::Shares& shares) {
        Forget(score);
        end(shares);
      });
  const absl::Status begun =
      BeginProbe(*requests[0], {tokens.begin(), tokens.begin() + read}, *decided.served, reader);
  if (!begun.ok()) end(begun);
}

absl::Status Frontend::BeginProbe(const LiveRequest& undecided, std::vector<TokenId> tokens,
                                  const ServedModel& served,
                                  const std::shared_ptr<GateProbe>& reader) {
  const auto count = static_cast<int32_t>(tokens.size());
  absl::StatusOr<std::shared_ptr<LiveRequest>> probe;
  {
    std::lock_guard lock(mutex_);
    probe = requests_.AdmitProbe(undecided, reader, &probe_metrics_);
  }
  if (!probe.ok()) return probe.status();
  const router::Request& request = (*probe)->request();
  (*probe)->Prepare(Assign(request, std::move(tokens), 0, *request.seed, served.info),
                    router::Transcript(nullptr, *JudgeStops({}, options_.limits), count),
                    served.info, {});
  absl::Status queued;
  {
    std::lock_guard lock(mutex_);
    queued = requests_.Enqueue({*probe}, {.prompt = count}, std::nullopt);
  }
  if (!queued.ok()) (*probe)->End(queued);
  reader->Read(*probe);
  Dispatch();
  MaybeFailWaiting();
  return absl::OkStatus();
}

absl::Status Frontend::Decide(const LiveRequests& requests, const GateProbe::Shares& shares,
                              router::AutoRecord probe, Micros begun) {
  if (!shares.ok()) return shares.status();
  const Micros elapsed = Now() - begun;
  metrics_.probe_seconds.Observe(elapsed);
  probe.probe_us = static_cast<uint64_t>(elapsed.count());
  std::lock_guard lock(mutex_);
  return requests_.Decide(requests, *shares, probe);
}

}  // namespace conclave::services

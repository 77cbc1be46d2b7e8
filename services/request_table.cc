#include "services/request_table.h"

#include <algorithm>
#include <limits>
#include <map>
#include <utility>

#include "absl/strings/str_format.h"
#include "router/completion_seed.h"
#include "services/gate_probe.h"
#include "services/refusals.h"

namespace conclave::services {
namespace {

// No client's id has this character.
std::string CompletionId(const std::string& id, uint32_t index) {
  return index == 0 ? id : absl::StrFormat("%s#%d", id, index);
}

// Whose turn it takes while its adapter is not decided: that of all such requests.
std::string AccountOf(const router::Request& request) {
  return request.undecided() ? router::AdapterNames::kAuto : request.version.name;
}

}  // namespace

RequestTable::RequestTable(const router::Admission::Options& admission,
                           const LiveRequest::Options& request, router::AdapterNames adapters,
                           double least_margin, LiveRequest::Owner* owner, RouterMetrics* metrics)
    : options_(request),
      least_margin_(least_margin),
      owner_(owner),
      metrics_(metrics),
      adapters_(std::move(adapters)),
      admission_(admission),
      random_(std::random_device{}()) {}

void RequestTable::SetAdapters(const std::vector<router::AdapterView>& adapters) {
  adapters_.Set(adapters);
  admission_.ShareOut(!adapters.empty());
  std::map<std::string, bool> away;
  std::unordered_map<std::string, Away> known = std::exchange(away_, {});
  for (const router::AdapterView& adapter : adapters) {
    if (!adapter.on_disk) continue;
    away[adapter.digest] = adapter.placed;
    const auto before = known.find(adapter.digest);
    std::string what =
        absl::StrFormat("adapter '%s' is on disk and got no place in memory", adapter.name);
    if (!adapter.problem.empty()) what += ": " + adapter.problem;
    away_[adapter.digest] = {.since = before == known.end() ? Now() : before->second.since,
                             .what = std::make_shared<const std::string>(std::move(what))};
  }
  admission_.SetAway(std::move(away));
}

std::unordered_map<uint64_t, RequestTable::MemoryWait> RequestTable::MemoryWaits(Micros now) const {
  std::unordered_map<uint64_t, MemoryWait> waits;
  if (away_.empty()) return waits;
  for (const auto& [key, request] : live_) {
    if (!admission_.WaitsForMemory(key)) continue;
    const auto away = away_.find(request->request().version.digest);
    if (away == away_.end()) continue;
    const Micros since =
        request->goes_on() ? std::max(away->second.since, request->arrived()) : request->arrived();
    waits[key] = {.waited = now - since, .what = away->second.what};
  }
  return waits;
}

absl::StatusOr<LiveRequests> RequestTable::Admit(router::Request request,
                                                 std::optional<Micros> deadline,
                                                 const std::shared_ptr<LiveRequest::Reader>& reader,
                                                 const ServedModel& served, Predecessor& before) {
  if (absl::Status chosen = ChooseAdapter(request, served.name); !chosen.ok()) return chosen;
  LiveRequests admitted;
  if (request.id.empty()) request.id = absl::StrFormat("req-%016x", random_());
  Predecessor found = FindPredecessor(request);
  if (!found.requests.empty()) request.seed = found.requests[0]->request().seed;
  if (absl::Status status = JudgeResume(request, served.info); !status.ok()) return status;
  const uint64_t seed = request.seed ? *request.seed : random_();
  // Of all together no more waits for their one client than of one.
  LiveRequest::Options options = options_;
  options.pending_bytes_pause /= request.completions;
  for (uint32_t i = 0; i < request.completions; ++i) {
    const uint64_t key = ++last_key_;
    const auto from =
        found.requests.empty() ? std::nullopt : std::optional(found.requests[i]->key());
    if (const auto refusal =
            admission_.Reserve(key, CompletionId(request.id, i), from, AccountOf(request))) {
      for (const auto& live : admitted) Forget(live->key());
      return Refuse(*refusal);
    }
    router::Request completion = request;
    completion.seed = router::CompletionSeed(seed, i);
    completion.prompt_logprobs = request.prompt_logprobs && i == 0;
    live_[key] = std::make_shared<LiveRequest>(options, key, std::move(completion), deadline, Now(),
                                               reader, owner_, metrics_);
    admitted.push_back(live_[key]);
  }
  before = std::move(found);
  return admitted;
}

absl::Status RequestTable::ChooseAdapter(router::Request& request, const std::string& base) const {
  std::optional<ServedAdapters::Begun> known;
  if (const auto key = admission_.KeyOf(request.id); key && !request.body.empty()) {
    const router::Request& other = live_.at(*key)->request();
    if (request.body == other.body && !other.undecided())
      known = ServedAdapters::Begun{other.version, other.choice};
  }
  absl::Status chosen = adapters_.Choose(request, base, std::move(known));
  if (!chosen.ok()) metrics_->Reject(RejectionOf(chosen));
  if (request.undecided() && !adapters_.any_active()) {
    request.choice = router::AutoRecord{.least_margin = least_margin_};
    metrics_->adapters.Of("")->auto_choices += request.completions;
  }
  return chosen;
}

absl::StatusOr<std::shared_ptr<LiveRequest>> RequestTable::AdmitProbe(
    const LiveRequest& undecided, const std::shared_ptr<LiveRequest::Reader>& reader,
    RouterMetrics* metrics) {
  if (!has(undecided.key())) return absl::CancelledError("the client is gone");
  const uint64_t key = ++last_key_;
  if (const auto refusal = admission_.Reserve(key, absl::StrFormat("#%d", key), std::nullopt,
                                              router::AdapterNames::kAuto)) {
    return Refuse(*refusal);
  }
  LiveRequest::Options options = options_;
  options.pending_bytes_pause = std::numeric_limits<int64_t>::max();  // it is read at once
  live_[key] = std::make_shared<LiveRequest>(options, key, GateProbe::ScoreFor(undecided.request()),
                                             undecided.deadline(), Now(), reader, owner_, metrics);
  probes_[undecided.key()] = key;
  return live_[key];
}

absl::Status RequestTable::Decide(const LiveRequests& requests, const router::GateShares& gate,
                                  const router::AutoRecord& probe) {
  ServedAdapters::Choice choice = adapters_.ChooseBy(gate, least_margin_);
  choice.record.tokens = probe.tokens;
  choice.record.probe_us = probe.probe_us;
  for (const auto& live : requests) {
    if (!has(live->key())) continue;  // its client left
    if (const auto refusal = admission_.MoveTo(live->key(), choice.version.name))
      return Refuse(*refusal);
    live->Decide(choice.version, choice.record);
  }
  return absl::OkStatus();
}

RequestTable::Predecessor RequestTable::FindPredecessor(const router::Request& request) const {
  Predecessor before;
  for (uint32_t i = 0; i < request.completions; ++i) {
    const std::optional<uint64_t> key = admission_.KeyOf(CompletionId(request.id, i));
    if (!key) return {};
    const auto& live = live_.at(*key);
    const router::Request& other = live->request();
    const bool same = !request.body.empty() && request.body == other.body &&
                      request.version == other.version &&
                      request.undecided() == other.undecided() &&
                      (i > 0 || !request.seed || request.seed == other.seed);
    if (!same) return {};
    before.requests.push_back(live);
  }
  if (request.completions > 1) return before;
  before.received = before.requests[0]->FirstTokens(request.resume_from);
  if (before.received.size() < request.resume_from) before.received.clear();
  before.home = admission_.HomeOf(before.requests[0]->key());
  return before;
}

absl::Status RequestTable::Refuse(const router::Admission::Refusal& refusal) {
  metrics_->Reject(RejectionOf(refusal));
  return ToStatus(refusal);
}

absl::Status RequestTable::Enqueue(const LiveRequests& requests,
                                   const router::Admission::Need& need,
                                   std::optional<uint64_t> home) {
  for (const auto& live : requests) {
    if (!has(live->key())) continue;  // its client left
    if (const auto refusal =
            admission_.Enqueue(live->key(), need, live->goes_on(), live->request().version.digest))
      return Refuse(*refusal);
    if (home) admission_.Prefer(live->key(), *home);
  }
  return absl::OkStatus();
}

std::shared_ptr<LiveRequest> RequestTable::Forget(uint64_t key) {
  admission_.Remove(key, Now());
  live_.erase(key);
  const auto probe = probes_.extract(key);
  if (probe.empty()) return nullptr;
  const auto live = live_.find(probe.mapped());
  return live == live_.end() ? nullptr : live->second;
}

LiveRequests RequestTable::all() const {
  LiveRequests requests;
  requests.reserve(live_.size());
  for (const auto& [key, request] : live_) requests.push_back(request);
  return requests;
}

}  // namespace conclave::services

#include "services/request_table.h"

#include <utility>

#include "absl/strings/str_format.h"
#include "router/completion_seed.h"
#include "services/refusals.h"

namespace conclave::services {
namespace {

// No client's id has this character.
std::string CompletionId(const std::string& id, uint32_t index) {
  return index == 0 ? id : absl::StrFormat("%s#%d", id, index);
}

}  // namespace

RequestTable::RequestTable(const router::Admission::Options& admission,
                           const LiveRequest::Options& request, router::AdapterNames adapters,
                           LiveRequest::Owner* owner, RouterMetrics* metrics)
    : options_(request),
      owner_(owner),
      metrics_(metrics),
      adapters_(std::move(adapters)),
      admission_(admission),
      random_(std::random_device{}()) {}

void RequestTable::SetAdapters(const std::vector<router::AdapterView>& adapters) {
  adapters_.Set(adapters);
  admission_.ShareOut(!adapters.empty());
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
            admission_.Reserve(key, CompletionId(request.id, i), from, request.version.name)) {
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
  std::optional<router::AdapterNames::Version> known;
  if (const auto key = admission_.KeyOf(request.id); key && !request.body.empty()) {
    const router::Request& other = live_.at(*key)->request();
    if (request.body == other.body) known = other.version;
  }
  absl::Status chosen = adapters_.Choose(request, base, std::move(known));
  if (!chosen.ok()) metrics_->Reject(RejectionOf(chosen));
  return chosen;
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
    if (const auto refusal = admission_.Enqueue(live->key(), need, live->goes_on()))
      return Refuse(*refusal);
    if (home) admission_.Prefer(live->key(), *home);
  }
  return absl::OkStatus();
}

void RequestTable::Forget(uint64_t key) {
  admission_.Remove(key, Now());
  live_.erase(key);
}

LiveRequests RequestTable::all() const {
  LiveRequests requests;
  requests.reserve(live_.size());
  for (const auto& [key, request] : live_) requests.push_back(request);
  return requests;
}

}  // namespace conclave::services

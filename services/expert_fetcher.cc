#include "services/expert_fetcher.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "services/channel.h"
#include "services/convert_placement.h"
#include "services/expert_receiver.h"
#include "services/grpc_status.h"
#include "services/log.h"

namespace conclave::services {
namespace {

using worker::SealedMemory;

constexpr size_t kNamed = 4;  // workers in a message

FetchFailure FailureOf(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kResourceExhausted:
      return FetchFailure::kBusy;
    case absl::StatusCode::kNotFound:
      return FetchFailure::kNotThere;
    case absl::StatusCode::kFailedPrecondition:
      return FetchFailure::kOtherModel;
    default:
      return FetchFailure::kBroken;
  }
}

// Of what arrived, not of the connection.
FetchFailure FailureOfBytes(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kResourceExhausted:
      return FetchFailure::kNoMemory;
    case absl::StatusCode::kDataLoss:
      return FetchFailure::kCorrupt;
    default:
      return FetchFailure::kMalformed;
  }
}

absl::Status NobodyGave(const std::map<std::string, std::string>& said) {
  std::string why = "no worker gave it";
  size_t named = 0;
  for (const auto& [worker, message] : said) {
    if (named++ == kNamed) break;
    absl::StrAppend(&why, named == 1 ? ": " : "; ", worker, ": ", message);
  }
  if (said.size() > kNamed) absl::StrAppend(&why, "; and ", said.size() - kNamed, " others");
  return absl::UnavailableError(why);
}

}  // namespace

const char* NameOf(FetchFailure failure) {
  switch (failure) {
    case FetchFailure::kBroken:
      return "broken";
    case FetchFailure::kBusy:
      return "busy";
    case FetchFailure::kNotThere:
      return "not_there";
    case FetchFailure::kOtherModel:
      return "other_model";
    case FetchFailure::kMalformed:
      return "malformed";
    case FetchFailure::kCorrupt:
      return "corrupt";
    case FetchFailure::kNoMemory:
      return "no_memory";
  }
  return "unknown";
}

ExpertFetcher::ExpertFetcher(const Options& options, const Credentials& credentials)
    : options_(options), credentials_(credentials) {}

ExpertFetcher::Plans ExpertFetcher::PlansOf(const v1::ClusterView& view) {
  return {.committed = view.placement().plan(), .prepared = view.prepared().plan()};
}

void ExpertFetcher::SetView(const v1::ClusterView& view) {
  absl::StatusOr<scheduler::Placement> placement = FromProto(view.placement());
  const std::lock_guard lock(mutex_);
  std::vector<Worker> workers;
  for (const v1::WorkerInfo& info : view.workers()) {
    if (info.id() == options_.self || info.state() == v1::WORKER_STATE_DEAD) continue;
    const auto known = std::find_if(workers_.begin(), workers_.end(), [&](const Worker& worker) {
      return worker.id == info.id() && worker.address == info.address();
    });
    if (known != workers_.end()) {
      workers.push_back(*known);
    } else {
      workers.push_back(
          {info.id(), info.address(),
           v1::Worker::NewStub(MakeChannel(info.address(), credentials_,
                                           {.receive_bytes = options_.message_bytes}))});
    }
  }
  workers_ = std::move(workers);
  placement_ = placement.ok() ? *std::move(placement) : scheduler::Placement();
  told_ = PlansOf(view);
  InterruptUnlessNamed();
}

void ExpertFetcher::FetchFor(const v1::ClusterView& view) {
  const std::lock_guard lock(mutex_);
  wanted_ = PlansOf(view);
  interrupted_ = false;
  InterruptUnlessNamed();
}

// Under mutex_.
void ExpertFetcher::InterruptUnlessNamed() {
  if (told_.Has(wanted_.committed) && told_.Has(wanted_.prepared)) return;
  interrupted_ = true;
  for (grpc::ClientContext* const call : calls_) call->TryCancel();
  wake_.notify_all();
}

void ExpertFetcher::Stop() {
  const std::lock_guard lock(mutex_);
  stopped_ = true;
  for (grpc::ClientContext* const call : calls_) call->TryCancel();
  wake_.notify_all();
}

// Owners first. Each expert begins with another worker, so that they share the work.
std::vector<ExpertFetcher::Worker> ExpertFetcher::SourcesOf(scheduler::ExpertId expert) const {
  const std::lock_guard lock(mutex_);
  std::vector<Worker> sources = workers_;
  const auto turn = [&](auto begin, auto end) {
    if (begin != end) std::rotate(begin, begin + expert % (end - begin), end);
  };
  turn(sources.begin(), sources.end());
  if (expert < placement_.owners.size()) {
    std::stable_partition(sources.begin(), sources.end(), [&](const Worker& worker) {
      const int32_t index = scheduler::IndexOf(placement_, worker.id).value_or(-1);
      return scheduler::Owns(placement_, index, expert);
    });
  }
  return sources;
}

absl::StatusOr<SealedMemory> ExpertFetcher::Fetch(const Wanted& wanted) {
  const auto until = std::chrono::steady_clock::now() + options_.busy_patience;
  std::vector<Worker> sources = SourcesOf(wanted.expert);
  if (sources.empty()) return absl::UnavailableError("there is no other worker to ask");
  std::map<std::string, std::string> said;  // last, by worker
  while (true) {
    std::vector<Worker> busy;
    for (const Worker& worker : sources) {
      Failed failed;
      if (std::optional<SealedMemory> memory = Ask(worker, wanted, failed))
        return *std::move(memory);
      Note(worker, wanted, failed);
      if (failed.why == FetchFailure::kBusy) busy.push_back(worker);
      said[worker.id] = std::move(failed.message);
    }
    if (busy.empty() || std::chrono::steady_clock::now() > until) return NobodyGave(said);
    if (!Pause()) return absl::CancelledError("it is not wanted any more");
    sources = std::move(busy);
  }
}

std::optional<SealedMemory> ExpertFetcher::Ask(const Worker& worker, const Wanted& wanted,
                                               Failed& failed) {
  ExpertReceiver receiver(absl::StrCat("conclave-expert-", wanted.expert), wanted.bytes);
  absl::Status taken;
  const grpc::Status ended = Receive(worker, wanted, receiver, taken);
  if (taken.ok() && !ended.ok()) {
    const absl::Status status = FromGrpc(ended);
    failed = {FailureOf(status.code()), std::string(status.message())};
    return std::nullopt;
  }
  absl::StatusOr<SealedMemory> memory = taken.ok() ? receiver.Finish() : taken;
  if (!memory.ok()) {
    failed = {FailureOfBytes(memory.status().code()), std::string(memory.status().message())};
    return std::nullopt;
  }
  const std::lock_guard lock(mutex_);
  ++stats_.experts;
  return *std::move(memory);
}

// The call from its beginning to its end. taken: what the receiver said last.
grpc::Status ExpertFetcher::Receive(const Worker& worker, const Wanted& wanted,
                                    ExpertReceiver& receiver, absl::Status& taken) {
  grpc::ClientContext context;
  const auto patience =
      options_.patience + std::chrono::milliseconds(wanted.bytes * 1000 / options_.least_rate);
  context.set_deadline(std::chrono::system_clock::now() + std::min(patience, options_.longest));
  if (!Begin(&context)) return grpc::Status(grpc::CANCELLED, "it is not wanted any more");
  v1::FetchExpertRequest request;
  request.set_model(wanted.model);
  request.set_expert(wanted.expert);
  const auto reader = worker.stub->FetchExpert(&context, request);
  v1::ExpertChunk chunk;
  while (taken.ok() && reader->Read(&chunk)) {
    taken = receiver.Take(chunk);
    const std::lock_guard lock(mutex_);
    stats_.bytes += chunk.data().size();
  }
  if (!taken.ok()) context.TryCancel();
  const grpc::Status ended = reader->Finish();
  End(&context);
  return ended;
}

bool ExpertFetcher::Begin(grpc::ClientContext* context) {
  const std::lock_guard lock(mutex_);
  if (stopped_ || interrupted_) return false;
  calls_.insert(context);
  return true;
}

void ExpertFetcher::End(grpc::ClientContext* context) {
  const std::lock_guard lock(mutex_);
  calls_.erase(context);
}

void ExpertFetcher::Note(const Worker& worker, const Wanted& wanted, const Failed& failed) {
  {
    const std::lock_guard lock(mutex_);
    if (stopped_ || interrupted_) return;
    ++stats_.failures[static_cast<size_t>(failed.why)];
  }
  if (failed.why == FetchFailure::kBusy || failed.why == FetchFailure::kNotThere) return;
  LogWarning("%s was not given by worker %s: %s", wanted.name, worker.id, failed.message);
}

bool ExpertFetcher::Pause() {
  std::unique_lock lock(mutex_);
  return !wake_.wait_for(lock, options_.busy_pause, [this] { return stopped_ || interrupted_; });
}

ExpertFetcher::Stats ExpertFetcher::stats() const {
  const std::lock_guard lock(mutex_);
  return stats_;
}

}  // namespace conclave::services

#include "services/frontend.h"

#include <algorithm>
#include <deque>
#include <utility>

#include "absl/strings/str_format.h"
#include "router/chat/conversation.h"
#include "services/convert_router.h"
#include "services/log.h"
#include "services/pushback.h"
#include "services/refusals.h"

namespace conclave::services {
namespace {

using router::Admission;
using scheduler::Micros;
using Rejection = RouterMetrics::Rejection;

// More completions than may wait at once could never be admitted.
Frontend::Options WithPlaces(Frontend::Options options) {
  const int32_t places = std::min(options.admission.max_requests, options.admission.max_waiting);
  options.limits.completions = std::min(options.limits.completions, places);
  return options;
}

}  // namespace

Frontend::Frontend(const Options& options, std::shared_ptr<const router::Tokenizer> tokenizer,
                   const Credentials& credentials, Templates templates,
                   router::AdapterNames adapters)
    : options_(WithPlaces(options)),
      codec_(options.codec, std::move(tokenizer), std::move(templates)),
      requests_(options.admission, options.request, std::move(adapters),
                options.auto_adapter.least_margin, this, &metrics_),
      homes_(options.homes, credentials, [this] { Refresh(); }),
      random_(std::random_device{}()),
      thread_([this] { Run(); }) {}

Frontend::~Frontend() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  stop_.notify_all();
  thread_.join();
  codec_.Finish();  // what that prepares may bring probes
  LiveRequests live;
  {
    std::lock_guard lock(mutex_);
    live = requests_.all();
  }
  for (const auto& request : live) request->End(Draining());
  for (const auto& link : homes_.links()) link->Shutdown();
}

void Frontend::AddWorker(const std::string& address) {
  std::lock_guard lock(mutex_);
  homes_.Add(address);
}

// At once: who says that it follows the view gives nobody a version that drains in it.
void Frontend::SetView(const v1::ClusterView& view) {
  const std::vector<router::AdapterView> adapters = AdaptersOf(view);
  {
    std::lock_guard lock(mutex_);
    homes_.SetView(view);
    requests_.SetAdapters(adapters);
  }
  metrics_.adapters.SetAdapters(adapters);
  Refresh();
}

v1::ClusterView Frontend::view() const {
  std::lock_guard lock(mutex_);
  return homes_.view();
}

void Frontend::SetAdapters(const std::vector<router::AdapterView>& adapters) {
  {
    std::lock_guard lock(mutex_);
    requests_.SetAdapters(adapters);
  }
  metrics_.adapters.SetAdapters(adapters);
  Dispatch();  // of what waited for memory
}

Frontend::AdapterUse Frontend::adapter_use() const {
  std::lock_guard lock(mutex_);
  AdapterUse use{.view = homes_.view_version(),
                 .waiting = requests_.admission().versions_waited_for()};
  for (const auto& request : requests_.all()) {
    const std::string& digest = request->request().version.digest;
    if (!digest.empty()) use.digests.insert(digest);
  }
  return use;
}

void Frontend::Refresh() {
  {
    std::lock_guard order(ready_mutex_);
    std::unique_lock lock(mutex_);
    const bool was_ready = ready_;
    const bool taken = homes_.Refresh();
    const bool ready = ready_ = taken && !draining_;
    lock.unlock();
    if (ready != was_ready && on_ready_) on_ready_(ready);
  }
  MaybeFailWaiting();
  Dispatch();
}

void Frontend::OnReady(std::function<void(bool)> callback) {
  std::lock_guard order(ready_mutex_);
  on_ready_ = std::move(callback);
  bool ready = false;
  {
    std::lock_guard lock(mutex_);
    ready = ready_;
  }
  if (on_ready_) on_ready_(ready);
}

absl::StatusOr<LiveRequests> Frontend::Start(router::Request request,
                                             std::optional<Micros> deadline,
                                             const std::shared_ptr<LiveRequest::Reader>& reader) {
  std::shared_ptr<const ServedModel> served;
  {
    std::lock_guard lock(mutex_);
    if (draining_) {
      metrics_.Reject(Rejection::kDraining);
      return Draining();
    }
    if (ready_) served = homes_.served();
  }
  if (served == nullptr) {
    metrics_.Reject(Rejection::kNoWorker);
    return NoWorker();
  }
  if (!request.max_tokens && served->info.default_max_tokens() > 0) {
    request.max_tokens = std::min(served->info.default_max_tokens(),
                                  static_cast<uint32_t>(options_.limits.max_tokens));
  }
  if (absl::Status status = JudgeRequest(request, deadline, options_.limits, *served, codec_);
      !status.ok()) {
    metrics_.Reject(Rejection::kInvalid);
    return status;
  }
  absl::StatusOr<router::StopStrings> stops = JudgeStops(std::move(request.stop), options_.limits);
  if (!stops.ok()) {
    metrics_.Reject(Rejection::kInvalid);
    return stops.status();
  }

  router::Prompt prompt = std::exchange(request.prompt, {});
  Decided decided{.stops = *std::move(stops),
                  .received = {request.received_tokens.begin(), request.received_tokens.end()},
                  .served = served};
  RequestTable::Predecessor before;
  absl::StatusOr<LiveRequests> admitted;
  {
    std::lock_guard lock(mutex_);
    admitted = requests_.Admit(std::move(request), deadline, reader, *served, before);
  }
  for (const auto& live : before.requests) {
    live->End(absl::AbortedError("another stream goes on with this request"));
  }
  if (!admitted.ok()) return admitted;
  if (decided.received.empty()) decided.received = std::move(before.received);
  decided.home = before.home;
  const auto prepare = [this, requests = *admitted, decided = std::move(decided)](
                           const Tokens& tokens) { Prepare(requests, tokens, decided); };
  if (codec_.Encode(std::move(prompt), prepare)) return admitted;
  for (const auto& live : *admitted) Forget(*live);
  metrics_.Reject(Rejection::kTokenizer);
  std::lock_guard lock(mutex_);
  return WithPushback(absl::ResourceExhaustedError(
                          absl::StrFormat("%d long prompts wait to be tokenised, the limit is %d",
                                          options_.codec.queue, options_.codec.queue)),
                      requests_.admission().Pushback());
}

void Frontend::Tokenize(router::Prompt prompt, const TextCodec::Done& done) {
  const router::Tokenizer* const tokenizer = codec_.tokenizer();
  if (tokenizer == nullptr) return done(NoTokenizer());
  const auto vocab_size = static_cast<int32_t>(tokenizer->vocab_size());
  if (const auto problem = router::CheckPrompt(prompt, options_.limits, vocab_size)) {
    return done(absl::InvalidArgumentError(*problem));
  }
  if (codec_.Encode(std::move(prompt), done)) return;
  metrics_.Reject(Rejection::kTokenizer);
  done(WithPushback(absl::ResourceExhaustedError("too many long texts wait to be tokenised"),
                    options_.admission.pushback_default));
}

absl::StatusOr<std::string> Frontend::Detokenize(const std::vector<uint32_t>& tokens,
                                                 bool skip_special) const {
  const router::Tokenizer* const tokenizer = codec_.tokenizer();
  if (tokenizer == nullptr) return NoTokenizer();
  const auto vocab_size = static_cast<int32_t>(tokenizer->vocab_size());
  if (const auto problem =
          router::CheckTokenIds("token_ids", tokens, options_.limits.prompt_tokens, vocab_size)) {
    return absl::InvalidArgumentError(*problem);
  }
  return tokenizer->Decode(std::vector<scheduler::TokenId>(tokens.begin(), tokens.end()),
                           skip_special);
}

std::string_view Frontend::TokenBytes(scheduler::TokenId token) const {
  const router::Tokenizer* const tokenizer = codec_.tokenizer();
  return tokenizer == nullptr ? std::string_view() : tokenizer->TokenBytes(token);
}

std::vector<v1::Model> Frontend::Models() const {
  std::lock_guard lock(mutex_);
  const auto& served = homes_.served();
  if (served == nullptr) return {};
  v1::Model model = ToModel(served->info, served->name);
  const absl::Status chat = codec_.JudgeChat({});
  model.set_chat(chat.ok());
  model.set_chat_problem(std::string(chat.message()));
  std::vector<v1::Model> models = {model};
  requests_.adapters().AddModels(model, models);
  return models;
}

void Frontend::Dispatch() {
  std::unique_lock lock(mutex_);
  dispatch_again_ = true;
  if (std::exchange(dispatching_, true)) return;
  while (std::exchange(dispatch_again_, false)) {
    if (homes_.served() == nullptr) break;
    homes_.NoteCredits();
    std::vector<std::pair<std::shared_ptr<LiveRequest>, std::shared_ptr<WorkerLink>>> starts;
    for (const Admission::Start& start :
         requests_.admission().Dispatch(homes_.views(), homes_.served()->key, random_())) {
      // A home that went since the last Refresh takes nobody.
      starts.emplace_back(requests_.at(start.key), homes_.LinkOf(start.worker));
    }
    lock.unlock();
    LiveRequests homeless;
    {
      std::deque<WorkerLink::Batch> batches;  // one message for each worker
      for (const auto& [request, link] : starts) {
        if (link != nullptr) batches.emplace_back(*link);
      }
      for (const auto& [request, link] : starts) {
        if (link == nullptr || !request->Begin(link)) homeless.push_back(request);
      }
    }
    lock.lock();
    // In reverse, so that each goes before those that came after it. The link that is down says so
    // itself, and then the rest is looked at again.
    for (auto request = homeless.rbegin(); request != homeless.rend(); ++request) {
      const uint64_t key = (*request)->key();
      if (!requests_.has(key)) continue;
      requests_.admission().LeaveHome(key, Now(), (*request)->served());
      requests_.admission().Requeue(key, (*request)->goes_on());
    }
  }
  dispatching_ = false;
  const Admission::Stats stats = requests_.admission().stats();
  homes_.AnswerDrains(static_cast<size_t>(stats.waiting + stats.preparing));
}

void Frontend::MaybeFailWaiting() {
  LiveRequests waiting;
  bool draining = false;
  {
    std::lock_guard lock(mutex_);
    if (homes_.AnyReady()) return;
    draining = draining_;
    for (const uint64_t key : requests_.admission().Waiting()) waiting.push_back(requests_.at(key));
  }
  for (const auto& request : waiting) {
    if (draining || !request->lost_home()) request->End(NoWorker());
  }
}

void Frontend::LeftHome(LiveRequest& request) {
  {
    std::lock_guard lock(mutex_);
    requests_.admission().LeaveHome(request.key(), Now(), request.served());
  }
  Dispatch();
}

void Frontend::PauseChanged(LiveRequest& request) {
  {
    std::lock_guard lock(mutex_);
    requests_.admission().SetPaused(request.key(), request.paused());
  }
  // A reader that goes on brings nobody a place.
  if (request.paused()) Dispatch();
}

void Frontend::WantsHome(LiveRequest& request) {
  {
    std::lock_guard lock(mutex_);
    if (!requests_.has(request.key())) return;
    requests_.admission().Requeue(request.key(), request.goes_on());
  }
  Refresh();
}

bool Frontend::OthersGoOn(const WorkerLink& link) {
  std::lock_guard lock(mutex_);
  return homes_.AnyGoesOn(link);
}

void Frontend::Forget(LiveRequest& request) {
  request.Cancel();
  std::shared_ptr<LiveRequest> probe;
  {
    std::lock_guard lock(mutex_);
    probe = requests_.Forget(request.key());
    if (requests_.empty()) idle_.notify_all();
  }
  if (probe != nullptr) probe->Cancel();
  Dispatch();
}

void Frontend::ReleaseId(const LiveRequests& completions) {
  std::lock_guard lock(mutex_);
  for (const auto& completion : completions) requests_.admission().ReleaseId(completion->key());
}

void Frontend::Drain() {
  {
    std::lock_guard lock(mutex_);
    draining_ = true;
  }
  Refresh();
}

bool Frontend::draining() const {
  std::lock_guard lock(mutex_);
  return draining_;
}

bool Frontend::WaitIdle(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  return idle_.wait_for(lock, timeout, [this] { return requests_.empty(); });
}

void Frontend::Run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    lock.unlock();
    Tick(Now());
    lock.lock();
    stop_.wait_for(lock, options_.tick, [this] { return stopping_; });
  }
}

void Frontend::Tick(Micros now) {
  LiveRequests requests;
  Homes::Links links, gone, late;
  std::string all_lack;
  {
    std::lock_guard lock(mutex_);
    requests = requests_.all();
    all_lack = homes_.AllLack();
    late = homes_.LateLinks();
    gone = homes_.TakeGone();
    links = homes_.links();
  }
  for (const auto& link : links) link->Tick(now);
  if (WatchSilence()) Refresh();
  if (!gone.empty()) {
    Retire(std::move(gone));
    Refresh();
  }
  std::erase_if(retired_, [](const auto& link) { return link.use_count() == 1; });
  TickRequests(requests, all_lack, now);
  if (!late.empty()) LeaveLate(requests, late, now);
}

void Frontend::TickRequests(const LiveRequests& requests, const std::string& all_lack, Micros now) {
  std::unordered_map<uint64_t, RequestTable::MemoryWait> waits;
  {
    std::lock_guard lock(mutex_);
    waits = requests_.MemoryWaits(now);
  }
  for (const auto& request : requests) {
    const auto wait = waits.find(request->key());
    if (wait == waits.end()) {
      request->Tick(now, all_lack);
    } else if (wait->second.waited < options_.adapter_wait) {
      request->Tick(now, *wait->second.what);
    } else {
      request->End(
          WithPushback(absl::UnavailableError(absl::StrFormat(
                           "%s (waited %d ms)", *wait->second.what, options_.adapter_wait.count())),
                       options_.admission.pushback_default));
    }
  }
}

void Frontend::LeaveLate(const LiveRequests& requests, const Homes::Links& late, Micros now) {
  Micros sum{0};
  int64_t count = 0;
  for (const auto& request : requests) {
    const std::optional<Micros> pace = request->PaceUnless(late);
    sum += pace.value_or(Micros(0));
    count += pace.has_value();
  }
  const Micros usual = count > 0 ? sum / count : Micros(0);
  for (const auto& request : requests) request->LeaveLate(late, usual, now);
}

bool Frontend::WatchSilence() {
  std::lock_guard lock(mutex_);
  homes_.NoteLoads();
  return homes_.WatchSilence();
}

void Frontend::Retire(Homes::Links links) {
  for (auto& link : links) {
    LogInfo("%s is no longer in the cluster", link->name());
    link->Shutdown();
    retired_.push_back(std::move(link));
  }
}

Admission::Stats Frontend::stats() const {
  std::lock_guard lock(mutex_);
  return requests_.admission().stats();
}

void Frontend::WriteMetrics(MetricsWriter& writer) const {
  std::string name = options_.homes.model_name;
  RouterLoad load;
  std::unordered_map<std::string, Admission::Stats> adapters;
  {
    std::lock_guard lock(mutex_);
    if (homes_.served() != nullptr) name = homes_.served()->name;
    load.requests = requests_.admission().stats();
    load.waiting_for_memory = requests_.admission().waiting_for_memory();
    adapters = requests_.admission().adapters();
    for (const router::WorkerView& view : homes_.views()) {
      load.workers_ready += view.ready;
      load.workers_late += view.late;
    }
    for (const auto& link : homes_.links()) load.links[link->address()] = link->stats();
  }
  metrics_.Write(writer, name);
  Write(writer, name, load);
  metrics_.adapters.Write(writer, name, adapters);
}

}  // namespace conclave::services

#include "services/frontend.h"

#include <algorithm>
#include <ctime>
#include <utility>

#include "absl/strings/str_format.h"
#include "router/chat/chat_templates.h"
#include "router/completion_seed.h"
#include "services/log.h"
#include "services/pushback.h"

namespace conclave::services {
namespace {

using router::Admission;
using scheduler::Micros;
using Rejection = RouterMetrics::Rejection;

Rejection RejectionOf(Admission::Reason reason) {
  switch (reason) {
    case Admission::Reason::kDuplicateId:
      return Rejection::kDuplicate;
    case Admission::Reason::kRequests:
      return Rejection::kRequests;
    case Admission::Reason::kWaiting:
      return Rejection::kWaiting;
    case Admission::Reason::kTokens:
      return Rejection::kTokens;
  }
  return Rejection::kRequests;
}

// More completions than may wait at once could never be admitted.
Frontend::Options WithPlaces(Frontend::Options options) {
  const int32_t places = std::min(options.admission.max_requests, options.admission.max_waiting);
  options.limits.completions = std::min(options.limits.completions, places);
  return options;
}

// No client's id has this character.
std::string CompletionId(const std::string& id, uint32_t index) {
  return index == 0 ? id : absl::StrFormat("%s#%d", id, index);
}

absl::Status NoWorker() { return absl::UnavailableError("no worker is ready; try again soon"); }
absl::Status NoTokenizer() {
  return absl::FailedPreconditionError(
      "this router has no tokenizer: there is no tokenizer.json in its --model directory (or it "
      "was "
      "given none); start it with --tokenizer, or send token ids");
}
absl::Status Draining() {
  return absl::UnavailableError("this router is shutting down; another one takes requests");
}

}  // namespace

Frontend::Frontend(const Options& options, std::shared_ptr<const router::Tokenizer> tokenizer,
                   const Credentials& credentials, Templates templates)
    : options_(WithPlaces(options)),
      tokenizer_(std::move(tokenizer)),
      templates_(std::move(templates)),
      credentials_(credentials),
      admission_(options.admission),
      random_(std::random_device{}()),
      pool_(std::make_unique<WorkPool>(options.tokenize_threads,
                                       static_cast<size_t>(options.tokenize_queue))),
      thread_([this] { Run(); }) {}

Frontend::~Frontend() {
  std::vector<std::shared_ptr<LiveRequest>> live;
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    for (const auto& [key, request] : live_) live.push_back(request);
  }
  stop_.notify_all();
  thread_.join();
  pool_.reset();
  for (const auto& request : live) request->End(Draining());
  for (const auto& [address, home] : homes_) home.link->Shutdown();
}

void Frontend::AddWorker(const std::string& address) {
  std::lock_guard lock(mutex_);
  AddHome(address, true);
}

void Frontend::AddHome(const std::string& address, bool fixed) {
  Home& home = homes_[address];
  home.fixed = home.fixed || fixed;
  if (home.link != nullptr) return;
  home.key = ++last_key_;
  WorkerLink::Options options = options_.link;
  options.address = address;
  home.link = std::make_shared<WorkerLink>(options, credentials_, [this] { Refresh(); });
}

void Frontend::SetView(const v1::ClusterView& view) {
  {
    std::lock_guard lock(mutex_);
    view_ = view;
    for (auto& [address, home] : homes_) home.listed = false;
    for (const v1::WorkerInfo& worker : view.workers()) {
      if (worker.address().empty()) continue;
      if (worker.state() == v1::WORKER_STATE_DEAD) {
        if (const auto home = homes_.find(worker.address()); home != homes_.end())
          home->second.state = worker.state();
        continue;
      }
      AddHome(worker.address(), false);
      Home& home = homes_[worker.address()];
      home.listed = true;
      home.state = worker.state();
    }
  }
  Refresh();
}

v1::ClusterView Frontend::view() const {
  std::lock_guard lock(mutex_);
  v1::ClusterView view = view_;
  for (const auto& [key, home] : homes_) {
    const std::string& address = key;
    const auto same = [&](const v1::WorkerInfo& worker) { return worker.address() == address; };
    auto* const workers = view.mutable_workers();
    auto known = std::find_if(workers->begin(), workers->end(), same);
    const std::optional<v1::WorkerHello> hello = home.link->hello();
    if (known == workers->end() && !hello) continue;
    v1::WorkerInfo* const worker = known != workers->end() ? &*known : workers->Add();
    if (!hello) continue;
    if (worker->address().empty()) {
      worker->set_id(hello->worker_id());
      worker->set_incarnation(hello->incarnation());
      worker->set_address(address);
      worker->set_state(home.link->draining() ? v1::WORKER_STATE_DRAINING : v1::WORKER_STATE_READY);
    }
    *worker->mutable_model() = hello->model();
    *worker->mutable_load() = home.link->load();
  }
  return view;
}

void Frontend::Refresh() {
  {
    std::lock_guard order(ready_mutex_);
    std::unique_lock lock(mutex_);
    const bool was_ready = ready_;
    RefreshLocked();
    const bool ready = ready_;
    lock.unlock();
    if (ready != was_ready && on_ready_) on_ready_(ready);
  }
  MaybeFailWaiting();
  Dispatch();
}

void Frontend::RefreshLocked() {
  views_.clear();
  std::shared_ptr<Served> first;
  bool still_served = false;
  for (const auto& [address, home] : homes_) {
    const std::optional<v1::WorkerHello> hello = home.link->hello();
    if (!hello) continue;
    const bool draining = home.link->draining() || home.state == v1::WORKER_STATE_DRAINING;
    router::WorkerView view{
        .key = home.key, .id = hello->worker_id(), .model = ModelKey(hello->model())};
    const bool doubted = !home.listed || home.state == v1::WORKER_STATE_SUSPECT;
    view.suspect = home.hesitates || (doubted && !home.fixed);
    view.ready = !draining && !home.quiet && home.state != v1::WORKER_STATE_JOINING;
    still_served = still_served || (served_ && served_->key == view.model);
    if (first == nullptr) {
      const std::string& name =
          options_.model_name.empty() ? hello->model().name() : options_.model_name;
      first = std::make_shared<Served>(Served{hello->model(), name, view.model});
    }
    views_.push_back(std::move(view));
  }
  // The model changes only when nobody serves the old one any more.
  if (!still_served && first != nullptr) served_ = first;
  for (router::WorkerView& view : views_) view.ready = view.ready && view.model == served_->key;
  ready_ = !draining_ && AnyReady();
  if (AnyReady()) return;
  // Who was admitted may still go where nobody new does.
  for (router::WorkerView& view : views_) {
    const auto home = std::find_if(homes_.begin(), homes_.end(),
                                   [&](const auto& entry) { return entry.second.key == view.key; });
    view.ready =
        !home->second.quiet && home->second.link->takes_leftovers() && view.model == served_->key;
  }
}

void Frontend::AnswerDrains() {
  const Admission::Stats stats = admission_.stats();
  const auto waiting = static_cast<size_t>(stats.waiting + stats.preparing);
  for (const auto& [address, home] : homes_) {
    if (!home.link->draining()) continue;
    const auto elsewhere = std::any_of(views_.begin(), views_.end(), [&](const auto& view) {
      return view.ready && view.key != home.key;
    });
    home.link->AnswerDrain(elsewhere ? 0 : waiting);
  }
}

bool Frontend::WatchSilence() {
  bool changed = false;
  std::lock_guard lock(mutex_);
  for (auto& [address, home] : homes_) {
    const bool lost = home.state == v1::WORKER_STATE_SUSPECT || home.state == v1::WORKER_STATE_DEAD;
    const bool silent = lost && home.link->silence() > options_.silence;
    const bool quiet = silent && home.link->stats().sequences > 0;
    const Micros silence = home.link->pulses() ? home.link->silence() : Micros(0);
    const bool hesitates = silence > options_.suspicion;
    changed = changed || quiet != home.quiet || hesitates != home.hesitates;
    home.quiet = quiet;
    home.hesitates = hesitates;
    const bool dead = silent && home.state == v1::WORKER_STATE_DEAD;
    if (dead || (silence > options_.give_up && OthersServe(home))) home.link->Break();
  }
  return changed;
}

bool Frontend::OthersServe(const Home& home) const {
  return std::any_of(views_.begin(), views_.end(), [&](const router::WorkerView& view) {
    return view.ready && !view.suspect && view.key != home.key;
  });
}

bool Frontend::AnyReady() const {
  return std::any_of(views_.begin(), views_.end(), [](const auto& view) { return view.ready; });
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

absl::StatusOr<Frontend::LiveRequests> Frontend::Start(
    router::Request request, std::optional<Micros> deadline,
    const std::shared_ptr<LiveRequest::Reader>& reader) {
  std::shared_ptr<const Served> served;
  {
    std::lock_guard lock(mutex_);
    if (draining_) {
      metrics_.Reject(Rejection::kDraining);
      return Draining();
    }
    if (ready_) served = served_;
  }
  if (served == nullptr) {
    metrics_.Reject(Rejection::kNoWorker);
    return NoWorker();
  }
  if (!request.max_tokens && served->model.default_max_tokens() > 0) {
    request.max_tokens = std::min(served->model.default_max_tokens(),
                                  static_cast<uint32_t>(options_.limits.max_tokens));
  }
  if (absl::Status status = Judge(request, deadline, served.get()); !status.ok()) {
    metrics_.Reject(absl::IsNotFound(status) ? Rejection::kUnknown : Rejection::kInvalid);
    return status;
  }
  std::string error;
  const router::StopStrings::Options stop_options = {
      .stops_max = static_cast<size_t>(options_.limits.stop_strings),
      .stop_bytes_max = static_cast<size_t>(options_.limits.stop_string_bytes)};
  std::optional<router::StopStrings> stops =
      router::StopStrings::Create(std::move(request.stop), stop_options, &error);
  if (!stops) {
    metrics_.Reject(Rejection::kInvalid);
    return absl::InvalidArgumentError(absl::StrFormat("stopping.stop: %s", error));
  }

  router::Prompt prompt = std::exchange(request.prompt, {});
  Decided decided{.stops = *std::move(stops),
                  .received = {request.received_tokens.begin(), request.received_tokens.end()},
                  .served = served};
  Predecessor before;
  absl::StatusOr<LiveRequests> admitted = Admit(std::move(request), deadline, reader, before);
  for (const auto& live : before.requests) {
    live->End(absl::AbortedError("another stream goes on with this request"));
  }
  if (!admitted.ok()) return admitted;
  if (decided.received.empty()) decided.received = std::move(before.received);
  decided.home = before.home;
  if (const std::optional<Tokens> tokens = EncodeNow(prompt)) {
    Prepare(*admitted, *tokens, decided);
    return admitted;
  }
  auto work = [this, requests = *admitted, prompt = std::move(prompt),
               decided = std::move(decided)] { Prepare(requests, Encode(prompt), decided); };
  if (pool_->Post(std::move(work))) return admitted;
  for (const auto& live : *admitted) Forget(*live);
  metrics_.Reject(Rejection::kTokenizer);
  std::lock_guard lock(mutex_);
  return WithPushback(absl::ResourceExhaustedError(
                          absl::StrFormat("%d long prompts wait to be tokenised, the limit is %d",
                                          options_.tokenize_queue, options_.tokenize_queue)),
                      admission_.Pushback());
}

absl::StatusOr<Frontend::LiveRequests> Frontend::Admit(
    router::Request request, std::optional<Micros> deadline,
    const std::shared_ptr<LiveRequest::Reader>& reader, Predecessor& before) {
  LiveRequest::Owner& owner = *this;  // the base is private, which make_shared would not see
  LiveRequests admitted;
  std::lock_guard lock(mutex_);
  if (request.id.empty()) request.id = absl::StrFormat("req-%016x", random_());
  Predecessor found = FindPredecessor(request);
  if (!found.requests.empty()) request.seed = found.requests[0]->request().seed;
  if (absl::Status status = JudgeResume(request); !status.ok()) return status;
  const uint64_t seed = request.seed ? *request.seed : random_();
  // Of all together no more waits for their one client than of one.
  LiveRequest::Options options = options_.request;
  options.pending_bytes_pause /= request.completions;
  for (uint32_t i = 0; i < request.completions; ++i) {
    const uint64_t key = ++last_key_;
    const auto from =
        found.requests.empty() ? std::nullopt : std::optional(found.requests[i]->key());
    if (const auto refusal = admission_.Reserve(key, CompletionId(request.id, i), from)) {
      for (const auto& live : admitted) {
        admission_.Remove(live->key(), Now());
        live_.erase(live->key());
      }
      return Refuse(*refusal);
    }
    router::Request completion = request;
    completion.seed = router::CompletionSeed(seed, i);
    completion.prompt_logprobs = request.prompt_logprobs && i == 0;
    live_[key] = std::make_shared<LiveRequest>(options, key, std::move(completion), deadline, Now(),
                                               reader, &owner, &metrics_);
    admitted.push_back(live_[key]);
  }
  before = std::move(found);
  return admitted;
}

Frontend::Predecessor Frontend::FindPredecessor(const router::Request& request) const {
  Predecessor before;
  for (uint32_t i = 0; i < request.completions; ++i) {
    const std::optional<uint64_t> key = admission_.KeyOf(CompletionId(request.id, i));
    if (!key) return {};
    const auto& live = live_.at(*key);
    const router::Request& other = live->request();
    const bool same = !request.body.empty() && request.body == other.body &&
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

absl::Status Frontend::JudgeResume(const router::Request& request) const {
  if (request.resume_from == 0 || request.seed) return absl::OkStatus();
  const float temperature = request.temperature.value_or(
      served_ == nullptr ? 0.0f : served_->model.default_temperature());
  if (temperature == 0.0f) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "resume_from needs sampling.seed: send the one that the first message reported");
}

absl::Status Frontend::Judge(const router::Request& request, const std::optional<Micros>& deadline,
                             const Served* served) const {
  if (deadline && Now() >= *deadline)
    return absl::DeadlineExceededError("the deadline was past on arrival");
  const int32_t vocab_size = static_cast<int32_t>(served->model.vocab_size());
  const router::RequestLimits limits =
      router::LimitsFor(options_.limits, static_cast<int32_t>(served->model.context_limit()));
  if (const auto problem = router::CheckRequest(request, limits, vocab_size)) {
    return absl::InvalidArgumentError(*problem);
  }
  if (tokenizer_ == nullptr && !(request.prompt.text.empty() && request.stop.empty())) {
    return absl::InvalidArgumentError(
        "this router has no tokenizer: send prompt.tokens, and no stopping.stop");
  }
  if (request.prompt.kind == router::Prompt::Kind::kChat) {
    if (absl::Status status = JudgeChat(*request.prompt.chat); !status.ok()) return status;
  }
  if (!request.model.empty() && request.model != served->name) {
    return absl::NotFoundError(
        absl::StrFormat("model '%s' is not served here, '%s' is", request.model, served->name));
  }
  return absl::OkStatus();
}

absl::Status Frontend::JudgeChat(const router::chat::Conversation& conversation) const {
  if (templates_ == nullptr)
    return absl::FailedPreconditionError("this router has no chat template");
  const auto problem = templates_->Problem(conversation.template_name, !conversation.tools.empty());
  return problem ? absl::FailedPreconditionError(*problem) : absl::OkStatus();
}

absl::Status Frontend::Refuse(const Admission::Refusal& refusal) {
  metrics_.Reject(RejectionOf(refusal.reason));
  switch (refusal.reason) {
    case Admission::Reason::kDuplicateId:
      return absl::AlreadyExistsError(
          "another request with this request_id is live; choose another id or leave it empty");
    case Admission::Reason::kRequests:
      return WithPushback(absl::ResourceExhaustedError(absl::StrFormat(
                              "the router has %d requests, its limit", refusal.limit)),
                          refusal.pushback);
    case Admission::Reason::kWaiting:
      return WithPushback(absl::ResourceExhaustedError(absl::StrFormat(
                              "%d requests wait for a worker, the limit", refusal.limit)),
                          refusal.pushback);
    case Admission::Reason::kTokens:
      return WithPushback(absl::ResourceExhaustedError(
                              absl::StrFormat("all requests together (prompt + max_tokens) would "
                                              "have more than %d tokens, the limit",
                                              refusal.limit)),
                          refusal.pushback);
  }
  return absl::InternalError("unknown refusal");
}

void Frontend::Prepare(const LiveRequests& requests, const Tokens& tokens, const Decided& decided) {
  const absl::Status status = PrepareAll(requests, tokens, decided);
  if (!status.ok()) {
    for (const auto& request : requests) request->End(status);
    return;
  }
  Dispatch();
  MaybeFailWaiting();
}

absl::Status Frontend::PrepareAll(const LiveRequests& requests, const Tokens& tokens,
                                  const Decided& decided) {
  const v1::ModelInfo& model = decided.served->model;
  if (!tokens.ok()) return tokens.status();
  const auto vocab_size = static_cast<int32_t>(model.vocab_size());
  const bool foreign =
      std::any_of(tokens->begin(), tokens->end(), [&](auto token) { return token >= vocab_size; });
  if (foreign) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "the prompt has a token of the tokenizer that the model's vocabulary of %d does not have",
        vocab_size));
  }
  const auto count = static_cast<int32_t>(tokens->size());
  const router::Fit fit = router::FitToContext(requests[0]->request(), options_.limits, count,
                                               static_cast<int32_t>(model.context_limit()));
  if (!fit.error.empty()) return absl::InvalidArgumentError(fit.error);
  if (const uint32_t from = requests[0]->request().resume_from;
      from > static_cast<uint32_t>(fit.max_tokens)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("resume_from is %d, max_tokens is %d", from, fit.max_tokens));
  }
  for (const auto& live : requests) {
    const router::Request& request = live->request();
    live->Prepare(Assign(request, *tokens, fit.max_tokens, *request.seed, model),
                  router::Transcript(tokenizer_.get(), decided.stops, count,
                                     static_cast<int32_t>(request.min_tokens)),
                  model, decided.received);
  }
  std::lock_guard lock(mutex_);
  const std::optional<uint64_t> home =
      decided.home ? decided.home : KeeperOf(requests[0]->request());
  for (const auto& live : requests) {
    if (live_.count(live->key()) == 0) continue;  // its client left
    if (const auto refusal = admission_.Enqueue(live->key(), count + fit.max_tokens))
      return Refuse(*refusal);
    if (home) admission_.Prefer(live->key(), *home);
  }
  return absl::OkStatus();
}

std::optional<uint64_t> Frontend::KeeperOf(const router::Request& request) const {
  if (request.resume_from == 0) return std::nullopt;
  for (const auto& [address, home] : homes_) {
    if (home.link->keeps(request.id)) return home.key;
  }
  return std::nullopt;
}

std::optional<Frontend::Tokens> Frontend::EncodeNow(const router::Prompt& prompt) const {
  if (!IsShort(prompt)) return std::nullopt;
  if (prompt.kind != router::Prompt::Kind::kChat || templates_ == nullptr) return Encode(prompt);
  // However short a chat is, how much its template makes of it shows when it is rendered. What
  // fails here, whatever the reason, is told by the pool, which may use up all of the limits.
  Tokens tokens = EncodeChat(prompt, router::chat::BriefLimits(templates_->limits()));
  if (!tokens.ok()) return std::nullopt;
  return tokens;
}

Frontend::Tokens Frontend::Encode(const router::Prompt& prompt) const {
  if (prompt.kind == router::Prompt::Kind::kTokens) {
    return std::vector<scheduler::TokenId>(prompt.tokens.begin(), prompt.tokens.end());
  }
  if (tokenizer_ == nullptr)
    return std::vector<scheduler::TokenId>();  // only an empty text came so far
  if (prompt.kind == router::Prompt::Kind::kChat) return EncodeChat(prompt, templates_->limits());
  std::string error;
  auto tokens = tokenizer_->Encode(
      prompt.text, {.parse_special = prompt.parse_special, .add_special = prompt.add_special},
      &error);
  if (!tokens) return absl::InvalidArgumentError(absl::StrFormat("prompt.text: %s", error));
  return *std::move(tokens);
}

Frontend::Tokens Frontend::EncodeChat(const router::Prompt& prompt,
                                      const router::chat::ChatLimits& limits) const {
  std::string error;
  const std::time_t now = std::time(nullptr);
  std::tm local = {};
  localtime_r(&now, &local);
  const auto chat = templates_->Render(*prompt.chat, limits, local, &error);
  if (!chat) return absl::InvalidArgumentError(error);
  router::EncodeOptions options{.parse_special = true};
  if (!prompt.parse_special) {
    options.outside = chat->outside;
    options.control = *chat->control;
  }
  auto tokens = tokenizer_->Encode(chat->text, options, &error);
  if (!tokens) return absl::InvalidArgumentError(absl::StrFormat("messages: %s", error));
  return *std::move(tokens);
}

bool Frontend::IsShort(const router::Prompt& prompt) const {
  const bool chat = prompt.kind == router::Prompt::Kind::kChat;
  const int64_t bytes =
      chat ? router::chat::BytesOf(*prompt.chat) : static_cast<int64_t>(prompt.text.size());
  return bytes <= options_.tokenize_inline_bytes;
}

void Frontend::Tokenize(router::Prompt prompt, const std::function<void(Tokens)>& done) {
  if (tokenizer_ == nullptr) return done(NoTokenizer());
  const auto vocab_size = static_cast<int32_t>(tokenizer_->vocab_size());
  if (const auto problem = router::CheckPrompt(prompt, options_.limits, vocab_size)) {
    return done(absl::InvalidArgumentError(*problem));
  }
  if (const std::optional<Tokens> tokens = EncodeNow(prompt)) return done(*tokens);
  const bool posted =
      pool_->Post([this, prompt = std::move(prompt), done] { done(Encode(prompt)); });
  if (posted) return;
  metrics_.Reject(Rejection::kTokenizer);
  done(WithPushback(absl::ResourceExhaustedError("too many long texts wait to be tokenised"),
                    options_.admission.pushback_default));
}

absl::StatusOr<std::string> Frontend::Detokenize(const std::vector<uint32_t>& tokens,
                                                 bool skip_special) const {
  if (tokenizer_ == nullptr) return NoTokenizer();
  const auto vocab_size = static_cast<int32_t>(tokenizer_->vocab_size());
  if (const auto problem =
          router::CheckTokenIds("token_ids", tokens, options_.limits.prompt_tokens, vocab_size)) {
    return absl::InvalidArgumentError(*problem);
  }
  return tokenizer_->Decode(std::vector<scheduler::TokenId>(tokens.begin(), tokens.end()),
                            skip_special);
}

std::string_view Frontend::TokenBytes(scheduler::TokenId token) const {
  return tokenizer_ == nullptr ? std::string_view() : tokenizer_->TokenBytes(token);
}

std::vector<v1::Model> Frontend::Models() const {
  std::lock_guard lock(mutex_);
  if (served_ == nullptr) return {};
  v1::Model model = ToModel(served_->model, served_->name);
  const absl::Status chat = JudgeChat({});
  model.set_chat(chat.ok());
  model.set_chat_problem(std::string(chat.message()));
  return {std::move(model)};
}

void Frontend::Dispatch() {
  std::unique_lock lock(mutex_);
  dispatch_again_ = true;
  if (std::exchange(dispatching_, true)) return;
  while (std::exchange(dispatch_again_, false)) {
    if (served_ == nullptr) break;
    std::vector<std::pair<std::shared_ptr<LiveRequest>, std::shared_ptr<WorkerLink>>> starts;
    for (const Admission::Start& start : admission_.Dispatch(views_, served_->key, random_())) {
      const auto home = std::find_if(homes_.begin(), homes_.end(), [&](const auto& entry) {
        return entry.second.key == start.worker;
      });
      // A home that went since the last Refresh takes nobody.
      starts.emplace_back(live_.at(start.key), home == homes_.end() ? nullptr : home->second.link);
    }
    lock.unlock();
    std::vector<std::shared_ptr<LiveRequest>> homeless;
    for (const auto& [request, link] : starts) {
      if (link == nullptr || !request->Begin(link)) homeless.push_back(request);
    }
    lock.lock();
    // In reverse, so that each goes before those that came after it. The link that is down says so
    // itself, and then the rest is looked at again.
    for (auto request = homeless.rbegin(); request != homeless.rend(); ++request) {
      if (live_.count((*request)->key()) == 0) continue;
      admission_.LeaveHome((*request)->key(), Now());
      admission_.Requeue((*request)->key());
    }
  }
  dispatching_ = false;
  AnswerDrains();
}

void Frontend::MaybeFailWaiting() {
  std::vector<std::shared_ptr<LiveRequest>> waiting;
  bool draining = false;
  {
    std::lock_guard lock(mutex_);
    if (AnyReady()) return;
    draining = draining_;
    for (const uint64_t key : admission_.Waiting()) waiting.push_back(live_.at(key));
  }
  for (const auto& request : waiting) {
    if (draining || !request->lost_home()) request->End(NoWorker());
  }
}

void Frontend::LeftHome(LiveRequest& request) {
  {
    std::lock_guard lock(mutex_);
    admission_.LeaveHome(request.key(), Now());
  }
  Dispatch();
}

void Frontend::PauseChanged(LiveRequest& request) {
  {
    std::lock_guard lock(mutex_);
    admission_.SetPaused(request.key(), request.paused());
  }
  // A reader that goes on brings nobody a place.
  if (request.paused()) Dispatch();
}

void Frontend::WantsHome(LiveRequest& request) {
  {
    std::lock_guard lock(mutex_);
    if (live_.count(request.key()) == 0) return;
    admission_.Requeue(request.key());
  }
  Refresh();
}

void Frontend::Forget(LiveRequest& request) {
  request.Cancel();
  {
    std::lock_guard lock(mutex_);
    admission_.Remove(request.key(), Now());
    live_.erase(request.key());
    if (live_.empty()) idle_.notify_all();
  }
  Dispatch();
}

void Frontend::ReleaseId(const LiveRequests& completions) {
  std::lock_guard lock(mutex_);
  for (const auto& completion : completions) admission_.ReleaseId(completion->key());
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
  return idle_.wait_for(lock, timeout, [this] { return live_.empty(); });
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
  std::vector<std::shared_ptr<LiveRequest>> requests;
  std::vector<std::shared_ptr<WorkerLink>> links;
  const size_t retired = retired_.size();
  {
    std::lock_guard lock(mutex_);
    for (const auto& [key, request] : live_) requests.push_back(request);
    for (auto home = homes_.begin(); home != homes_.end();) {
      const WorkerLink& link = *home->second.link;
      const bool used = home->second.fixed || home->second.listed || link.hello();
      (used ? links : retired_).push_back(home->second.link);
      home = used ? std::next(home) : homes_.erase(home);
    }
  }
  for (const auto& link : links) link->Tick(now);
  if (WatchSilence()) Refresh();
  for (size_t i = retired; i < retired_.size(); ++i) {
    LogInfo("worker at %s is no longer in the cluster", retired_[i]->address());
    retired_[i]->Shutdown();
  }
  if (retired_.size() > retired) Refresh();
  std::erase_if(retired_, [](const auto& link) { return link.use_count() == 1; });
  for (const auto& request : requests) request->Tick(now);
}

Admission::Stats Frontend::stats() const {
  std::lock_guard lock(mutex_);
  return admission_.stats();
}

void Frontend::WriteMetrics(MetricsWriter& writer) const {
  std::string name = options_.model_name;
  Admission::Stats stats;
  size_t ready = 0;
  std::map<std::string, WorkerLink::Stats> links;
  {
    std::lock_guard lock(mutex_);
    if (served_ != nullptr) name = served_->name;
    stats = admission_.stats();
    for (const router::WorkerView& view : views_) ready += view.ready;
    for (const auto& [address, home] : homes_) links[address] = home.link->stats();
  }
  metrics_.Write(writer, name);
  writer.Gauge("vllm:num_requests_waiting", "Requests that no worker has yet.",
               {{"model_name", name}, {"engine", "router"}}, stats.preparing + stats.waiting);
  writer.Gauge("conclave_router_live_requests", "Requests not yet finished for their clients.", {},
               stats.requests);
  writer.Gauge("conclave_router_home_requests", "Requests that a worker has.", {}, stats.running);
  writer.Gauge("conclave_router_admitted_tokens",
               "Prompt and most output of requests that wait or run.", {},
               static_cast<double>(stats.tokens));
  writer.Gauge("conclave_router_workers_ready", "Workers that can be given requests.", {},
               static_cast<double>(ready));
  for (const auto& [address, link] : links) {
    writer.Gauge("conclave_router_link_sequences", "On the worker, of this router.",
                 {{"worker", address}}, static_cast<double>(link.sequences));
  }
  for (const auto& [address, link] : links) {
    writer.Counter("conclave_router_link_streams_total", "Streams opened to the worker.",
                   {{"worker", address}}, static_cast<double>(link.streams));
  }
}

}  // namespace conclave::services

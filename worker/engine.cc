#include "worker/engine.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "scheduler/check.h"
#include "worker/device/packed.h"
#include "worker/device/shared_device.h"
#include "worker/engine_impl.h"
#include "worker/status.h"

namespace conclave::worker {

using scheduler::Micros;

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(const Options& options,
                                                       std::shared_ptr<const Model> model,
                                                       std::unique_ptr<Device> device,
                                                       std::unique_ptr<Transport> transport) {
  CONCLAVE_ASSIGN_OR_RETURN(
      auto impl, Impl::Create(options, std::move(model), std::move(device), std::move(transport)));
  if (options.start_thread) impl->StartThread();
  return std::unique_ptr<Engine>(new Engine(std::move(impl)));
}

Engine::Engine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Engine::~Engine() = default;

absl::Status Engine::Submit(std::shared_ptr<Link> link, SequenceRequest request) {
  return impl_->Submit(std::move(link), std::move(request));
}
void Engine::Cancel(const Link* link, uint64_t id) { impl_->Cancel(link, id); }
void Engine::SetPaused(const Link* link, uint64_t id, bool paused) {
  impl_->SetPaused(link, id, paused);
}
void Engine::CloseLink(const Link* link) { impl_->CloseLink(link); }
void Engine::Drain() { impl_->Drain(); }
bool Engine::drained() const { return impl_->drained(); }
bool Engine::WaitDrained(std::chrono::milliseconds timeout) { return impl_->WaitDrained(timeout); }
bool Engine::Step(Micros now) { return impl_->Step(now); }
Engine::Stats Engine::stats() const { return impl_->stats(); }
scheduler::CreditRule::Load Engine::room() const { return impl_->room(); }
void Engine::OnRoom(std::function<void()> callback) { impl_->OnRoom(std::move(callback)); }
std::vector<std::string> Engine::orphans() const { return impl_->orphans(); }
const Engine::Options& Engine::options() const { return impl_->options(); }
const Model& Engine::model() const { return impl_->model(); }
std::string Engine::numerics() const { return impl_->numerics(); }

absl::Status Engine::Prepare(std::shared_ptr<const scheduler::Placement> placement) {
  return impl_->host().Prepare(std::move(placement));
}
absl::Status Engine::PrepareCommitted(std::shared_ptr<const scheduler::Placement> placement) {
  return impl_->host().PrepareCommitted(std::move(placement));
}
absl::Status Engine::Commit(uint64_t plan, scheduler::Epoch epoch) {
  return impl_->CommitPlacement(plan, epoch);
}
void Engine::Abort(uint64_t plan) { impl_->host().Abort(plan); }
void Engine::Release(scheduler::Epoch below) { impl_->host().Release(below); }
void Engine::SetPeers(const std::vector<Peer>& peers) { impl_->host().SetPeers(peers); }
AdapterStore::Lacks Engine::Lacks() const { return impl_->host().Lacks(); }
scheduler::Epoch Engine::adopted() const { return impl_->host().adopted(); }
std::vector<Peer> Engine::LostPeers() const { return impl_->host().Lost(); }
std::vector<std::string> Engine::LatePeers() const { return impl_->host().Late(); }
void Engine::OnNews(std::function<void()> callback) { impl_->host().OnNews(std::move(callback)); }
absl::StatusOr<AdapterCheck> Engine::CheckAdapter(const std::string& source) {
  return impl_->host().CheckAdapter(source);
}
std::vector<std::string> Engine::AdaptersInUse() const { return impl_->AdaptersInUse(); }
ExpertStore& Engine::expert_store() { return impl_->host().store(); }
ExpertHost::Stats Engine::expert_stats() const { return impl_->host().stats(); }
std::vector<scheduler::ExpertId> Engine::OwnedExperts() const { return impl_->host().Owned(); }

FrameLimits FrameLimitsFor(const ModelSpec& spec, int32_t step_tokens, Returns returns) {
  const auto layers = static_cast<uint32_t>(std::count_if(
      spec.layers.begin(), spec.layers.end(), [](const auto& layer) { return layer.moe; }));
  return {.type = spec.activation_type(),
          .layers = layers,
          // Those of adapters too.
          .experts = static_cast<uint32_t>(scheduler::PlacementLimits().experts),
          .dim = static_cast<uint32_t>(spec.dim),
          .rows = static_cast<uint32_t>(step_tokens),
          .routes = static_cast<uint32_t>(step_tokens) * static_cast<uint32_t>(spec.gate.top_k),
          .returns = returns};
}

std::string NumericsOf(const Device& device, const ModelSpec& spec, Returns returns) {
  std::string numerics = device.numerics();
  if (IsPacked(spec.expert_type)) absl::StrAppend(&numerics, "-", NameOfPacked(spec.expert_type));
  if (IsPacked(spec.dense_type))
    absl::StrAppend(&numerics, "-dense-", NameOfPacked(spec.dense_type));
  if (returns == Returns::kSums) numerics += "+sums";
  return numerics;
}

Micros Engine::Now() {
  return std::chrono::duration_cast<Micros>(std::chrono::steady_clock::now().time_since_epoch());
}

int32_t LogitRowsFor(const Engine::Options& options) {
  constexpr int32_t kMost = 256;  // that a product takes through its weights at once
  return std::max(options.logit_rows, std::min(options.planner.max_running, kMost));
}

CpuDeviceOptions CpuDeviceOptionsFor(const ModelSpec& spec, const Engine::Options& options) {
  const AttentionSpec& a = spec.attention;
  CpuDeviceOptions device;
  device.activation_type = spec.activation_type();
  device.max_rows = std::max(options.planner.step_tokens, options.logit_rows);
  device.max_columns =
      std::max({spec.dim, spec.dense_ffn_dim, spec.expert_ffn_dim, spec.shared_ffn_dim,
                a.heads * a.head_dim, a.heads * a.value_dim, a.q_lora_rank});
  return device;
}

absl::StatusOr<std::unique_ptr<Engine::Impl>> Engine::Impl::Create(
    const Options& options, std::shared_ptr<const Model> model, std::unique_ptr<Device> device,
    std::unique_ptr<Transport> transport) {
  if (device->activation_type() != model->spec.activation_type()) {
    return absl::FailedPreconditionError(absl::StrCat("the device computes as ", device->numerics(),
                                                      ", which is not the type of ",
                                                      model->spec.name));
  }
  // The expert thread uses it too.
  if (transport != nullptr) device = std::make_unique<SharedDevice>(std::move(device));
  std::unique_ptr<Impl> impl(new Impl(options, std::move(model), std::move(device)));
  CONCLAVE_RETURN_IF_ERROR(impl->Allocate(std::move(transport)));
  return impl;
}

Engine::Impl::Impl(const Options& options, std::shared_ptr<const Model> model,
                   std::unique_ptr<Device> device)
    : options_(options),
      model_(std::move(model)),
      device_(std::move(device)),
      orphans_(options.orphans) {}

absl::Status Engine::Impl::Allocate(std::unique_ptr<Transport> transport) {
  const ModelSpec& spec = model_->spec;
  context_limit_ = options_.context_limit > 0 ? std::min(options_.context_limit, spec.context_limit)
                                              : spec.context_limit;
  options_.context_limit = context_limit_;
  options_.requests.context_limit = context_limit_;

  scheduler::BatchPlanner::Options& planner = options_.planner;
  if (planner.block_size < 1 || planner.prefill_chunk < 1 || planner.max_running < 1 ||
      planner.max_waiting < 0 || planner.step_tokens < planner.max_running ||
      options_.logit_rows < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "step tokens (", planner.step_tokens, ") must be at least the running sequences (",
        planner.max_running, "), block size, prefill chunk and logit rows at least 1"));
  }
  constexpr int32_t kMaxProposed = scheduler::SpeculationRule::kMaxTokens;
  const int32_t proposed = options_.speculation.tokens;
  if (proposed < 0 || proposed > kMaxProposed || planner.step_proposals < 0 ||
      options_.lookup.ngram < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat(proposed, " tokens cannot be proposed: want 0 to ", kMaxProposed,
                     ", behind at least one that was there before"));
  }
  planner.prefill_chunk = std::min(planner.prefill_chunk, planner.step_tokens);
  const int64_t block_bytes = KvCache::BlockBytes(spec, planner.block_size);
  const int64_t blocks_per_sequence =
      (context_limit_ + planner.block_size - 1) / planner.block_size;
  const int64_t blocks =
      std::min(options_.kv_bytes / block_bytes, blocks_per_sequence * planner.max_running);
  if (blocks < 1 || blocks > (int64_t{1} << 30) / planner.block_size) {
    return absl::InvalidArgumentError(absl::StrCat("a KV pool of ", options_.kv_bytes,
                                                   " bytes holds ", blocks, " blocks of ",
                                                   block_bytes, " bytes; give it at least one"));
  }
  planner.kv_blocks = static_cast<int32_t>(blocks);
  // The engine bounds what it admits; preempted sequences wait beside them and must always find
  // room.
  scheduler::BatchPlanner::Options inner = planner;
  inner.max_waiting = planner.max_waiting + planner.max_running;
  inner.max_waiting_tokens =
      planner.max_waiting_tokens + int64_t{planner.max_running + 1} * context_limit_;
  planner_ = std::make_unique<scheduler::BatchPlanner>(inner);

  CONCLAVE_ASSIGN_OR_RETURN(
      kv_, KvCache::Create(spec, {planner.kv_blocks, planner.block_size}, *device_));
  CONCLAVE_ASSIGN_OR_RETURN(batch_, Batch::Create(spec, planner.step_tokens, planner.max_running,
                                                  options_.logit_rows, *device_));

  if (options_.prefix_reuse) {
    prefix_keys_ = std::make_unique<PrefixKeys>(model_->digest, numerics(), planner.block_size);
  }

  MakeHost(std::move(transport));
  step_expert_tokens_.resize(static_cast<size_t>(moe_layers_ * spec.gate.slots));
  absl::MutexLock lock(&mutex_);
  stats_.expert_tokens.resize(step_expert_tokens_.size());
  stats_.planner = planner_->stats();
  stats_.kv_block_size = planner.block_size;
  stats_.kv_bytes = block_bytes * planner.kv_blocks;
  return absl::OkStatus();
}

void Engine::Impl::MakeHost(std::unique_ptr<Transport> transport) {
  const ModelSpec& spec = model_->spec;
  moe_layers_ = static_cast<int32_t>(std::count_if(spec.layers.begin(), spec.layers.end(),
                                                   [](const auto& layer) { return layer.moe; }));
  experts_ = std::make_unique<ExpertTable>(moe_layers_, spec.gate.slots);
  const FrameLimits limits =
      FrameLimitsFor(spec, options_.planner.step_tokens, options_.experts.returns);
  ExpertHost::Options& host = options_.experts;
  const bool alone = transport == nullptr;
  // A pass is a full step of one home, or small ones of many: a full one gains nothing from
  // company, and its results are most of what the server takes.
  host.server.max_rows = static_cast<int32_t>(limits.rows);
  host.server.max_routes = static_cast<int32_t>(limits.routes);
  host.server.start_thread = !alone;
  host.server.bring = [this](const FfnWeights& expert) { model_->Bring(expert); };
  host.store.placed = host.needs_placement;
  host_ = std::make_unique<ExpertHost>(host, limits, *model_, *device_, std::move(transport));
}

absl::Status Engine::Impl::CommitPlacement(uint64_t plan, scheduler::Epoch epoch) {
  CONCLAVE_RETURN_IF_ERROR(host_->Commit(plan, epoch));
  const std::shared_ptr<const scheduler::Placement> committed = host_->committed();
  absl::MutexLock lock(&mutex_);
  adapters_.clear();
  for (const scheduler::PlacedAdapter& adapter : committed->adapters)
    adapters_.insert(adapter.digest);
  placement_changed_ = true;
  return absl::OkStatus();
}

void Engine::Impl::MakeKeys(LiveSequence& sequence) const {
  if (prefix_keys_ == nullptr) return;
  const scheduler::BlockKey root = prefix_keys_->Root(
      {.adapter = sequence.request.adapter,
       .salt = sequence.request.cache_salt,
       .epoch = options_.experts.returns == Returns::kSums ? host_->adopted() : 0});
  sequence.keys = prefix_keys_->Chain(root, sequence.tokens);
  sequence.last_key = sequence.keys.empty() ? root : sequence.keys.back();
}

absl::Status Engine::Impl::Submit(std::shared_ptr<Link> link, SequenceRequest request) {
  CONCLAVE_RETURN_IF_ERROR(CheckSequenceRequest(request, model_->spec, options_.requests));
  const auto prompt = static_cast<int32_t>(request.prompt.size());
  const auto length = prompt + static_cast<int32_t>(request.generated.size());
  const int32_t positions = prompt + request.max_tokens;
  const scheduler::BatchPlanner::Options& limits = options_.planner;
  if ((int64_t{positions} + limits.block_size - 1) / limits.block_size > limits.kv_blocks) {
    return absl::InvalidArgumentError(absl::StrCat("prompt and max_tokens need ", positions,
                                                   " positions, the KV pool has ",
                                                   int64_t{limits.kv_blocks} * limits.block_size));
  }
  LiveSequence sequence;
  sequence.submitted_by = link.get();
  sequence.link = std::move(link);
  sequence.tokens = std::move(request.prompt);
  sequence.tokens.reserve(static_cast<size_t>(positions));
  sequence.prompt_size = prompt;
  sequence.edits = LogitEdits(request, sequence.tokens);
  for (const scheduler::TokenId token : std::exchange(request.generated, {})) {
    sequence.tokens.push_back(token);
    sequence.edits.Append(token);
  }
  sequence.speculation = scheduler::SpeculationRule(options_.speculation);
  sequence.prompt_told = 1 + request.prompt_logprobs_told;
  sequence.routing_told = request.routing_told;
  if (sequence.prompt_told == prompt) request.prompt_logprobs = false;  // all are told
  sequence.request = std::move(request);
  MakeKeys(sequence);

  if (prompt > limits.max_waiting_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("the prompt has ", prompt,
                                                   " tokens, this worker's queue takes at most ",
                                                   limits.max_waiting_tokens));
  }

  absl::MutexLock lock(&mutex_);
  if (draining_ || stopping_) return absl::UnavailableError("the worker is draining");
  if (ids_.size() >= static_cast<size_t>(limits.max_running + limits.max_waiting)) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the worker has ", ids_.size(), " sequences, its limit"));
  }
  // What has grown beyond the limit elsewhere finds room in an empty queue.
  const int64_t asked = std::min<int64_t>(length, limits.max_waiting_tokens);
  if (stats_.planner.waiting_tokens + arrival_tokens_ + asked > limits.max_waiting_tokens) {
    return absl::ResourceExhaustedError(absl::StrCat("the worker's queue has its limit of ",
                                                     limits.max_waiting_tokens, " prompt tokens"));
  }
  const std::string& adapter = sequence.request.adapter;
  if (!adapter.empty() && !adapters_.contains(adapter))
    return absl::NotFoundError(absl::StrCat("adapter version ", adapter, " is not served here"));
  const LinkKey key{sequence.submitted_by, sequence.request.id};
  if (!ids_.emplace(key, next_id_).second) {
    return absl::AlreadyExistsError(
        absl::StrCat("sequence ", sequence.request.id, " is live on this link"));
  }
  if (!adapter.empty()) ++in_use_[adapter];
  sequence.id = next_id_++;
  arrivals_.push_back(std::move(sequence));
  arrival_tokens_ += length;
  return absl::OkStatus();
}

// The most prompt tokens of one step whose reports stay within their bytes; 0: no reports.
int32_t Engine::Impl::ReportChunk(const SequenceRequest& request) const {
  int64_t token_bytes = 0;
  if (request.prompt_logprobs) {
    token_bytes += static_cast<int64_t>(sizeof(Logprob)) +
                   request.logprobs.value_or(0) * static_cast<int64_t>(sizeof(Logprob::top[0]));
  }
  if (request.routing) {
    token_bytes += int64_t{moe_layers_} * model_->spec.gate.top_k *
                   static_cast<int64_t>(sizeof(uint16_t) + sizeof(float));
  }
  if (token_bytes == 0) return 0;
  const int32_t bytes =
      request.reads_at_once ? options_.report_bytes_at_once : options_.report_bytes;
  return static_cast<int32_t>(std::max<int64_t>(1, bytes / token_bytes));
}

void Engine::Impl::Cancel(const Link* link, uint64_t id) {
  absl::MutexLock lock(&mutex_);
  if (const auto it = ids_.find({link, id}); it != ids_.end()) cancels_.push_back(it->second);
}

void Engine::Impl::SetPaused(const Link* link, uint64_t id, bool paused) {
  absl::MutexLock lock(&mutex_);
  if (const auto it = ids_.find({link, id}); it != ids_.end())
    pauses_.push_back({it->second, paused});
}

void Engine::Impl::CloseLink(const Link* link) {
  absl::MutexLock lock(&mutex_);
  for (const auto& [key, id] : ids_) {
    if (key.first == link) closed_.push_back(id);
  }
}

void Engine::Impl::Drain() {
  absl::MutexLock lock(&mutex_);
  draining_ = true;
  stats_.draining = true;
}

bool Engine::Impl::drained() const {
  absl::MutexLock lock(&mutex_);
  return DrainedLocked();
}

bool Engine::Impl::WaitDrained(std::chrono::milliseconds timeout) {
  absl::MutexLock lock(&mutex_);
  const auto drained = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return DrainedLocked(); };
  return mutex_.AwaitWithTimeout(absl::Condition(&drained), absl::FromChrono(timeout));
}

std::vector<std::string> Engine::Impl::orphans() const {
  absl::MutexLock lock(&mutex_);
  return orphan_names_;
}

scheduler::CreditRule::Load Engine::Impl::room() const {
  const scheduler::BatchPlanner::Options& limits = options_.planner;
  absl::MutexLock lock(&mutex_);
  const scheduler::BatchPlanner::Stats& planner = stats_.planner;
  return {.batch = limits.max_running,
          .limit = limits.max_running + limits.max_waiting,
          .sequences = static_cast<int32_t>(ids_.size()),
          .paused = planner.paused,
          .running = planner.running,
          .blocks = planner.blocks,
          .blocks_used = planner.blocks_used};
}

void Engine::Impl::OnRoom(std::function<void()> callback) {
  absl::MutexLock lock(&mutex_);
  const auto idle = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !publishing_; };
  mutex_.Await(absl::Condition(&idle));
  on_room_ = std::move(callback);
}

Engine::Stats Engine::Impl::stats() const {
  absl::MutexLock lock(&mutex_);
  return stats_;
}

void Engine::Impl::StartThread() {
  thread_ = std::thread([this] { ThreadMain(); });
}

// Steps while there is work; otherwise sleeps until something arrives or the next deadline passes.
void Engine::Impl::ThreadMain() {
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      if (stopping_) return;
    }
    if (Step(Now())) continue;
    std::optional<Micros> deadline = planner_->NextDeadline();
    if (const auto due = orphans_.NextDue(); due && (!deadline || *due < *deadline)) deadline = due;
    absl::MutexLock lock(&mutex_);
    const auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return stopping_ || placement_changed_ || !arrivals_.empty() || !cancels_.empty() ||
             !closed_.empty() || !pauses_.empty();
    };
    if (deadline.has_value()) {
      const int64_t wait_us = std::max<int64_t>(0, (*deadline - Now()).count());
      mutex_.AwaitWithTimeout(absl::Condition(&ready), absl::Microseconds(wait_us));
    } else {
      mutex_.Await(absl::Condition(&ready));
    }
  }
}

Engine::Impl::~Impl() {
  if (host_ == nullptr) return;  // was never whole
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    for (const auto& [key, id] : ids_) cancels_.push_back(id);
  }
  host_->Close();
  if (thread_.joinable()) thread_.join();
  Step(Now());  // the last one: every sequence left ends with CANCELLED
}

}  // namespace conclave::worker

#include "services/worker_node.h"

#include <unistd.h>

#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "router/utf8.h"
#include "services/channel.h"
#include "services/convert_adapters.h"
#include "services/convert_worker.h"
#include "services/exchange_metrics.h"
#include "services/expert_metrics.h"
#include "services/identity.h"
#include "services/layer_digests.h"
#include "services/log.h"
#include "services/worker_metrics.h"
#include "worker/model/mapped_files.h"
#include "worker/model/model.h"
#include "worker/status.h"

namespace conclave::services {
namespace {

std::chrono::milliseconds Until(std::chrono::steady_clock::time_point end) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(end -
                                                               std::chrono::steady_clock::now());
}

// The name goes into messages, whose strings must be UTF-8.
absl::Status CheckName(const worker::Model& model) {
  if (router::IsUtf8(model.spec.name)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat(
      "--model: the directory's name \"%s\" is the model's, and it is not UTF-8: rename it, or "
      "give a link to it",
      absl::CHexEscape(model.spec.name)));
}

void LogIgnored(const worker::MappedFiles& files) {
  constexpr size_t kNamed = 8;
  std::vector<std::string> names = files.ignored();
  if (names.empty()) return;
  if (names.size() > kNamed) {
    const size_t rest = names.size() - kNamed;
    names.resize(kNamed);
    names.push_back(absl::StrFormat("%d more", rest));
  }
  LogInfo("%s: ignored beside the model's own files: %s", files.directory(),
          absl::StrJoin(names, ", "));
}

// What became of the limits that were asked for.
void LogLimits(const worker::Engine::Options& asked, const worker::Engine& engine) {
  const int32_t context_limit = engine.options().context_limit;
  if (asked.context_limit > context_limit) {
    LogWarning("--context-limit is %d, the model's limit is %d: sequences have at most %d tokens",
               asked.context_limit, context_limit, context_limit);
  }
  const worker::Engine::Stats stats = engine.stats();
  LogInfo("the KV pool has %d bytes (--kv-bytes is %d): %d blocks of %d positions", stats.kv_bytes,
          asked.kv_bytes, engine.options().planner.kv_blocks, stats.kv_block_size);
}

class EngineHolder final : public PlacementHolder {
 public:
  explicit EngineHolder(worker::Engine& engine) : engine_(engine) {}

  absl::Status Prepare(std::shared_ptr<const scheduler::Placement> placement) override {
    return Timed(std::move(placement), &worker::Engine::Prepare);
  }
  absl::Status PrepareCommitted(std::shared_ptr<const scheduler::Placement> placement) override {
    return Timed(std::move(placement), &worker::Engine::PrepareCommitted);
  }
  absl::Status Commit(uint64_t plan, scheduler::Epoch epoch) override {
    return engine_.Commit(plan, epoch);
  }
  void Abort(uint64_t plan) override { engine_.Abort(plan); }
  void Release(scheduler::Epoch below) override { engine_.Release(below); }
  void SetPeers(const std::vector<worker::Peer>& peers) override { engine_.SetPeers(peers); }
  scheduler::Epoch adopted() const override { return engine_.adopted(); }
  absl::StatusOr<worker::AdapterCheck> CheckAdapter(const std::string& source) override {
    return engine_.CheckAdapter(source);
  }
  std::map<std::string, std::string> Lacks() const override { return engine_.Lacks(); }
  std::vector<std::string> AdaptersInUse() const override { return engine_.AdaptersInUse(); }

 private:
  using Shared = std::shared_ptr<const scheduler::Placement>;

  absl::Status Timed(Shared placement, absl::Status (worker::Engine::*prepare)(Shared)) {
    const auto began = std::chrono::steady_clock::now();
    const uint64_t plan = placement->plan;
    const size_t before = engine_.expert_stats().store.fetched;
    const absl::Status status = (engine_.*prepare)(std::move(placement));
    const worker::ExpertStore::Stats now = engine_.expert_stats().store;
    if (now.fetched > before) {
      LogInfo("plan %d: %d experts of other workers, %d bytes in sealed memory, after %d ms", plan,
              now.fetched, now.fetched_bytes, -Until(began).count());
    }
    return status;
  }

  worker::Engine& engine_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<WorkerNode>> WorkerNode::Start(const Options& options,
                                                              Heartbeat::OnRefused on_refused) {
  CONCLAVE_RETURN_IF_ERROR(Check(options));
  std::unique_ptr<WorkerNode> node(new WorkerNode(options));
  node->options_.placed |= options.fetch_experts;
  if (node->options_.id.empty()) node->options_.id = DefaultId();
  CONCLAVE_RETURN_IF_ERROR(ValidateId(node->options_.id));
  CONCLAVE_ASSIGN_OR_RETURN(node->failpoints_, Failpoints::Parse(options.failpoints));
  CONCLAVE_ASSIGN_OR_RETURN(node->credentials_, Credentials::Load(options.credentials));
  CONCLAVE_ASSIGN_OR_RETURN(node->options_.service.incarnation, NextIncarnation(options.state));
  CONCLAVE_RETURN_IF_ERROR(node->StartEngine());
  CONCLAVE_RETURN_IF_ERROR(node->StartService());
  CONCLAVE_RETURN_IF_ERROR(node->StartReporting(std::move(on_refused)));
  return node;
}

// What is being fetched ends first: others wait for it.
WorkerNode::~WorkerNode() {
  if (fetcher_) fetcher_->Stop();
}

absl::StatusOr<std::shared_ptr<const worker::Model>> WorkerNode::LoadModel() {
  if (options_.model.empty())
    return absl::InvalidArgumentError("--model: name a checkpoint directory");
  worker::ModelOptions options = {.context_limit = options_.engine.context_limit,
                                  .converted_bytes = options_.converted_bytes,
                                  .hold_experts = !options_.placed};
  CONCLAVE_ASSIGN_OR_RETURN(options.experts_as, ParseWeights("weights", options_.weights));
  CONCLAVE_ASSIGN_OR_RETURN(options.dense_as,
                            ParseWeights("dense-weights", options_.dense_weights));
  if (options_.fetch_experts) {
    if (options_.scheduler.empty())
      return absl::InvalidArgumentError("--fetch-experts: name a --scheduler, who knows of others");
    CONCLAVE_RETURN_IF_ERROR(Address::Parse(options_.scheduler).status());
    options.ask_layers = [this](const std::string& dense) {
      LogInfo("%s lacks experts: waiting for a worker that has them", options_.model);
      return AskLayerDigests(MakeChannel(options_.scheduler, credentials_), options_.id, dense,
                             std::chrono::milliseconds(options_.fetch_wait_ms));
    };
  }
  return worker::Model::Load(options_.model, options);
}

absl::Status WorkerNode::StartEngine() {
  CONCLAVE_ASSIGN_OR_RETURN(options_.engine.experts.returns, ParseReturns(options_.returns));
  CONCLAVE_ASSIGN_OR_RETURN(std::shared_ptr<const worker::Model> model, LoadModel());
  CONCLAVE_RETURN_IF_ERROR(CheckName(*model));
  LogIgnored(*model->files);
  for (const std::string& remark : model->remarks) LogWarning("%s", remark);
  options_.engine.logit_rows = worker::LogitRowsFor(options_.engine);
  worker::CpuDeviceOptions device_options =
      worker::CpuDeviceOptionsFor(model->spec, options_.engine);
  device_options.threads = options_.threads;
  device_options.level = options_.numerics;
  CONCLAVE_ASSIGN_OR_RETURN(std::unique_ptr<worker::Device> device,
                            worker::MakeCpuDevice(device_options));
  worker::Engine::Options engine_options = options_.engine;
  engine_options.experts.id = options_.id;
  engine_options.experts.needs_placement = options_.placed;
  if (model->absent != nullptr) {
    options_.fetch.self = options_.id;
    fetcher_ = std::make_unique<ExpertFetcher>(options_.fetch, credentials_);
    engine_options.experts.store.source = fetcher_.get();
  }
  if (!failpoints_.empty()) {
    engine_options.at = [this](std::string_view point) { failpoints_.Hit(point).IgnoreError(); };
  }
  engine_options.experts.server.gather.longest = scheduler::Micros(options_.gather_us);
  engine_options.experts.exchange.late = std::chrono::microseconds(options_.late_us);
  std::unique_ptr<PeerTransport> transport;
  if (!options_.scheduler.empty()) {
    CONCLAVE_ASSIGN_OR_RETURN(transport, MakeTransport(model->spec, *device));
    transport_ = transport.get();
  }
  CONCLAVE_ASSIGN_OR_RETURN(
      engine_, worker::Engine::Create(engine_options, std::move(model), std::move(device),
                                      std::move(transport)));
  LogLimits(options_.engine, *engine_);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<PeerTransport>> WorkerNode::MakeTransport(
    const worker::ModelSpec& spec, const worker::Device& device) const {
  PeerTransport::Options options;
  options.id = options_.id;
  options.incarnation = options_.service.incarnation;
  const worker::Returns returns = options_.engine.experts.returns;
  options.numerics = worker::NumericsOf(device, spec, returns);
  options.limits = worker::FrameLimitsFor(spec, options_.engine.planner.step_tokens, returns);
  CONCLAVE_ASSIGN_OR_RETURN(options.carrier, ParseCarrier(options_.exchange));
  if (options_.exchange_listen.empty()) {
    CONCLAVE_ASSIGN_OR_RETURN(options.listen, Address::Parse(options_.server.listen));
    options.listen.port = 0;
  } else {
    CONCLAVE_ASSIGN_OR_RETURN(options.listen, Address::Parse(options_.exchange_listen));
  }
  if (!options.listen.loopback() && !credentials_.insecure()) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "--exchange-listen %s: others could connect, and the exchange has no TLS; listen on the "
        "loopback, or say --insecure where only workers can reach it",
        options.listen.ToString()));
  }
  if (credentials_.insecure()) {
    options.authorize = [](const std::string&, bool) { return absl::OkStatus(); };
  }
  options.on_refusal = [](bool passing, const std::string& what) {
    WriteLog(passing ? LogLevel::kInfo : LogLevel::kWarning, what);
  };
  return PeerTransport::Listen(options);
}

absl::Status WorkerNode::StartService() {
  options_.service.worker_id = options_.id;
  service_ = std::make_unique<WorkerService>(options_.service, *engine_, SingleTenant(credentials_),
                                             failpoints_);
  CONCLAVE_ASSIGN_OR_RETURN(server_,
                            Server::Start(options_.server, credentials_,
                                          {{v1::Worker::service_full_name(), service_.get()}}));
  CONCLAVE_ASSIGN_OR_RETURN(address_, AdvertisedAddress(options_.advertise, *server_));
  if (transport_ != nullptr) {
    CONCLAVE_ASSIGN_OR_RETURN(exchange_address_, AdvertisedExchange());
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> WorkerNode::AdvertisedExchange() const {
  CONCLAVE_ASSIGN_OR_RETURN(const Address listens, Address::Parse(transport_->address()));
  if (options_.exchange_advertise.empty()) {
    return listens.As(Address::Parse(address_)->host).ToString();
  }
  CONCLAVE_ASSIGN_OR_RETURN(Address advertised, Address::Parse(options_.exchange_advertise));
  if (advertised.wildcard()) {
    return absl::FailedPreconditionError("--exchange-advertise: name a host others can reach");
  }
  if (advertised.port == 0) advertised.port = listens.port;
  return advertised.ToString();
}

absl::Status WorkerNode::StartMetrics() {
  if (options_.metrics.empty()) return absl::OkStatus();
  CONCLAVE_ASSIGN_OR_RETURN(metrics_, Metrics::Start(options_.metrics, credentials_.insecure()));
  metrics_address_ = metrics_->address().As(Address::Parse(address_)->host).ToString();
  return absl::OkStatus();
}

absl::Status WorkerNode::StartReporting(Heartbeat::OnRefused on_refused) {
  holder_ = std::make_unique<EngineHolder>(*engine_);
  follower_ = std::make_unique<PlacementFollower>(options_.id, *holder_);
  checker_ = std::make_unique<AdapterChecker>(
      [this](const std::string& source) { return holder_->CheckAdapter(source); });
  CONCLAVE_RETURN_IF_ERROR(StartMetrics());
  if (!options_.scheduler.empty()) {
    CONCLAVE_RETURN_IF_ERROR(Address::Parse(options_.scheduler).status());
    const std::shared_ptr<grpc::Channel> scheduler = MakeChannel(options_.scheduler, credentials_);
    heartbeat_ = std::make_shared<Heartbeat>(
        options_.heartbeat, scheduler, [this] { return Beat(); }, std::move(on_refused),
        failpoints_);
    const auto beat_soon = [weak = std::weak_ptr(heartbeat_)] {
      if (const auto heartbeat = weak.lock()) heartbeat->BeatSoon();
    };
    engine_->OnNews(beat_soon);
    checker_->Start(beat_soon);
    inbox_ = std::make_unique<ViewInbox>(
        ViewInbox::Options(), [this](const v1::ClusterView& view) { return Follow(view); });
    watch_ =
        std::make_unique<ClusterWatch>(ClusterWatch::Options{.watcher = options_.id}, scheduler,
                                       [this](const v1::ClusterView& view) { Hear(view); });
  }
  if (metrics_) {
    metrics_->AddSource([this](MetricsWriter& writer) {
      WriteWorkerMetrics(*engine_, service_->stats(), writer);
      WriteExchangeMetrics(*engine_, transport_, writer);
      WriteExpertMetrics(engine_->expert_stats().store, fetcher_.get(), service_->stats().experts,
                         writer);
      WriteAdapterMetrics(engine_->expert_stats().adapters, engine_->stats(), writer);
      if (heartbeat_)
        WriteClusterMetrics(heartbeat_->stats(), watch_->connected(), epoch(), writer);
    });
  }
  return absl::OkStatus();
}

void WorkerNode::Hear(const v1::ClusterView& view) {
  if (fetcher_) fetcher_->SetView(view);
  checker_->Follow(view);
  inbox_->Put(view);
}

bool WorkerNode::Follow(const v1::ClusterView& view) {
  if (fetcher_) fetcher_->FetchFor(view);
  if (follower_->Follow(view)) heartbeat_->BeatSoon();  // the scheduler waits for all to prepare
  return follower_->current();
}

v1::HeartbeatRequest WorkerNode::Beat() const {
  v1::HeartbeatRequest beat;
  *beat.mutable_worker() = Describe();
  *beat.mutable_placement() = follower_->Report();
  beat.set_view(
      follower_->followed());  // before what is in use: it is of that view, or a later one
  for (std::string& digest : holder_->AdaptersInUse()) beat.add_in_use(std::move(digest));
  AddLacks(holder_->Lacks(), beat);
  if (auto checked = checker_->Report()) *beat.mutable_checked() = *std::move(checked);
  for (const worker::Peer& peer : engine_->LostPeers()) {
    v1::LostPeer& lost = *beat.add_lost();
    lost.set_id(peer.id);
    lost.set_incarnation(peer.incarnation);
  }
  return beat;
}

v1::WorkerInfo WorkerNode::Describe() const {
  v1::WorkerInfo info;
  info.set_id(options_.id);
  info.set_incarnation(options_.service.incarnation);
  info.set_address(address_);
  info.set_state(draining_ ? v1::WORKER_STATE_DRAINING : v1::WORKER_STATE_READY);
  info.set_pid(getpid());
  info.set_metrics_address(metrics_address());
  info.set_exchange_address(exchange_address_);
  info.set_placed(options_.placed);
  if (transport_ != nullptr) info.set_exchange(options_.exchange);
  info.set_step_tokens(static_cast<uint32_t>(engine_->options().planner.step_tokens));
  *info.mutable_model() = ToProto(*engine_);
  *info.mutable_load() = ToProto(engine_->stats());
  if (!options_.placed || epoch() > 0)
    info.set_experts(static_cast<uint32_t>(engine_->OwnedExperts().size()));
  info.set_epoch(epoch());
  return info;
}

absl::Status WorkerNode::Drain(std::chrono::milliseconds bound) {
  const auto end = std::chrono::steady_clock::now() + bound;
  server_->SetServing(false);
  draining_ = true;
  if (heartbeat_) heartbeat_->BeatSoon();
  // Routers hear of it without the scheduler.
  if (!service_->TakeLeftovers(end)) {
    return absl::DeadlineExceededError(absl::StrFormat(
        "routers still had requests for this worker alone after %d ms", bound.count()));
  }
  engine_->Drain();
  service_->Step();
  if (!engine_->WaitDrained(Until(end))) {
    const scheduler::BatchPlanner::Stats left = engine_->stats().planner;
    return absl::DeadlineExceededError(absl::StrFormat("%d sequences were left after %d ms",
                                                       left.running + left.waiting, bound.count()));
  }
  service_->CloseLinks();
  if (!service_->WaitClosed(Until(end))) {
    return absl::DeadlineExceededError(absl::StrFormat(
        "%d routers had not read everything after %d ms", service_->stats().links, bound.count()));
  }
  return absl::OkStatus();
}

}  // namespace conclave::services

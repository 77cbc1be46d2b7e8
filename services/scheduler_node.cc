#include "services/scheduler_node.h"

#include <unistd.h>

#include <utility>

#include "absl/strings/str_format.h"
#include "services/convert_placement.h"
#include "services/state_store.h"
#include "worker/status.h"

namespace conclave::services {
namespace {

void WriteMetrics(const ClusterService::Stats& stats, MetricsWriter& writer) {
  for (const auto& [state, count] : stats.workers) {
    writer.Gauge("conclave_workers", "Workers known, by state.", {{"state", state}}, count);
  }
  for (const auto& [state, count] : stats.routers) {
    writer.Gauge("conclave_routers", "Routers known, by state.", {{"state", state}}, count);
  }
  writer.Gauge("conclave_epoch", "Number of the placement.", {}, static_cast<double>(stats.epoch));
  writer.Gauge("conclave_epoch_released", "Frames of epochs below are refused.", {},
               static_cast<double>(stats.released));
  using Phase = scheduler::PlacementChange::Phase;
  for (const Phase phase : {Phase::kNone, Phase::kStable, Phase::kPrepared, Phase::kCommitted}) {
    writer.Gauge("conclave_placement_phase", "1 for where the change of the placement is.",
                 {{"phase", NameOf(phase)}}, phase == stats.phase ? 1 : 0);
  }
  writer.Gauge("conclave_view_version", "Version of the view of the cluster.", {},
               static_cast<double>(stats.version));
  writer.Gauge("conclave_watchers", "Processes that watch the view.", {}, stats.watchers);
  const auto counter = [&](const char* name, const char* help, uint64_t value) {
    writer.Counter(name, help, {}, static_cast<double>(value));
  };
  counter("conclave_plans_total", "Changes of the placement begun.", stats.placement.proposed);
  counter("conclave_plans_committed_total", "Of those, committed.", stats.placement.committed);
  counter("conclave_plans_aborted_total", "Of those, taken back.", stats.placement.aborted);
  counter("conclave_emergency_epochs_total", "Placements that a worker's death made necessary.",
          stats.placement.emergencies);
  counter("conclave_epochs_released_late_total",
          "Epochs released though a worker had not left them in time.",
          stats.placement.released_late);
  const scheduler::AdapterCatalogue::Stats& adapters = stats.adapters;
  const auto by_state = [&](const char* state, int32_t count) {
    writer.Gauge("conclave_adapters", "Adapters by name and version, by state.", {{"state", state}},
                 count);
  };
  by_state("active", stats.adapters_active);
  by_state("draining", stats.adapters_draining);
  writer.Gauge("conclave_adapter_bytes", "Of the experts of all versions of adapters, a copy each.",
               {}, static_cast<double>(stats.adapter_bytes));
  writer.Gauge("conclave_adapter_versions_on_disk",
               "Versions for which there is no memory, or that are about to leave it.", {},
               stats.adapters_on_disk);
  counter("conclave_adapter_versions_to_memory_total",
          "Times that a version on disk was brought back for a request.", adapters.to_memory);
  counter("conclave_adapter_versions_to_disk_total",
          "Times that a version had to leave memory for others.", adapters.to_disk);
  counter("conclave_adapter_versions_lacked_total",
          "Times that a version had to leave memory because a worker could not read its experts.",
          adapters.lacked);
  writer.Gauge("conclave_adapter_operations", "Operations on adapters that are open.", {},
               stats.adapter_operations);
  const auto by_outcome = [&](const char* outcome, uint64_t value) {
    writer.Counter("conclave_adapter_operations_total", "Operations on adapters, by their end.",
                   {{"outcome", outcome}}, static_cast<double>(value));
  };
  by_outcome("added", adapters.added);
  by_outcome("replaced", adapters.replaced);
  by_outcome("unchanged", adapters.unchanged);
  by_outcome("removed", adapters.removed);
  by_outcome("failed", adapters.failed);
  counter("conclave_adapter_bytes_freed_total", "Bytes of versions that nobody uses any more.",
          adapters.bytes_freed);
  counter("conclave_worker_deaths_total", "Workers given up that were not draining.",
          stats.changes.deaths);
  counter("conclave_worker_restarts_total", "Workers heard as another process than before.",
          stats.changes.restarts);
  counter("conclave_heartbeats_total", "Heartbeats heard.", stats.heartbeats);
  counter("conclave_heartbeats_refused_total", "Heartbeats refused.", stats.heartbeats_refused);
  counter("conclave_state_saves_total", "Times the state was written.", stats.saves);
  counter("conclave_state_saves_failed_total", "Times it could not be.", stats.saves_failed);
}

absl::StatusOr<ClusterService::Options> ServiceOptions(const SchedulerNode::Options& options) {
  ClusterService::Options service = options.service;
  service.placement.change.prepare_timeout = std::chrono::milliseconds(options.prepare_ms);
  service.adapters.rotation.turn = std::chrono::milliseconds(options.adapter_turn_ms);
  if (options.placement.empty()) return service;
  CONCLAVE_ASSIGN_OR_RETURN(Plan plan, ReadPlan(options.placement));
  int32_t& workers = service.placement.workers;
  if (workers != 0 && workers != plan.workers) {
    return absl::InvalidArgumentError(
        absl::StrFormat("--placement: \"%s\" is for %d workers, --workers is %d", options.placement,
                        plan.workers, workers));
  }
  workers = plan.workers;
  service.placement.first = std::move(plan);
  return service;
}

}  // namespace

void SchedulerNode::AddFlags(Flags& flags, Options& options) {
  flags.Add({"listen", &options.server.listen, "HOST:PORT",
             "where workers and routers connect; port 0: any free one"});
  flags.Add({"advertise", &options.advertise, "HOST:PORT",
             "address told to others, if not the one listened on"});
  flags.Add({"state", &options.state, "DIR", "where membership and epoch are kept"});
  flags.Add({"metrics", &options.metrics, "HOST:PORT", "where Prometheus scrapes; empty: nowhere"});
  flags.Add({"max-workers", &options.service.membership.max_workers, "N",
             "workers known, the dead included", 1, 1e6});
  flags.Add({"max-routers", &options.service.routers.max_routers, "N",
             "routers listed, the dead included", 1, 1e6});
  flags.Add(
      {"workers", &options.service.placement.workers, "N",
       "wait for so many workers, then spread the experts over them; 0: every worker computes "
       "all experts",
       0, 1024});
  flags.Add({"placement", &options.placement, "PLAN.json",
             "spread them as this plan says; worker i of it is the i-th by name"});
  flags.Add({"prepare-ms", &options.prepare_ms, "MS",
             "for workers to get ready for a placement, fetching experts included, before it is "
             "taken back",
             1, 8.64e7});
  scheduler::AdapterRotation::Options& rotation = options.service.adapters.rotation;
  flags.Add({"adapter-bytes", &rotation.bytes, "BYTES",
             "that experts of adapters may take on each worker; those used least are then on disk "
             "until they are asked for; 0: any number",
             0, 1e15});
  flags.Add({"adapter-turn-ms", &options.adapter_turn_ms, "MS",
             "that an adapter stays in memory at least while others wait for it", 100, 8.64e7});
  flags.Add({"max-watchers", &options.service.max_watchers, "N", "processes that watch the view", 1,
             1e6});
  flags.Add({"unsafe-failpoints", &options.failpoints, "POINT=ACTION",
             "for tests: kill[@N], stop[@N], delay:MS[@N] or error[@N] at a named point"});
  Credentials::AddFlags(flags, options.credentials);
}

absl::StatusOr<std::unique_ptr<SchedulerNode>> SchedulerNode::Start(const Options& options) {
  if (options.state.empty())
    return absl::InvalidArgumentError("--state: name a directory for the durable state");
  CONCLAVE_ASSIGN_OR_RETURN(const ClusterService::Options service, ServiceOptions(options));
  std::unique_ptr<SchedulerNode> node(new SchedulerNode());
  CONCLAVE_ASSIGN_OR_RETURN(node->failpoints_, Failpoints::Parse(options.failpoints));
  CONCLAVE_ASSIGN_OR_RETURN(node->credentials_, Credentials::Load(options.credentials));
  CONCLAVE_ASSIGN_OR_RETURN(std::unique_ptr<StateStore> store, StateStore::Open(options.state));
  CONCLAVE_ASSIGN_OR_RETURN(
      node->service_,
      ClusterService::Create(service, std::move(store), SingleTenant(node->credentials_),
                             node->failpoints_, ClusterService::Now()));
  CONCLAVE_ASSIGN_OR_RETURN(
      node->server_, Server::Start(options.server, node->credentials_,
                                   {{v1::Cluster::service_full_name(), node->service_.get()}}));
  CONCLAVE_ASSIGN_OR_RETURN(node->address_, AdvertisedAddress(options.advertise, *node->server_));
  CONCLAVE_RETURN_IF_ERROR(node->StartMetrics(options));
  v1::SchedulerStatus self;
  self.set_pid(getpid());
  self.set_address(node->address_);
  self.set_metrics_address(node->metrics_address_);
  node->service_->SetSelf(self);
  return node;
}

absl::Status SchedulerNode::StartMetrics(const Options& options) {
  if (options.metrics.empty()) return absl::OkStatus();
  CONCLAVE_ASSIGN_OR_RETURN(metrics_, Metrics::Start(options.metrics, credentials_.insecure()));
  metrics_address_ = metrics_->address().As(Address::Parse(address_)->host).ToString();
  metrics_->AddSource([this](MetricsWriter& writer) { WriteMetrics(service_->stats(), writer); });
  return absl::OkStatus();
}

absl::Status SchedulerNode::Drain(std::chrono::milliseconds bound) {
  server_->SetServing(false);
  service_->CloseWatches();
  server_->Shutdown(bound);
  return absl::OkStatus();
}

}  // namespace conclave::services

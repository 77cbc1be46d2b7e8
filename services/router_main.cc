// conclave-router: the front door. Wiring only.

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "services/authorize.h"
#include "services/channel.h"
#include "services/cluster_watch.h"
#include "services/flags.h"
#include "services/frontend.h"
#include "services/inference_service.h"
#include "services/log.h"
#include "services/metrics.h"
#include "services/router_cluster_service.h"
#include "services/server.h"
#include "services/shutdown.h"
#include "worker/status.h"

namespace conclave::services {
namespace {

struct RouterOptions {
  std::string listen = "127.0.0.1:0";
  std::string advertise;
  std::string metrics = "127.0.0.1:0";
  std::string scheduler;
  std::vector<std::string> workers;
  std::string tokenizer;
  int64_t drain_ms = 30'000;
  int64_t stall_ms = 30'000;
  Frontend::Options frontend;
  Credentials::Options credentials;
};

void AddFlags(Flags& flags, RouterOptions& options) {
  router::RequestLimits& limits = options.frontend.limits;
  router::Admission::Options& admission = options.frontend.admission;
  flags.Add(
      {"listen", &options.listen, "HOST:PORT", "where clients call; port 0 takes any free one"});
  flags.Add({"advertise", &options.advertise, "HOST:PORT",
             "what to tell others; default: where it listens"});
  flags.Add({"metrics", &options.metrics, "HOST:PORT", "where Prometheus reads /metrics"});
  flags.Add({"scheduler", &options.scheduler, "HOST:PORT", "the scheduler that knows the workers"});
  flags.Add(
      {"worker", &options.workers, "HOST:PORT", "a worker to use besides those; may be repeated"});
  flags.Add({"tokenizer", &options.tokenizer, "DIR", "model directory with tokenizer.json"});
  flags.Add({"model-name", &options.frontend.model_name, "NAME",
             "what clients call the model; default: as its workers do"});
  flags.Add({"drain", &options.drain_ms, "ms", "how long running requests may take after SIGTERM",
             0, 86'400'000});
  flags.Add(
      {"stall", &options.stall_ms, "ms", "how long a client may read nothing", 1, 86'400'000});
  flags.Add({"pending-bytes", &options.frontend.request.pending_bytes_pause, "bytes",
             "what may wait for a slow client before its sequence is paused", 1, 1 << 30});
  flags.Add({"max-requests", &admission.max_requests, "requests", "live at once", 1, 1 << 20});
  flags.Add(
      {"max-waiting", &admission.max_waiting, "requests", "waiting for a worker", 1, 1 << 20});
  flags.Add({"max-total-tokens", &admission.max_tokens, "tokens",
             "prompt + max_tokens of all that wait or run", 1, 1e15});
  flags.Add({"worker-requests", &admission.home.requests, "requests", "given to one worker at once",
             1, 1 << 20});
  flags.Add(
      {"worker-tokens", &admission.home.tokens, "tokens", "prompt + max_tokens of those", 1, 1e15});
  flags.Add({"max-prompt-bytes", &limits.prompt_bytes, "bytes", "of a prompt's text", 1, 1 << 30});
  flags.Add({"max-prompt-tokens", &limits.prompt_tokens, "tokens",
             "of a prompt, if the context allows", 1, 1 << 30});
  flags.Add({"max-tokens", &limits.max_tokens, "tokens", "a request may ask for", 1, 1 << 30});
  flags.Add({"default-max-tokens", &limits.default_max_tokens, "tokens",
             "of a request that names none", 1, 1 << 30});
  flags.Add({"tokenize-threads", &options.frontend.tokenize_threads, "threads", "for long prompts",
             1, 256});
  flags.Add({"tokenize-queue", &options.frontend.tokenize_queue, "prompts",
             "waiting for those threads", 1, 1 << 20});
  Credentials::AddFlags(flags, options.credentials);
}

absl::StatusOr<std::shared_ptr<const router::Tokenizer>> LoadTokenizer(
    const std::string& directory) {
  if (directory.empty())
    return absl::InvalidArgumentError("--tokenizer: name the model's directory");
  std::string error;
  std::optional<router::Tokenizer> tokenizer = router::Tokenizer::LoadDirectory(directory, &error);
  if (!tokenizer)
    return absl::InvalidArgumentError(absl::StrFormat("--tokenizer %s: %s", directory, error));
  return std::make_shared<const router::Tokenizer>(*std::move(tokenizer));
}

absl::Status Serve(RouterOptions options) {
  Shutdown shutdown;
  options.frontend.request.stall = std::chrono::milliseconds(options.stall_ms);
  CONCLAVE_ASSIGN_OR_RETURN(const Credentials credentials, Credentials::Load(options.credentials));
  CONCLAVE_ASSIGN_OR_RETURN(const auto tokenizer, LoadTokenizer(options.tokenizer));
  if (options.scheduler.empty() && options.workers.empty()) {
    return absl::InvalidArgumentError("name a --scheduler, or at least one --worker");
  }
  std::shared_ptr<grpc::Channel> scheduler;
  if (!options.scheduler.empty()) scheduler = MakeChannel(options.scheduler, credentials);

  Frontend frontend(options.frontend, tokenizer, credentials);
  InferenceService inference(frontend, SingleTenant(credentials));
  RouterClusterService cluster({}, frontend, scheduler, SingleTenant(credentials));
  CONCLAVE_ASSIGN_OR_RETURN(const auto metrics,
                            Metrics::Start(options.metrics, options.credentials.insecure));
  metrics->AddSource([&](MetricsWriter& writer) { frontend.WriteMetrics(writer); });
  const Server::Options server_options = {
      .listen = options.listen,
      .streams_per_connection = 2 * options.frontend.admission.max_requests,
      .serving = false};
  CONCLAVE_ASSIGN_OR_RETURN(const auto server,
                            Server::Start(server_options, credentials,
                                          {{v1::Inference::service_full_name(), &inference},
                                           {v1::Cluster::service_full_name(), &cluster}}));
  CONCLAVE_ASSIGN_OR_RETURN(const std::string address,
                            AdvertisedAddress(options.advertise, *server));
  cluster.SetAddresses(address, metrics->address().ToString());
  frontend.OnReady([&](bool ready) { server->SetServing(ready); });
  for (const std::string& worker : options.workers) frontend.AddWorker(worker);
  std::unique_ptr<ClusterWatch> watch;
  if (scheduler != nullptr) {
    watch = std::make_unique<ClusterWatch>(
        ClusterWatch::Options{.watcher = address}, scheduler,
        [&](const v1::ClusterView& view) { frontend.SetView(view); });
  }
  std::printf("listening grpc=%s metrics=%s\n", server->address().ToString().c_str(),
              metrics->address().ToString().c_str());
  std::fflush(stdout);

  shutdown.Wait();
  LogInfo("draining: %d requests live", frontend.stats().requests);
  frontend.Drain();
  const bool idle = frontend.WaitIdle(std::chrono::milliseconds(options.drain_ms));
  if (!idle)
    LogWarning("the drain's time is over: %d requests are cut off", frontend.stats().requests);
  watch.reset();
  frontend.OnReady({});
  server->Shutdown(std::chrono::milliseconds(idle ? 1000 : 0));
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  RouterOptions options;
  Flags flags("conclave-router",
              "Takes clients' requests and serves them from the cluster's workers.");
  AddFlags(flags, options);
  if (const std::optional<int> code = flags.ParseOrExit(argc, argv)) return *code;
  StartLog("router", LogLevel::kInfo);
  CaptureGrpcLog();
  if (const absl::Status status = Serve(std::move(options)); !status.ok()) {
    LogError("%s", std::string(status.message()));
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace conclave::services

int main(int argc, char** argv) { return conclave::services::Main(argc, argv); }

#include "services/router_node.h"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "router/chat/chat_templates.h"
#include "services/authorize.h"
#include "services/channel.h"
#include "services/log.h"
#include "worker/status.h"

namespace conclave::services {
namespace {

constexpr std::chrono::milliseconds kLastWords{2000};
// For clients that ask again at once to be held, and then for connections to hear that they close.
constexpr std::chrono::milliseconds kFarewell{20};

constexpr int32_t kMostWeight = 1000;
constexpr size_t kMostWeights = 1024;

using MaybeTokenizer = std::shared_ptr<const router::Tokenizer>;

// Null if the model's directory has none.
absl::StatusOr<MaybeTokenizer> LoadTokenizer(const RouterNode::Options& options) {
  const std::string& directory = options.tokenizer.empty() ? options.model : options.tokenizer;
  if (directory.empty())
    return absl::InvalidArgumentError("--model: name the checkpoint directory");
  std::error_code failure;  // and a link that leads nowhere: the tokenizer will say so
  const auto there = std::filesystem::symlink_status(directory + "/tokenizer.json", failure);
  if (options.tokenizer.empty() && there.type() == std::filesystem::file_type::not_found) {
    LogWarning("%s has no tokenizer.json: only requests of token ids are served", directory);
    return MaybeTokenizer();
  }
  std::string error;
  std::optional<router::Tokenizer> tokenizer = router::Tokenizer::LoadDirectory(directory, &error);
  if (!tokenizer) return absl::InvalidArgumentError(absl::StrFormat("%s: %s", directory, error));
  return std::make_shared<const router::Tokenizer>(*std::move(tokenizer));
}

// Null without a tokenizer. A template that cannot be used is no error: Chat will say so.
Frontend::Templates LoadTemplates(const RouterNode::Options& options,
                                  const MaybeTokenizer& tokenizer) {
  using router::chat::ChatTemplates;
  if (tokenizer == nullptr) return nullptr;
  const router::chat::ChatLimits limits;
  const std::string& directory = options.tokenizer.empty() ? options.model : options.tokenizer;
  const auto templates = std::make_shared<const ChatTemplates>(
      ChatTemplates::Read(directory, limits), *tokenizer, limits);
  if (const auto problem = templates->Problem("", false)) LogInfo("no chat: %s", *problem);
  return templates;
}

// Of NAME=WEIGHT each, and the base model's.
absl::StatusOr<std::vector<router::FairQueue::Weight>> ReadWeights(
    const RouterNode::Options& options) {
  std::vector<router::FairQueue::Weight> weights = {{.lane = "", .weight = options.base_weight}};
  if (options.adapter_weights.size() > kMostWeights) {
    return absl::InvalidArgumentError(
        absl::StrFormat("--adapter-weight: %d of them, the limit is %d",
                        options.adapter_weights.size(), kMostWeights));
  }
  for (const std::string& line : options.adapter_weights) {
    const size_t equals = line.rfind('=');
    int32_t weight = 0;
    const bool read =
        equals != line.npos && equals > 0 && absl::SimpleAtoi(line.substr(equals + 1), &weight);
    if (!read || weight < 1 || weight > kMostWeight) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "--adapter-weight: \"%s\": want NAME=WEIGHT, 1 to %d", line, kMostWeight));
    }
    weights.push_back({.lane = line.substr(0, equals), .weight = weight});
  }
  return weights;
}

}  // namespace

void RouterNode::AddFlags(Flags& flags, Options& options) {
  flags.Add({"model", &options.model, "DIR", "checkpoint that is served, for its tokenizer.json"});
  flags.Add({"tokenizer", &options.tokenizer, "DIR", "directory of another tokenizer.json"});
  flags.Add({"listen", &options.server.listen, "HOST:PORT",
             "where clients connect; port 0: any free one"});
  flags.Add({"advertise", &options.advertise, "HOST:PORT",
             "address told to others, if not the one listened on"});
  flags.Add({"scheduler", &options.scheduler, "HOST:PORT",
             "scheduler that knows the workers; empty: none"});
  flags.Add({"worker", &options.workers, "HOST:PORT", "a worker besides those; may be repeated"});
  flags.Add({"metrics", &options.metrics, "HOST:PORT", "where Prometheus scrapes; empty: nowhere"});
  flags.Add({"model-name", &options.frontend.homes.model_name, "NAME",
             "what clients call the model; empty: as workers do"});
  flags.Add({"stall-ms", &options.stall_ms, "MS", "longest time a client may read nothing", 1,
             86'400'000});
  flags.Add({"pending-bytes", &options.frontend.request.pending_bytes_pause, "BYTES",
             "what may wait for a client before its sequence is paused", 1, 1 << 30});

  router::Admission::Options& admission = options.frontend.admission;
  flags.Add({"max-requests", &admission.max_requests, "N", "requests at once", 1, 1 << 20});
  flags.Add({"max-waiting", &admission.max_waiting, "N", "of those, without a worker", 1, 1 << 20});
  flags.Add({"max-total-tokens", &admission.max_tokens, "N",
             "prompt and most output of all requests", 1, 1e15});
  flags.Add({"worker-requests", &admission.home.requests, "N", "requests on one worker at once", 1,
             1 << 20});
  flags.Add(
      {"worker-tokens", &admission.home.tokens, "N", "prompt and most output of those", 1, 1e15});

  flags.Add({"max-waiting-each", &admission.max_waiting_each, "N",
             "of those that wait, of one adapter", 1, 1 << 20});
  flags.Add({"kept-percent", &admission.kept_percent, "N",
             "of a worker's places, for adapters that have no more than their share", 0, 90});
  flags.Add({"quantum", &admission.fair.quantum, "TOKENS",
             "that an adapter may be served in a round, times its weight", 1, 1 << 20});
  flags.Add({"adapter-weight", &options.adapter_weights, "NAME=WEIGHT",
             "share of an adapter where several want more than there is, 1 to 1000, else 1; may be "
             "repeated"});
  flags.Add({"base-weight", &options.base_weight, "WEIGHT", "of the base model", 1, kMostWeight});
  flags.Add({"alias", &options.adapters.aliases, "NAME=ADAPTER",
             "another name for an adapter, or for ADAPTER@DIGEST; may be repeated"});
  flags.Add({"default-adapter", &options.adapters.defaults, "TENANT=NAME",
             "for a tenant's requests that name no model and no adapter; may be repeated"});

  flags.Add({"adapter-wait-ms", &options.adapter_wait_ms, "MS",
             "that a request may wait for an adapter on disk to get a place in memory", 1, 8.64e7});
  flags.Add({"auto-tokens", &options.frontend.auto_adapter.tokens, "N",
             "of a prompt that the base model reads to choose its adapter, at most", 1, 4096});
  flags.Add({"auto-margin", &options.frontend.auto_adapter.least_margin, "SHARE",
             "of the gate's weight that the best adapter must be ahead by, to be chosen", 0, 1});

  router::RequestLimits& limits = options.frontend.limits;
  flags.Add({"max-prompt-bytes", &limits.prompt_bytes, "BYTES", "of a prompt's text", 1, 1 << 30});
  flags.Add({"max-prompt-tokens", &limits.prompt_tokens, "N", "of a prompt, if the context allows",
             1, 1 << 30});
  flags.Add({"max-tokens", &limits.max_tokens, "N", "that a request may ask for", 1, 1 << 30});
  flags.Add({"max-completions", &limits.completions, "N", "of one request", 1, 1024});
  flags.Add({"default-max-tokens", &limits.default_max_tokens, "N", "of a request that names none",
             1, 1 << 30});
  flags.Add({"tokenize-threads", &options.frontend.codec.threads, "N", "for long prompts", 1, 256});
  flags.Add({"tokenize-queue", &options.frontend.codec.queue, "N", "prompts that wait for them", 1,
             1 << 20});
  flags.Add({"incoming-bytes", &options.server.incoming_bytes, "BYTES",
             "of messages that are not whole, of all clients", 1 << 20, 1e15});
  Credentials::AddFlags(flags, options.credentials);
}

absl::StatusOr<std::unique_ptr<RouterNode>> RouterNode::Start(const Options& options) {
  std::unique_ptr<RouterNode> node(new RouterNode(options));
  CONCLAVE_ASSIGN_OR_RETURN(node->credentials_, Credentials::Load(options.credentials));
  CONCLAVE_RETURN_IF_ERROR(node->StartFrontend());
  CONCLAVE_RETURN_IF_ERROR(node->StartServer());
  node->StartReporting();
  return node;
}

absl::Status RouterNode::StartFrontend() {
  if (options_.scheduler.empty() && options_.workers.empty()) {
    return absl::InvalidArgumentError("name a --scheduler, or at least one --worker");
  }
  if (!options_.scheduler.empty()) {
    CONCLAVE_RETURN_IF_ERROR(Address::Parse(options_.scheduler).status());
    scheduler_ = MakeChannel(options_.scheduler, credentials_);
  }
  for (const std::string& worker : options_.workers)
    CONCLAVE_RETURN_IF_ERROR(Address::Parse(worker).status());
  CONCLAVE_ASSIGN_OR_RETURN(MaybeTokenizer tokenizer, LoadTokenizer(options_));
  options_.frontend.request.stall = std::chrono::milliseconds(options_.stall_ms);
  options_.frontend.adapter_wait = std::chrono::milliseconds(options_.adapter_wait_ms);
  CONCLAVE_ASSIGN_OR_RETURN(options_.frontend.admission.fair.weights, ReadWeights(options_));
  std::string error;
  std::optional<router::AdapterNames> adapters =
      router::AdapterNames::Create(options_.adapters, &error);
  if (!adapters) return absl::InvalidArgumentError("--alias or --default-adapter: " + error);
  Frontend::Templates templates = LoadTemplates(options_, tokenizer);
  frontend_ = std::make_unique<Frontend>(options_.frontend, std::move(tokenizer), credentials_,
                                         std::move(templates), *std::move(adapters));
  return absl::OkStatus();
}

absl::Status RouterNode::StartServer() {
  const Authorize authorize = SingleTenant(credentials_);
  inference_ = std::make_unique<InferenceService>(*frontend_, authorize);
  cluster_ = std::make_unique<RouterClusterService>(RouterClusterService::Options{}, *frontend_,
                                                    scheduler_, authorize);
  if (!options_.metrics.empty()) {
    CONCLAVE_ASSIGN_OR_RETURN(metrics_, Metrics::Start(options_.metrics, credentials_.insecure()));
    metrics_->AddSource([this](MetricsWriter& writer) { frontend_->WriteMetrics(writer); });
  }
  options_.server.serving = false;
  options_.server.receive_bytes = static_cast<int32_t>(
      std::min<int64_t>(router::MessageBytes(options_.frontend.limits), INT32_MAX));
  // A client over its connection's limit of streams would wait for one to end instead of being
  // refused.
  options_.server.streams_per_connection = 2 * options_.frontend.admission.max_requests;
  CONCLAVE_ASSIGN_OR_RETURN(server_,
                            Server::Start(options_.server, credentials_,
                                          {{v1::Inference::service_full_name(), inference_.get()},
                                           {v1::Cluster::service_full_name(), cluster_.get()}}));
  CONCLAVE_ASSIGN_OR_RETURN(address_, AdvertisedAddress(options_.advertise, *server_));
  if (metrics_ != nullptr) {
    metrics_address_ = metrics_->address().As(Address::Parse(address_)->host).ToString();
  }
  cluster_->SetAddresses(address_, metrics_address_);
  frontend_->OnReady([this](bool ready) { server_->SetServing(ready); });
  return absl::OkStatus();
}

void RouterNode::StartReporting() {
  for (const std::string& worker : options_.workers) frontend_->AddWorker(worker);
  if (scheduler_ == nullptr) return;
  const auto beat = [this] {
    v1::HeartbeatRequest request;
    cluster_->Describe(request.mutable_router());
    Frontend::AdapterUse use = frontend_->adapter_use();
    request.set_view(use.view);
    for (const std::string& digest : use.digests) request.add_in_use(digest);
    for (const std::string& digest : use.waiting) request.add_waiting(digest);
    return request;
  };
  heartbeat_ = std::make_unique<Heartbeat>(options_.heartbeat, scheduler_, beat,
                                           Heartbeat::OnRefused(), failpoints_);
  watch_ = std::make_unique<ClusterWatch>(
      ClusterWatch::Options{.watcher = address_}, scheduler_, [this](const v1::ClusterView& view) {
        frontend_->SetView(view);
        heartbeat_->BeatSoon();  // the scheduler may wait for all to follow
      });
}

RouterNode::~RouterNode() {
  if (frontend_ != nullptr) frontend_->OnReady({});
}

absl::Status RouterNode::Drain(std::chrono::milliseconds bound) {
  frontend_->Drain();
  if (heartbeat_ != nullptr) heartbeat_->BeatSoon();
  if (!frontend_->WaitIdle(bound)) {
    return absl::DeadlineExceededError(absl::StrFormat("%d requests still live after %d ms",
                                                       frontend_->stats().requests, bound.count()));
  }
  Farewell& farewell = inference_->farewell();
  farewell.Hold();
  std::this_thread::sleep_for(kFarewell);
  std::jthread release([&] {
    std::this_thread::sleep_for(kFarewell);
    farewell.Release();
  });
  // What was answered last may still be on its way.
  server_->Shutdown(kLastWords);
  return absl::OkStatus();
}

}  // namespace conclave::services

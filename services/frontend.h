#pragma once
// The router without a protocol: takes plain requests, refuses or admits them, makes tokens of
// their text, finds them a home, and hands out what comes back. A face (gRPC, later HTTP)
// translates to it and from it and decides nothing.
//
// Threads: every method from any thread; none blocks but the destructor and WaitIdle. One thread of
// its own keeps time, a small pool tokenises long prompts.

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "conclave/v1/cluster.pb.h"
#include "router/admission.h"
#include "router/request.h"
#include "router/request_limits.h"
#include "services/credentials.h"
#include "services/gate_probe.h"
#include "services/homes.h"
#include "services/live_request.h"
#include "services/metrics.h"
#include "services/request_table.h"
#include "services/router_metrics.h"
#include "services/text_codec.h"

namespace conclave::services {

class Frontend : private LiveRequest::Owner {
 public:
  using Micros = scheduler::Micros;

  struct Options {
    router::RequestLimits limits;
    router::Admission::Options admission;
    LiveRequest::Options request;
    Homes::Options homes;
    TextCodec::Options codec;
    // How the adapter of a request for `auto` is chosen.
    struct Auto {
      int32_t tokens = 256;  // of the prompt that the base model reads for it, at most
      // That the best adapter must have (AutoChoice::margin), else the base model answers.
      double least_margin = 0.02;
    };
    Auto auto_adapter;
    // How long a request may wait for an adapter on disk to get a place in memory.
    std::chrono::milliseconds adapter_wait{30'000};
    // How often deadlines, stalled readers and lost links are looked at.
    std::chrono::milliseconds tick{20};
  };

  using Templates = TextCodec::Templates;
  using Tokens = TextCodec::Tokens;

  // tokenizer: null serves token ids alone. templates: null serves no chat.
  Frontend(const Options& options, std::shared_ptr<const router::Tokenizer> tokenizer,
           const Credentials& credentials, Templates templates = nullptr,
           router::AdapterNames adapters = {});
  ~Frontend() override;  // ends what lives, closes the links; no method may run by then
  Frontend(const Frontend&) = delete;
  Frontend& operator=(const Frontend&) = delete;

  // A worker that is there whatever the cluster's view says.
  void AddWorker(const std::string& address);
  void SetView(const v1::ClusterView& view);  // the cluster's, whole
  // As last heard, with static workers, and with load and model as their links know them.
  v1::ClusterView view() const;
  // The versions of adapters that there are, all of them.
  void SetAdapters(const std::vector<router::AdapterView>& adapters);

  // Version of the cluster's view that is followed, and the versions of adapters that live requests
  // hold as of then: each digest once. Of those: what all its requests wait for to be in memory.
  struct AdapterUse {
    uint64_t view = 0;
    std::set<std::string> digests;
    std::set<std::string> waiting;
  };
  AdapterUse adapter_use() const;

  // A model's context may leave less.
  const router::RequestLimits& limits() const { return options_.limits; }

  // Admits a request, with a LiveRequest for each of its completions, or refuses it at once without
  // effect; the error may carry a Pushback. The reader hears of output from another thread, or from
  // this one before Start returns; when it is done with the request it calls ReleaseId if it gives
  // the client its end, and then Forget.
  absl::StatusOr<LiveRequests> Start(router::Request request, std::optional<Micros> deadline,
                                     const std::shared_ptr<LiveRequest::Reader>& reader);
  void Forget(LiveRequest& request);
  // The end of a request is about to be given to its client, which may send the next one with the
  // same id as soon as it has it.
  void ReleaseId(const LiveRequests& completions);

  // Calls `done` once, on this thread or another.
  void Tokenize(router::Prompt prompt, const TextCodec::Done& done);
  absl::StatusOr<std::string> Detokenize(const std::vector<uint32_t>& tokens,
                                         bool skip_special) const;
  std::vector<v1::Model> Models() const;
  std::string_view TokenBytes(scheduler::TokenId token) const;

  // Takes nothing new.
  void Drain();
  bool draining() const;
  // Until no request lives; false if the time is over first.
  bool WaitIdle(std::chrono::milliseconds timeout);

  // Called when requests can be taken, and when they can no longer; at once with what is so now.
  // One callback.
  void OnReady(std::function<void(bool)> callback);

  router::Admission::Stats stats() const;
  void WriteMetrics(MetricsWriter& writer) const;

 private:
  void LeftHome(LiveRequest& request) override;
  void WantsHome(LiveRequest& request) override;
  void PauseChanged(LiveRequest& request) override;
  bool OthersGoOn(const WorkerLink& link) override;

  // What of an admitted request is known beside its prompt.
  struct Decided {
    router::StopStrings stops;
    std::vector<scheduler::TokenId> received;  // tokens of the output that need not be computed
    std::optional<uint64_t> home;              // that has computed much of it
    std::shared_ptr<const ServedModel> served;
  };
  // From here to Decide: frontend_prepare.cc.
  // Queues the completions of an admitted request, behind the choice of its adapter if that is
  // open, or ends them.
  void Prepare(const LiveRequests& requests, const Tokens& tokens, const Decided& decided);
  absl::StatusOr<router::Admission::Need> PrepareAll(const LiveRequests& requests,
                                                     const Tokens& tokens, const Decided& decided);
  void Enqueue(const LiveRequests& requests, const router::Admission::Need& need,
               const Decided& decided);

  // Of a request whose adapter is open: asks the base's gate about its prompt, then decides and
  // queues its completions, or ends them.
  void Probe(const LiveRequests& requests, const std::vector<scheduler::TokenId>& tokens,
             const router::Admission::Need& need, const Decided& decided);
  absl::Status BeginProbe(const LiveRequest& undecided, std::vector<scheduler::TokenId> tokens,
                          const ServedModel& served, const std::shared_ptr<GateProbe>& reader);
  absl::Status Decide(const LiveRequests& requests, const GateProbe::Shares& shares,
                      router::AutoRecord probe, Micros begun);

  // Sends home whoever has room; one thread at a time, so that order is kept.
  void Dispatch();
  // Without a worker nobody waits but those who had one.
  void MaybeFailWaiting();
  // Looks at the links again, after any of them or the view changed.
  void Refresh();
  void Run();
  void Tick(Micros now);
  void TickRequests(const LiveRequests& requests, const std::string& all_lack, Micros now);
  // Requests at late homes look for others if they wait long in comparison.
  static void LeaveLate(const LiveRequests& requests, const Homes::Links& late, Micros now);
  bool WatchSilence();  // as Homes; what they say is taken too
  void Retire(Homes::Links links);

  const Options options_;
  RouterMetrics metrics_;
  RouterMetrics probe_metrics_;  // of our own scores, which are no client's requests; not told
  TextCodec codec_;

  mutable std::mutex mutex_;
  RequestTable requests_;
  Homes homes_;
  std::mt19937_64 random_;
  bool dispatching_ = false;
  bool dispatch_again_ = false;
  bool draining_ = false;
  bool ready_ = false;
  std::condition_variable idle_;

  std::mutex ready_mutex_;  // orders the callback's calls; taken before mutex_
  std::function<void(bool)> on_ready_;

  bool stopping_ = false;
  std::condition_variable stop_;
  // Links to workers that are gone, until nobody else holds them: a channel must not end on a gRPC
  // thread. Of the ticking thread.
  Homes::Links retired_;
  std::thread thread_;
};

}  // namespace conclave::services

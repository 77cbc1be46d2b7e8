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
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "conclave/v1/cluster.pb.h"
#include "router/admission.h"
#include "router/request.h"
#include "router/request_limits.h"
#include "router/tokenizer.h"
#include "services/credentials.h"
#include "services/live_request.h"
#include "services/metrics.h"
#include "services/router_metrics.h"
#include "services/work_pool.h"
#include "services/worker_link.h"

namespace conclave::router::chat {
class ChatTemplates;
struct ChatLimits;
struct Conversation;
}  // namespace conclave::router::chat

namespace conclave::services {

class Frontend : private LiveRequest::Owner {
 public:
  using Micros = scheduler::Micros;

  struct Options {
    std::string model_name;  // what clients call the model; empty: as the workers do
    router::RequestLimits limits;
    router::Admission::Options admission;
    LiveRequest::Options request;
    WorkerLink::Options link;  // its address is not used
    int32_t tokenize_threads = 1;
    int32_t tokenize_queue = 64;           // prompts waiting for a thread
    int64_t tokenize_inline_bytes = 2048;  // shorter ones are tokenised where they arrive
    std::chrono::milliseconds tick{
        20};  // how often deadlines, stalled readers and lost links are looked at
    // A worker the scheduler has not heard from either is given up when its link says nothing for
    // so long: its requests get another home, or their end.
    Micros silence = std::chrono::seconds(1);
    // Whatever the scheduler says, if the worker has promised to say something more often: after
    // the first it gets nothing new where others serve, after the second they take over what it
    // has.
    Micros suspicion = std::chrono::milliseconds(500);
    Micros give_up = std::chrono::seconds(2);
  };

  using Templates = std::shared_ptr<const router::chat::ChatTemplates>;

  // tokenizer: null serves token ids alone. templates: null serves no chat.
  Frontend(const Options& options, std::shared_ptr<const router::Tokenizer> tokenizer,
           const Credentials& credentials, Templates templates = nullptr);
  ~Frontend() override;  // ends what lives, closes the links; no method may run by then
  Frontend(const Frontend&) = delete;
  Frontend& operator=(const Frontend&) = delete;

  // A worker that is there whatever the cluster's view says.
  void AddWorker(const std::string& address);
  // The cluster's view, whole. A worker it no longer names, or calls suspect or dead, is used as
  // long as its link talks and there is nobody else: what the router sees itself weighs more than
  // what it hears. One that both have lost is given up.
  void SetView(const v1::ClusterView& view);
  // As last heard, with static workers, and with load and model as their links know them.
  v1::ClusterView view() const;

  // A model's context may leave less.
  const router::RequestLimits& limits() const { return options_.limits; }

  using LiveRequests = std::vector<std::shared_ptr<LiveRequest>>;
  // Admits a request, with a LiveRequest for each of its completions, or refuses it at once without
  // effect; the error may carry a Pushback. The reader hears of
  // output from another thread, or from this one before Start returns; when it is done with the
  // request it calls ReleaseId if it gives the client its end, and then Forget.
  absl::StatusOr<LiveRequests> Start(router::Request request, std::optional<Micros> deadline,
                                     const std::shared_ptr<LiveRequest::Reader>& reader);
  void Forget(LiveRequest& request);
  // The end of a request is about to be given to its client, which may send the next one with the
  // same id as soon as it has it.
  void ReleaseId(const LiveRequests& completions);

  using Tokens = absl::StatusOr<std::vector<scheduler::TokenId>>;
  // Calls `done` once, on this thread or another.
  void Tokenize(router::Prompt prompt, const std::function<void(Tokens)>& done);
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
  // What all workers that serve together agree on.
  struct Served {
    v1::ModelInfo model;
    std::string name;  // for clients
    std::string key;   // WorkerView::model
  };
  struct Home {
    uint64_t key = 0;
    std::shared_ptr<WorkerLink> link;
    bool fixed = false;      // by AddWorker
    bool listed = false;     // in the last view, and not dead
    bool quiet = false;      // suspect or dead, has sequences of ours, and its link says nothing
    bool hesitates = false;  // its link says nothing for longer than it promised
    v1::WorkerState state = v1::WORKER_STATE_READY;
  };

  void LeftHome(LiveRequest& request) override;
  void WantsHome(LiveRequest& request) override;
  void PauseChanged(LiveRequest& request) override;

  absl::Status Judge(const router::Request& request, const std::optional<Micros>& deadline,
                     const Served* served) const;
  // A live request that is asked for once more: the new stream takes its place.
  struct Predecessor {
    LiveRequests requests;                     // end once the new ones have their places
    std::vector<scheduler::TokenId> received;  // the first tokens of its only one, or nothing
    std::optional<uint64_t> home;
  };
  // Takes a place for each completion, or none. Fills in what the predecessor knows.
  absl::StatusOr<LiveRequests> Admit(router::Request request, std::optional<Micros> deadline,
                                     const std::shared_ptr<LiveRequest::Reader>& reader,
                                     Predecessor& before);
  // Who has the request's id, if that is the same request; mutex_ held.
  Predecessor FindPredecessor(const router::Request& request) const;
  // OK unless the output cannot be told again without the seed it was sampled with.
  absl::Status JudgeResume(const router::Request& request) const;
  // What of an admitted request is known beside its prompt.
  struct Decided {
    router::StopStrings stops;
    std::vector<scheduler::TokenId> received;  // tokens of the output that need not be computed
    std::optional<uint64_t> home;              // that has computed much of it
    std::shared_ptr<const Served> served;
  };
  // Queues the completions of an admitted request, or ends them.
  void Prepare(const LiveRequests& requests, const Tokens& tokens, const Decided& decided);
  absl::Status PrepareAll(const LiveRequests& requests, const Tokens& tokens,
                          const Decided& decided);
  // The worker that keeps the sequence of a router that is gone; mutex_ held.
  std::optional<uint64_t> KeeperOf(const router::Request& request) const;
  // What takes a network thread no more than some milliseconds; nullopt: it is work for the pool.
  std::optional<Tokens> EncodeNow(const router::Prompt& prompt) const;
  Tokens Encode(const router::Prompt& prompt) const;
  Tokens EncodeChat(const router::Prompt& prompt, const router::chat::ChatLimits& limits) const;
  // OK unless the conversation needs a chat template that is not there.
  absl::Status JudgeChat(const router::chat::Conversation& conversation) const;
  bool IsShort(const router::Prompt& prompt) const;
  absl::Status Refuse(const router::Admission::Refusal& refusal);

  // Sends home whoever has room; one thread at a time, so that order is kept.
  void Dispatch();
  // Without a worker nobody waits but those who had one.
  void MaybeFailWaiting();
  // Tells draining workers whether they are still needed; mutex_ held.
  void AnswerDrains();
  // Gives up who is dead and silent; whether anything changed that Refresh should see.
  bool WatchSilence();
  // Looks at the links again, after any of them or the view changed.
  void Refresh();
  void RefreshLocked();
  bool AnyReady() const;
  // Somebody who is not suspect; mutex_ held.
  bool OthersServe(const Home& home) const;
  void AddHome(const std::string& address, bool fixed);
  void Run();
  void Tick(Micros now);

  const Options options_;
  const std::shared_ptr<const router::Tokenizer> tokenizer_;
  const Templates templates_;
  const Credentials credentials_;
  RouterMetrics metrics_;

  mutable std::mutex mutex_;
  router::Admission admission_;
  std::unordered_map<uint64_t, std::shared_ptr<LiveRequest>> live_;
  std::map<std::string, Home> homes_;  // by address
  std::vector<router::WorkerView> views_;
  std::shared_ptr<const Served> served_;
  v1::ClusterView view_;
  std::mt19937_64 random_;
  uint64_t last_key_ = 0;
  bool dispatching_ = false;
  bool dispatch_again_ = false;
  bool draining_ = false;
  bool ready_ = false;
  std::condition_variable idle_;

  std::mutex ready_mutex_;  // orders the callback's calls; taken before mutex_
  std::function<void(bool)> on_ready_;

  bool stopping_ = false;
  std::condition_variable stop_;
  std::unique_ptr<WorkPool> pool_;
  // Links to workers that are gone, until nobody else holds them: a channel must not end on a gRPC
  // thread. Of the ticking thread.
  std::vector<std::shared_ptr<WorkerLink>> retired_;
  std::thread thread_;
};

}  // namespace conclave::services

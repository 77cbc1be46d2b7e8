#pragma once
// One admitted request from its tokens to its last delta: what a worker says goes in at one end,
// what the client can take comes out at the other. What waits for the client is one delta that
// grows; a client that is slow has its sequence paused at the worker, one that reads nothing for
// too long is given up. A request whose home is lost goes on at another one where it was: the
// router has all that takes (prompt, parameters, seed, tokens so far), and the client sees nothing
// of it but time.
//
// Threads: every method from any thread; none blocks. The Reader and the Owner are called with no
// lock held.

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "conclave/v1/worker.pb.h"
#include "router/auto_adapter.h"
#include "router/delta.h"
#include "router/request.h"
#include "router/transcript.h"
#include "scheduler/types.h"
#include "services/convert_inference.h"
#include "services/router_metrics.h"
#include "services/worker_link.h"

namespace conclave::services {

// A moment on the router's clock (steady).
scheduler::Micros Now();

class LiveRequest : public std::enable_shared_from_this<LiveRequest> {
 public:
  using Micros = scheduler::Micros;

  struct Options {
    int64_t pending_bytes_pause =
        12 << 10;  // waiting for the client: above this the sequence is paused
    Micros stall = std::chrono::seconds(
        30);  // one message on its way to the client for longer: it does not read
    Micros worker_full_pushback = std::chrono::seconds(1);  // for a client whose worker had no room
    // Homes lost in a row without news from any: then it is the request that they die of.
    int32_t attempts = 5;
    // How long a request that lost its home waits for another; with a deadline, until that.
    Micros homeless = std::chrono::seconds(30);
    // How long it waits for news from a home that the other workers find late, and how many times
    // as long as requests elsewhere wait, whichever is longer.
    Micros late_home = std::chrono::milliseconds(100);
    int32_t late_home_factor = 4;
    Micros late_home_first = std::chrono::seconds(1);  // for the first news, behind its prompt
    // One that waits for an expert or a home ends before its deadline, so that its client, whose
    // clock says the same, hears why: by this share of what it was given, within these bounds and
    // half of what it was given.
    double last_words_share = 0.05;
    Micros last_words_min = std::chrono::milliseconds(50);
    Micros last_words_max = std::chrono::milliseconds(200);
    // A home is stuck only if nothing came from it for so long; else it was for a moment.
    Micros stuck_after = std::chrono::milliseconds(100);
    // Homes in a row that lack an expert for it, if it has no deadline.
    int32_t bereft_homes = 2;
  };

  // The client's end of the request.
  class Reader {
   public:
    virtual ~Reader() = default;
    // There is something to Take. Must not block.
    virtual void OnOutput() = 0;
    // The client does not read: the message on its way must be given up, so that the end can be
    // said.
    virtual void OnStalled(const absl::Status& status) = 0;
  };

  // Who knows of homes.
  class Owner {
   public:
    virtual ~Owner() = default;
    // The request has no sequence on its home any more.
    virtual void LeftHome(LiveRequest& request) = 0;
    // It asks for another home; it has left its last one.
    virtual void WantsHome(LiveRequest& request) = 0;
    // paused() has changed.
    virtual void PauseChanged(LiveRequest& request) = 0;
    // Whether a worker other than this one takes sequences and says of no expert that it lacks it.
    virtual bool OthersGoOn(const WorkerLink& link) = 0;
  };

  struct Output {
    router::Delta delta;
    bool first = false;
    bool last = false;    // nothing follows
    absl::Status status;  // of the request; when last
  };

  // key: the owner's; request.id and request.seed are set, its prompt is not needed. owner and
  // metrics outlive it.
  LiveRequest(const Options& options, uint64_t key, router::Request request,
              std::optional<Micros> deadline, Micros arrived, std::shared_ptr<Reader> reader,
              Owner* owner, RouterMetrics* metrics);

  uint64_t key() const { return key_; }
  // Its version may change by Decide, which happens before there is any output.
  const router::Request& request() const { return request_; }
  const std::optional<Micros>& deadline() const { return deadline_; }
  Micros arrived() const { return arrived_; }
  const std::vector<scheduler::TokenId>& prompt() const { return assignment_.prompt; }
  // Of the model that it was prepared for; whoever goes on with it has the same.
  const google::protobuf::RepeatedField<int>& policies() const { return policies_; }

  // Its version was open, and is this one now. Called before Begin, with the lock of the owner
  // held, under which all others look at the version that may look before there is output.
  void Decide(const router::AdapterNames::Version& version, const router::AutoRecord& choice);
  // All but that is decided; called once, before Begin. `received` of its tokens,
  // request().resume_from many or none: they are not computed again, and it may be that nothing
  // else is.
  void Prepare(Assignment assignment, router::Transcript transcript, const v1::ModelInfo& model,
               std::vector<scheduler::TokenId> received);
  // The first `count` tokens of its output; fewer if there are not so many yet. May be called with
  // the owner's lock held, as lost_home.
  std::vector<scheduler::TokenId> FirstTokens(size_t count) const;

  // Its sequence is held because its client is slow. May be called with the owner's lock held.
  bool paused() const;

  // It had a home and lost it: whoever has no home for it now lets it wait.
  bool lost_home() const;
  // It was given to a worker before, by this router or another, and goes on from there: no grant is
  // needed for it. As lost_home.
  bool goes_on() const { return lost_home() || request_.resume_from > 0; }

  // Tokens of its prompt and output that homes have computed for it, or that came with it; 0 before
  // any said something. As lost_home.
  int64_t served() const;

  // Starts its sequence on a home, behind what is known of it. False if the link is down or has no
  // credit for it (it wants another home then).
  bool Begin(std::shared_ptr<WorkerLink> link);

  // Ends it with an error, if it has not ended: what the client has not been given is dropped.
  void End(const absl::Status& status);

  // The client is gone, or has all it wanted.
  void Cancel() { End(absl::CancelledError("the client is gone")); }

  using Links = std::vector<std::shared_ptr<WorkerLink>>;
  // From news to news in the mean; nothing if its home is among `late`, or has said little yet.
  std::optional<Micros> PaceUnless(const Links& late) const;
  // If its home is among `late`, where others are not, it looks for another one after a long wait.
  // usual: what PaceUnless says of the others.
  void LeaveLate(const Links& late, Micros usual, Micros now);

  // Ends it when its deadline is past, no home was found for too long or its client reads nothing;
  // asks again for a home after a refusal. all_lack: what nobody has that can go on with it, the
  // expert that every worker waits for or a place in memory for its adapter; empty: somebody can.
  void Tick(Micros now, const std::string& all_lack);

  // For the reader: what is there now. A call says also that what the last one gave is on its way
  // no more.
  std::optional<Output> Take();
  // What Take gave is on its way no more.
  void Sent();

 private:
  // What one home says. Only the last one is listened to: what an older one has still on its way
  // would be told twice.
  class Attempt;

  // What to do once the lock is released.
  struct After {
    bool output = false;
    bool left_home = false;
    bool wants_home = false;
    bool pause_changed = false;
    std::optional<absl::Status> stalled;
  };

  std::optional<Output> TakeLocked(After& after);  // mutex_ held, as all below
  void SentLocked();
  void OnEvent(uint64_t attempt, const v1::SequenceEvent& event);  // without the lock
  void OnLost(uint64_t attempt, const absl::Status& status);       // likewise
  bool OthersGoOn() const;                                         // likewise; than its home
  // Why it cannot go on waiting; OK: it can.
  absl::Status OutOfTime(Micros now, const std::string& all_lack) const;
  // What it waits for beside its tokens, an expert or a home; OK: nothing.
  absl::Status Stuck(Micros now, const std::string& all_lack) const;
  Micros LastWords() const;  // how long before its deadline it ends if it is stuck
  void NotePace(Micros now);
  // others: whether another home may have the expert for want of which it ended.
  void Absorb(const v1::SequenceEvent& event, bool others, After& after);
  void NoteProgress(const v1::SequenceEvent& event);
  // What the client does not have of it, to what waits for it.
  absl::Status Tell(router::SequenceEvent event);
  void Fail(const absl::Status& status, After& after);  // of the home: another, or the end
  void Lose(const absl::Status& status, After& after);
  void NoteLoss(const absl::Status& why);
  // Its home waited for an expert as long as it may.
  void LackExpert(const absl::Status& status, bool others, After& after);
  void LackAdapter(const absl::Status& status);
  void Finish(absl::Status status, After& after);
  void CloseSequence(After& after);
  void Observe(const v1::SequenceEvent& event);
  void MaybePause(After& after);
  void Do(const After& after);  // without the lock

  const Options options_;
  const uint64_t key_;
  router::Request request_;  // changed by Decide alone
  const std::optional<Micros> deadline_;
  const Micros arrived_;
  const std::shared_ptr<Reader> reader_;
  Owner* const owner_;
  RouterMetrics* const metrics_;

  mutable std::mutex mutex_;
  std::shared_ptr<AdapterMetrics::Series> adapter_metrics_;
  Assignment assignment_;
  std::optional<router::Transcript> transcript_;
  uint32_t vocab_size_ = 0;
  std::string model_;  // ModelKey
  google::protobuf::RepeatedField<int> policies_;
  std::shared_ptr<WorkerLink> link_;
  std::optional<uint64_t> sequence_;  // on link_
  Micros heard_at_{};                 // the sequence's begin, or what came of it last
  std::optional<Micros> pace_;        // from news to news, in the mean
  bool heard_ = false;                // something came of the sequence
  uint64_t attempt_ = 0;              // number of the last one
  bool paused_ = false;

  size_t skip_ = 0;                // of the tokens to come, those that the client has
  Progress told_;                  // its tokens are the transcript's
  int32_t losses_ = 0;             // in a row, without news between
  int32_t bereft_ = 0;             // homes in a row that lacked an expert, likewise
  std::optional<Micros> lost_at_;  // its home; until there are news from another
  std::string lost_why_;
  bool asks_at_tick_ = false;  // for a home: the last one refused it

  router::Delta pending_;
  std::optional<absl::Status> end_;  // no more will come
  bool taken_first_ = false;
  bool taken_last_ = false;
  std::optional<Micros> taken_at_;  // a delta is on its way to the client since
  int64_t on_its_way_bytes_ = 0;    // of it

  std::optional<Micros> began_, first_token_, last_token_;
};

}  // namespace conclave::services

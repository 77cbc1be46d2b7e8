#pragma once
// The engine's state, for engine.cc (intake, thread, shutdown) and decode_step.cc (one step). Not
// for anybody else.

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "scheduler/batch_planner.h"
#include "scheduler/speculation_rule.h"
#include "worker/batch.h"
#include "worker/engine.h"
#include "worker/experts/expert_host.h"
#include "worker/experts/expert_table.h"
#include "worker/kv_cache.h"
#include "worker/logit_edits.h"
#include "worker/orphans.h"
#include "worker/prefix_keys.h"
#include "worker/prompt_lookup.h"

namespace conclave::worker {

// A sequence between Submit and its last event. Engine thread once taken from the intake.
struct LiveSequence {
  scheduler::SequenceId id = 0;
  const Link* submitted_by = nullptr;      // half of its key; only compared
  std::shared_ptr<Link> link;              // null once the link closed
  SequenceRequest request;                 // its prompt moved into `tokens`
  std::vector<scheduler::TokenId> tokens;  // prompt, then generated
  int32_t prompt_size = 0;
  LogitEdits edits;  // for the next token
  AdapterIndex adapter = ExpertTable::kBase;
  // What was already told, so that a recomputed sequence tells nothing twice.
  int32_t prompt_told =
      1;  // next prompt position without a reported log-probability; position 0 has none
  int32_t routing_told = 0;          // next position without reported routing
  int32_t computed = 0;              // positions computed, or found, at least once
  int32_t cached_prompt_tokens = 0;  // of them, those of the prompt that were found
  // Steps with it have been redone since.
  std::optional<scheduler::Micros> stuck_since;
  // Of its full blocks, for others to find them by and to find those of others; engine thread takes
  // them over to the planner. The last one, or the root, is kept to go on from.
  std::vector<scheduler::BlockKey> keys;
  scheduler::BlockKey last_key;
  // Guesses at the tokens behind its last one, for its next step.
  std::vector<scheduler::TokenId> proposals;
  scheduler::SpeculationRule speculation{{}};

  // Positions are yet to be reported on: it starts behind no cached block.
  bool reports_on_prompt() const { return request.prompt_logprobs || request.routing; }
  int32_t generated() const { return static_cast<int32_t>(tokens.size()) - prompt_size; }
};

class Engine::Impl {
 public:
  static absl::StatusOr<std::unique_ptr<Impl>> Create(const Options& options,
                                                      std::shared_ptr<const Model> model,
                                                      std::unique_ptr<Device> device,
                                                      std::unique_ptr<Transport> transport);
  ~Impl();

  // Any thread.
  absl::Status Submit(std::shared_ptr<Link> link, SequenceRequest request);
  void Cancel(const Link* link, uint64_t id);
  void SetPaused(const Link* link, uint64_t id, bool paused);
  void CloseLink(const Link* link);
  void Drain();
  bool drained() const;
  bool WaitDrained(std::chrono::milliseconds timeout);
  Stats stats() const;
  scheduler::CreditRule::Load room() const;
  void OnRoom(std::function<void()> callback);
  std::vector<std::string> orphans() const;
  std::vector<std::string> AdaptersInUse() const;

  bool Step(scheduler::Micros now);
  void StartThread();

  ExpertHost& host() { return *host_; }
  const ExpertHost& host() const { return *host_; }
  absl::Status CommitPlacement(uint64_t plan, scheduler::Epoch epoch);

  const Options& options() const { return options_; }
  const Model& model() const { return *model_; }
  std::string numerics() const {
    return NumericsOf(*device_, model_->spec, options_.experts.returns);
  }

 private:
  using LinkKey = std::pair<const Link*, uint64_t>;
  struct LinkKeyHash {
    size_t operator()(const LinkKey& key) const {
      return std::hash<const void*>()(key.first) ^
             (std::hash<uint64_t>()(key.second) * 0x9E3779B97F4A7C15u);
    }
  };
  struct Pause {
    scheduler::SequenceId id;
    bool paused;
  };
  // A row of the batch whose logits are wanted: to sample a sequence's next token, or to report on
  // a prompt token.
  struct LogitRow {
    int32_t row;       // of the batch
    size_t sequence;   // index into the plan
    int32_t target;    // prompt token to report on; < 0: sample
    int32_t proposed;  // tokens, between the sequence's last one and what this row samples
  };

  // Rows of the batch that one shared expert computes.
  struct SharedRows {
    const FfnWeights* weights = nullptr;
    std::vector<int32_t> rows;
  };

  Impl(const Options& options, std::shared_ptr<const Model> model, std::unique_ptr<Device> device);
  static absl::Status ServedNoMore(const std::string& adapter);
  absl::Status Allocate(std::unique_ptr<Transport> transport);
  void MakeHost(std::unique_ptr<Transport> transport);
  void MakeKeys(LiveSequence& sequence) const;
  bool DrainedLocked() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return draining_ && ids_.empty() && !publishing_;
  }
  void ThreadMain();

  // One step, in calling order: arrivals.cc and adapters.cc, decode_step.cc (which adapters.cc
  // helps with experts), step_head.cc from the logits to the tokens, stuck_step.cc for one that
  // lacks an expert; from Publish on step_results.cc.
  void TakePlacementNews();
  void FollowAdapters(const scheduler::Placement& adopted);
  void EndLacking(scheduler::SequenceId id, const std::string& why);
  void LeaveLacking(const scheduler::StepPlan& plan, const ExpertHost::Lacking& lacking);
  void TakeArrivalsAndCancels(scheduler::Micros now);
  void Enqueue(LiveSequence sequence);
  void KeepOrEnd(scheduler::SequenceId id, scheduler::Micros now);
  void TakeOver(LiveSequence heir);
  int32_t ReportChunk(const SequenceRequest& request) const;
  void EndDropped(const scheduler::StepPlan& plan);
  void CopyBlocks(const scheduler::StepPlan& plan);
  void LoadBatch(const scheduler::StepPlan& plan);
  absl::Status RunLayers(const scheduler::StepPlan& plan);
  void RunGqa(int32_t layer);
  void RunMla(int32_t layer);
  void RunDenseFfn(int32_t layer);
  absl::Status RunExperts(const scheduler::StepPlan& plan, int32_t layer, int32_t moe_layer);
  void ResolveExperts(int32_t moe_layer);
  void CountTuned(std::span<const scheduler::ExpertId> experts);
  void RunShared(int32_t layer, int32_t moe_layer, ConstRows normed, Rows shared);
  void FindShared(int32_t moe_layer, const FfnWeights& base);
  void CountRoutes(int32_t moe_layer);
  void RecordRoutes(const scheduler::StepPlan& plan, int32_t moe_layer);
  void CollectLogitRows(const scheduler::StepPlan& plan);
  void RunHead(const scheduler::StepPlan& plan);
  SampleRow SampleRowOf(const LogitRow& wanted);
  bool IsOfItsSequence(const LogitRow& wanted) const;
  void NoteFound(LiveSequence& sequence, int32_t first);
  void AddToken(LiveSequence& sequence, scheduler::TokenId token);
  void TakeResult(const scheduler::StepPlan& plan, const LogitRow& wanted,
                  const SampledToken& result);
  void NoteRouting(const scheduler::StepPlan& plan);
  int32_t Accepted(size_t planned) const;
  void Propose(LiveSequence& sequence);
  void Commit(const scheduler::StepPlan& plan);
  void FailBatch(const scheduler::StepPlan& plan, const absl::Status& status);
  static bool MayRedo(const absl::Status& status);
  void Wait(const scheduler::StepPlan& plan, const absl::Status& status, scheduler::Micros now);
  void EndStuck(scheduler::SequenceId id);
  void Abandon(const scheduler::StepPlan& plan);
  void Publish(double seconds);
  void AddStats(double seconds) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  LiveSequence& Live(scheduler::SequenceId id);
  SequenceEvent& EventOf(
      scheduler::SequenceId id);  // this step's event of a sequence; begun on first use
  void End(scheduler::SequenceId id, absl::Status status, scheduler::FinishReason reason);
  void At(std::string_view point) const {
    if (options_.at) options_.at(point);
  }

  // Constant after construction.
  Options options_;
  const std::shared_ptr<const Model> model_;
  const std::unique_ptr<Device> device_;
  int32_t context_limit_ = 0;
  int32_t moe_layers_ = 0;

  // Engine thread.
  std::unique_ptr<scheduler::BatchPlanner> planner_;
  KvCache kv_;
  std::unique_ptr<Batch> batch_;
  std::unique_ptr<const PrefixKeys> prefix_keys_;  // null: no reuse
  std::unique_ptr<ExpertTable> experts_;
  std::unique_ptr<ExpertHost> host_;
  uint64_t step_ = 0;
  absl::Status stuck_;  // why steps are redone; OK: they are not
  std::unordered_map<scheduler::SequenceId, LiveSequence> live_;
  Orphans orphans_;
  std::vector<LiveSequence*> planned_;   // of the plan being computed, in plan order
  std::vector<SharedRows> shared_rows_;  // of one layer; the first shared_groups_ count
  size_t shared_groups_ = 0;
  std::vector<ExpertWork> shared_work_;
  std::vector<LogitRow> logit_rows_;
  std::vector<SampleRow> sample_rows_;
  std::vector<int32_t> head_indices_;
  std::vector<std::vector<LogitEdit>> edits_behind_;  // of sample_rows_ behind proposals
  std::vector<uint8_t> ends_;     // per planned sequence: its new token stops it
  std::vector<int32_t> sampled_;  // per planned sequence: its new tokens
  // Per planned sequence that samples.
  std::vector<uint8_t> commit_ends_;
  std::vector<int32_t> commit_accepted_;
  std::vector<absl::Status>
      failed_;  // per planned sequence; not ok: it ends without this step's token
  std::vector<uint64_t> step_expert_tokens_;  // [moe_layers * slots]
  std::vector<std::pair<scheduler::SequenceId, SequenceEvent>>
      events_;  // of this step, in the order they arose
  std::unordered_map<scheduler::SequenceId, size_t> event_index_;  // into events_
  Stats step_stats_;  // counters of this step, added to stats_ when it is published

  mutable absl::Mutex mutex_;
  std::vector<LiveSequence> arrivals_ ABSL_GUARDED_BY(mutex_);
  std::vector<scheduler::SequenceId> cancels_ ABSL_GUARDED_BY(mutex_);
  std::vector<scheduler::SequenceId> closed_ ABSL_GUARDED_BY(mutex_);  // those of closed links
  std::vector<std::string> orphan_names_ ABSL_GUARDED_BY(mutex_);
  std::vector<Pause> pauses_ ABSL_GUARDED_BY(mutex_);
  std::unordered_map<LinkKey, scheduler::SequenceId, LinkKeyHash> ids_
      ABSL_GUARDED_BY(mutex_);                                     // all not yet ended
  std::map<std::string, int32_t> in_use_ ABSL_GUARDED_BY(mutex_);  // of them, by adapter's digest
  // Of the placement that is committed, which the next step goes by: who knows that it is adopted
  // may submit for them.
  std::set<std::string> adapters_ ABSL_GUARDED_BY(mutex_);
  scheduler::SequenceId next_id_ ABSL_GUARDED_BY(mutex_) = 1;
  int64_t arrival_tokens_ ABSL_GUARDED_BY(mutex_) = 0;
  bool placement_changed_ ABSL_GUARDED_BY(mutex_) = false;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  // Events are being handed to links: who has drained has told its links everything.
  bool publishing_ ABSL_GUARDED_BY(mutex_) = false;
  Stats stats_ ABSL_GUARDED_BY(mutex_);
  std::function<void()> on_room_ ABSL_GUARDED_BY(mutex_);  // null: nobody asked
  std::thread thread_;
};

}  // namespace conclave::worker

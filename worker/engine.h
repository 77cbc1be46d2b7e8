#pragma once
// A worker's engine: takes sequences from any thread, steps them on one, and hands every step's
// results to the links they came by. The step itself is decode_step.cc.
//
// Threads: Submit, Cancel, SetPaused, CloseLink, Drain, WaitDrained, room, OnRoom and stats() from
// any thread; everything else belongs to the engine thread. A Link is called on the engine thread,
// must not block and must not call back into the engine.

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "scheduler/batch_planner.h"
#include "scheduler/credit_rule.h"
#include "scheduler/speculation_rule.h"
#include "scheduler/types.h"
#include "worker/device/device.h"
#include "worker/experts/expert_host.h"
#include "worker/experts/transport.h"
#include "worker/histogram.h"
#include "worker/model/model.h"
#include "worker/orphans.h"
#include "worker/prompt_lookup.h"
#include "worker/sequence_request.h"

namespace conclave::worker {

struct Logprob {
  scheduler::TokenId token = 0;
  float logprob = 0.0f;
  std::vector<std::pair<scheduler::TokenId, float>> top;
};

// Routing of consecutive tokens, [tokens, moe_layers, top_k] in gate order.
struct RoutingRecord {
  int32_t tokens = 0;
  std::vector<uint16_t> slots;
  std::vector<float> weights;
};

struct SequenceEnd {
  scheduler::FinishReason reason = scheduler::FinishReason::kStop;
  absl::Status status;        // not ok: the sequence failed and reason does not count
  bool lacks_expert = false;  // it failed for want of an expert
  // It failed because experts of its adapter's version could not be read.
  bool lacks_adapter = false;
};

// What one step brought one sequence.
struct SequenceEvent {
  uint64_t id = 0;
  std::vector<scheduler::TokenId> replayed;  // before `tokens`: those of the orphan it took over
  std::vector<scheduler::TokenId> tokens;
  std::vector<Logprob> logprobs;
  std::vector<Logprob> prompt_logprobs;
  RoutingRecord routing;
  int32_t cached_prompt_tokens = 0;  // with the first token: found in KV blocks, not computed
  std::optional<SequenceEnd> end;
};

class Link {
 public:
  virtual ~Link() = default;
  // One step's events of this link, in plan order. Engine thread; must not block.
  virtual void OnStep(std::vector<SequenceEvent> events) = 0;
};

class Engine {
 public:
  struct Options {
    scheduler::BatchPlanner::Options planner;  // kv_blocks is set from kv_bytes
    // Taken whole at the start.
    int64_t kv_bytes = int64_t{256}
                       << 20;  // of the KV pool; at most what context_limit * max_running needs
    int32_t logit_rows = 64;   // rows of logits held at once
    // What one step may report on one sequence's prompt (log-probabilities, routing): longer
    // reports come in smaller chunks, so that a reader who is slow is paused in time.
    int32_t report_bytes = 8 << 10;
    // The same for who reads at once.
    int32_t report_bytes_at_once = 256 << 10;
    int32_t context_limit = 0;  // 0: the model's
    bool prefix_reuse = true;   // start behind the KV blocks that others left of the same tokens
    // Guesses at a sequence's next tokens, which a step computes beside its last one; what it
    // samples does not depend on them.
    scheduler::SpeculationRule::Options speculation;
    LookupOptions lookup;
    SequenceLimits requests;   // its context_limit is set from the one above
    Orphans::Options orphans;  // sequences whose link closed
    bool start_thread = true;  // false: a test calls Step itself
    // Among other workers. Sizes of passes and rows are set from the planner's.
    ExpertHost::Options experts;
    // A step that lacks an expert is done again; a sequence that has waited for it for so long, or
    // until its deadline, ends with UNAVAILABLE.
    scheduler::Micros expert_wait = std::chrono::seconds(30);
    // Called at named points of a step ("step.begin", "step.layers", "step.publish"); for
    // failpoints. May be empty.
    std::function<void(std::string_view)> at;
  };

  // transport: to the other workers; null: this one computes all experts itself.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(
      const Options& options, std::shared_ptr<const Model> model, std::unique_ptr<Device> device,
      std::unique_ptr<Transport> transport = nullptr);
  ~Engine();  // stops the thread; sequences end with CANCELLED

  // Takes a sequence or refuses it without effect: INVALID_ARGUMENT (token outside the vocabulary,
  // too long, bad parameter), NOT_FOUND (a version of an adapter that is not served here),
  // ALREADY_EXISTS (id), RESOURCE_EXHAUSTED (queue full), UNAVAILABLE (draining). A sequence whose
  // version is served no more ends with ABORTED; one whose version's experts somebody could not
  // read, with UNAVAILABLE.
  absl::Status Submit(std::shared_ptr<Link> link, SequenceRequest request);
  void Cancel(const Link* link, uint64_t id);
  void SetPaused(const Link* link, uint64_t id, bool paused);
  // The link is not called again after the current step. Its sequences end, but those with a name
  // are kept for a while without going on, unless the engine drains: see
  // SequenceRequest::take_over.
  void CloseLink(const Link* link);

  // Accept nothing new, finish what runs and waits; drained() becomes true once the links have been
  // handed the last events.
  void Drain();
  bool drained() const;
  // Until drained(), for so long at most; whether it is.
  bool WaitDrained(std::chrono::milliseconds timeout);

  // Changes of the cluster, as ExpertHost takes them; a placement is adopted at the next step, and
  // by an engine that has nothing to do at once.
  absl::Status Prepare(std::shared_ptr<const scheduler::Placement> placement);
  absl::Status PrepareCommitted(std::shared_ptr<const scheduler::Placement> placement);
  absl::Status Commit(uint64_t plan, scheduler::Epoch epoch);
  void Abort(uint64_t plan);
  void Release(scheduler::Epoch below);
  void SetPeers(const std::vector<Peer>& peers);
  absl::StatusOr<AdapterCheck> CheckAdapter(const std::string& source);
  // Versions, by digest, of sequences that have not ended; those that are kept count too.
  std::vector<std::string> AdaptersInUse() const;
  AdapterStore::Lacks Lacks() const;
  scheduler::Epoch adopted() const;
  std::vector<Peer> LostPeers() const;
  std::vector<std::string> LatePeers() const;
  void OnNews(std::function<void()> callback);
  ExpertStore& expert_store();
  ExpertHost::Stats expert_stats() const;
  std::vector<scheduler::ExpertId> OwnedExperts() const;

  // What there is room for, by now. Cheap.
  scheduler::CreditRule::Load room() const;
  // Called on the engine thread after a step that made room: sequences ended, or are paused. Must
  // not block; may call room(). Null: no longer, and no call runs when it returns.
  void OnRoom(std::function<void()> callback);

  // The clock deadlines are on.
  static scheduler::Micros Now();

  // One step; false if there was nothing to do. Engine thread, or the test when start_thread is
  // false.
  bool Step(scheduler::Micros now);

  struct Stats {
    scheduler::BatchPlanner::Stats planner;
    uint64_t steps = 0;
    uint64_t steps_redone = 0;  // for want of an expert, or because the placement had changed
    uint64_t prompt_tokens = 0;
    uint64_t generated_tokens = 0;
    uint64_t recomputed_tokens = 0;
    // Rows computed for proposed tokens, and those of them that sequences went on behind.
    uint64_t speculated_tokens = 0, speculated_accepted = 0;
    // Prompt tokens of the sequences that might reuse KV blocks, and those of them that were found.
    uint64_t prefix_queries = 0, prefix_hits = 0;
    uint64_t ended_stop = 0, ended_length = 0, ended_scored = 0, ended_cancelled = 0,
             ended_deadline = 0, ended_error = 0;
    Histogram step_seconds{{.0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5}};
    Histogram step_tokens{{1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384}};
    uint64_t orphans_taken_over = 0;
    // Choices of the gate for rows of adapters, and those of them that meant an adapter's expert.
    uint64_t adapter_routes = 0, tuned_routes = 0;
    int32_t kv_block_size = 0;
    int64_t kv_bytes = 0;
    bool draining = false;
    std::string lacks;  // the expert for want of which the last step is done again; empty: none
    std::vector<uint64_t>
        expert_tokens;  // [moe_layers * slots] rows routed to each expert since the start, those
                        // of proposals that were wrong included: they were computed
  };
  Stats stats() const;
  // Names of those it keeps.
  std::vector<std::string> orphans() const;

  const Options& options() const;
  const Model& model() const;
  // Of the device; "+sums" behind it where owners return sums, on whose placement results depend.
  std::string numerics() const;

 private:
  class Impl;  // engine_impl.h
  explicit Engine(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// What frames between workers of this model may be, with steps of so many tokens.
FrameLimits FrameLimitsFor(const ModelSpec& spec, int32_t step_tokens,
                           Returns returns = Returns::kRows);
// What an engine's results depend on, on such a device.
std::string NumericsOf(const Device& device, const ModelSpec& spec, Returns returns);

// Rows of logits for a worker that decodes many sequences: each tile of them reads the whole head,
// so a batch of 256 would read it four times in tiles of 64.
int32_t LogitRowsFor(const Engine::Options& options);

// The CPU device an engine with these options needs for this model: its activation type and scratch
// sizes. threads and level are the caller's to set.
CpuDeviceOptions CpuDeviceOptionsFor(const ModelSpec& spec, const Engine::Options& options);

}  // namespace conclave::worker

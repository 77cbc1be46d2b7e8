#pragma once
// Decides, step by step, which sequences of a worker run: continuous batching, chunked prefill
// under a token budget, admission by blocks and tokens, preemption by recompute, cancellation and
// deadlines at the next step, reuse of KV blocks by content, room for guesses at the next tokens.
// Pure: no clock, threads or I/O. Owned by one thread (a worker's engine thread, or a simulation).
// Idea: Orca (iteration-level scheduling), Sarathi-Serve (chunked prefill beside decodes), vLLM
// (paged KV, recompute, hash-chained blocks).

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "scheduler/step_plan.h"
#include "scheduler/types.h"

namespace conclave::scheduler {

class BatchPlanner {
 public:
  struct Options {
    int32_t step_tokens = 256;    // of one step, decodes and prefill together; >= max_running
    int32_t prefill_chunk = 256;  // of one sequence's prompt in one step
    int32_t max_running = 64;     // sequences that hold blocks
    // Where Add refuses: sequences that hold no blocks, and the tokens of all of them together.
    // Those that were preempted count, but are never refused.
    int32_t max_waiting = 512;
    int64_t max_waiting_tokens = 1 << 20;
    int32_t kv_blocks = 1024;
    int32_t block_size = 16;  // positions per block
    // Of the blocks: left free by admission, for what already runs to grow into.
    int32_t watermark_permille = 10;
    int32_t step_proposals = 32;  // proposed tokens of one step, of all sequences
  };

  struct Sequence {
    SequenceId id = 0;
    int32_t prompt_tokens = 0;  // >= 1
    int32_t max_tokens = 0;     // 0: only the prompt is computed (scoring)
    // Of max_tokens, those it brings along, for it ran elsewhere; fewer than all. It is computed as
    // one that was preempted: it samples only behind its last token.
    int32_t generated = 0;
    int32_t prefill_chunk = 0;  // of this one, if smaller than that of Options; 0: the same
    std::optional<Micros> deadline;
    // Of the full blocks of all it brings along, in order; AddKey brings those of the blocks that
    // generated tokens fill. A block without a key is nobody else's, nor are those after it.
    std::vector<BlockKey> keys;
    // Starts behind what is cached of its tokens. False: every position is computed, for a sequence
    // that reports on its prompt; its own blocks are found by others all the same.
    bool reuse = true;
  };

  enum class Admission : uint8_t { kAdmitted, kQueueFull, kNeverFits };

  explicit BatchPlanner(const Options& options);
  ~BatchPlanner();

  // Takes a sequence to the end of the queue, or refuses it without any effect. kNeverFits: prompt
  // and output together need more blocks than the pool has, or the prompt, with what was generated,
  // alone exceeds max_waiting_tokens. The id must not be known.
  Admission Add(Sequence sequence);

  // The key of the block that a generated token completes, before the Commit of that token. Every
  // block before it must have one. With proposals a step may complete several: in order. Unknown
  // ids are ignored.
  void AddKey(SequenceId id, const BlockKey& key);

  // The caller guesses `tokens` tokens behind the sequence's last one: its next decode may compute
  // them too. Holds until its next Commit or Abandon. Unknown ids are ignored.
  void Propose(SequenceId id, int32_t tokens);

  // Ends it at the next Plan. Unknown ids are ignored (it may just have ended).
  void Cancel(SequenceId id);
  // A paused sequence keeps its place and is not stepped; it is the first to be preempted, be it
  // only to let a waiting one start. Unknown ids are ignored.
  void SetPaused(SequenceId id, bool paused);

  // Who runs now, everything in order of arrival: decodes, one token each; then prompts, chunk by
  // chunk, as far as step_tokens goes; waiting sequences start when the blocks for all they have so
  // far are free, and none overtakes. When a decode finds no free block the youngest sequence is
  // preempted, paused ones first: it keeps its place in the order and what it generated, waits, and
  // is recomputed from position 0 (it samples only at its last position). Every planned sequence
  // has blocks for all its positions up to first + count.
  // A sequence that may reuse starts at the first position that is not cached, at its last one at
  // the latest. A prompt whose next block an older sequence computes in this very step is not
  // planned: it finds the block in the next. Where only the last position of a cached block is to
  // be computed, the plan has the block copied.
  // Proposals change nothing of all that: they get the tokens that are left of step_tokens, at most
  // step_proposals, and blocks that nobody holds, and are cut where there are none; never more than
  // max_tokens leaves room for.
  // A planner that is not idle() plans or drops something; the oldest sequence that is not paused
  // never loses its blocks. Each Plan with sequences is followed by one Commit, or
  // Abandon, of the same plan before the next Plan.
  StepPlan Plan(Micros now);

  // What the step brought: for each planned sequence that samples, in plan order, whether it ends
  // with this token. A sequence ends too when its max_tokens is reached, or (max_tokens 0) when its
  // prompt is done; those ended are returned, in plan order, and their blocks are already back. A
  // sequence dropped since the Plan keeps its place in `ends`, which then does not count.
  // accepted: as long as `ends`, of each the proposals, from the first, that became its tokens
  // before the one it samples anyway; empty: none. The others' positions were not computed, and
  // blocks that only they needed are back.
  std::vector<SequenceId> Commit(const StepPlan& plan, std::span<const uint8_t> ends,
                                 std::span<const int32_t> accepted = {});

  // Instead of Commit: the step brought nothing. Its sequences are as before the Plan, and keep the
  // blocks it gave them; what it dropped and preempted stays so. Its copies count as made. What its
  // sequences were proposed is forgotten: the next plan asks for nothing that they might not need.
  void Abandon(const StepPlan& plan);

  // Ends a planned or waiting sequence at once, outside the plan (its step failed); its blocks are
  // back. Unknown ids are ignored. The plan in flight is still committed.
  void Drop(SequenceId id);
  // Drop for a sequence whose numbers cannot be trusted: none of its blocks, nor what was computed
  // after them, is found by anyone any more. Who holds them computes on.
  void DropAndForget(SequenceId id);

  // Block table of a known sequence, empty while it waits. Entry i holds the positions from
  // i * block_size on. Valid until the next Plan, Commit or Drop.
  std::span<const BlockId> Blocks(SequenceId id) const;

  struct Stats {
    int32_t running = 0;
    int32_t waiting = 0;
    int32_t paused = 0;  // of both
    int64_t waiting_tokens = 0;
    int32_t blocks_used = 0;    // held by sequences
    int32_t blocks_cached = 0;  // held by none, found by their content, taken when room is needed
    int32_t blocks = 0;
    uint64_t evictions = 0;    // cached blocks that were taken, since the start
    uint64_t preemptions = 0;  // since the start
  };
  Stats stats() const;
  // Nothing running or waiting, paused sequences aside, and no cancel to carry out.
  bool idle() const;
  // The earliest deadline of all sequences, for a loop that would sleep.
  std::optional<Micros> NextDeadline() const;

  // Walks all state and aborts on any broken promise (blocks held = blocks taken, budgets kept).
  // For tests.
  void CheckInvariants() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace conclave::scheduler

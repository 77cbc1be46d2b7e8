#include "scheduler/batch_planner.h"

#include <algorithm>
#include <map>
#include <set>
#include <unordered_map>
#include <utility>

#include "scheduler/block_pool.h"
#include "scheduler/block_table.h"
#include "scheduler/check.h"
#include "scheduler/planner_entry.h"

namespace conclave::scheduler {
namespace {

using Entry = PlannerEntry;

// A sequence's node moves between the queues of State, so a pointer to it lives as long as the
// sequence does.
using Queue = std::map<Arrival, Entry>;

void Move(Entry& entry, Queue& from, Queue& to) { to.insert(from.extract(entry.arrival)); }

}  // namespace

// Every sequence is in exactly one queue, each ordered by arrival. Because admission and preemption
// go by arrival too, the oldest sequence that is not paused never loses its blocks to another and
// always ends: progress.
struct BatchPlanner::State {
  explicit State(const Options& o)
      : options(o),
        watermark(static_cast<int32_t>(int64_t{o.kv_blocks} * o.watermark_permille / 1000)),
        pool(o.kv_blocks) {}

  const Options options;
  const int32_t watermark;  // blocks

  BlockPool pool;
  Queue running;  // hold blocks
  Queue waiting;  // hold none
  Queue parked;   // hold none and are paused
  std::unordered_map<SequenceId, Entry*> index;
  std::map<std::pair<Micros, Arrival>, Entry*> deadlines;
  std::vector<SequenceId> cancels;  // since the last Plan; some may have ended meanwhile
  int32_t cancelled = 0;            // of them, those that have not
  Arrival arrivals = 0;
  int64_t waiting_tokens = 0;  // of waiting and parked
  bool in_flight = false;      // a plan waits for its Commit
  bool speculates = false;     // somebody has proposed tokens
  uint64_t preemptions = 0;

  Entry* Find(SequenceId id) const {
    const auto found = index.find(id);
    return found == index.end() ? nullptr : found->second;
  }

  Queue& QueueOf(const Entry& entry) {
    if (!entry.blocks.empty()) return running;
    return entry.paused ? parked : waiting;
  }

  int32_t WaitingCount() const { return static_cast<int32_t>(waiting.size() + parked.size()); }

  int32_t PausedCount() const {
    const auto holding = std::count_if(running.begin(), running.end(),
                                       [](const auto& node) { return node.second.paused; });
    return static_cast<int32_t>(parked.size()) + static_cast<int32_t>(holding);
  }

  // Blocks a sequence starts with: all it has, and room for the next token.
  int32_t BlocksToStart(const Entry& entry) const {
    return BlocksFor(std::min(int64_t{entry.length()} + 1, entry.length_max()), options.block_size);
  }

  void GiveBackBlocks(Entry& entry) {
    entry.blocks.GiveBack(pool);
    entry.computed = 0;
  }

  void Remove(Entry& entry) {
    Queue& queue = QueueOf(entry);
    if (&queue != &running) waiting_tokens -= entry.length();
    if (entry.cancelled) --cancelled;
    GiveBackBlocks(entry);
    if (entry.sequence.deadline) deadlines.erase({*entry.sequence.deadline, entry.arrival});
    index.erase(entry.sequence.id);
    queue.erase(entry.arrival);
  }

  // Back to its place in the queue, to be recomputed from position 0.
  void Preempt(Entry& entry, StepPlan* plan) {
    CONCLAVE_CHECK(entry.planned == 0);
    plan->preempted.push_back(entry.sequence.id);
    ++preemptions;
    GiveBackBlocks(entry);
    waiting_tokens += entry.length();
    Move(entry, running, entry.paused ? parked : waiting);
  }

  Entry* YoungestPaused() {
    for (auto it = running.rbegin(); it != running.rend(); ++it) {
      if (it->second.paused) return &it->second;
    }
    return nullptr;
  }

  bool NothingRuns() const {
    return std::all_of(running.begin(), running.end(),
                       [](const auto& node) { return node.second.paused; });
  }

  void DropCancelled(StepPlan* plan) {
    for (const SequenceId id : cancels) {
      Entry* entry = Find(id);
      // The id may have ended, even have been taken again, since it was cancelled.
      if (entry == nullptr || !entry->cancelled) continue;
      plan->dropped.push_back({id, DropReason::kCancelled});
      Remove(*entry);
    }
    cancels.clear();
  }

  void DropLate(Micros now, StepPlan* plan) {
    while (!deadlines.empty() && deadlines.begin()->first.first <= now) {
      Entry& entry = *deadlines.begin()->second;
      plan->dropped.push_back({entry.sequence.id, DropReason::kDeadline});
      Remove(entry);
    }
  }

  void AddToPlan(Entry& entry, int32_t count, StepPlan* plan) {
    const bool completes = count == entry.remaining();
    entry.planned = count;
    plan->sequences.push_back({.id = entry.sequence.id,
                               .first = entry.computed,
                               .count = count,
                               .samples = completes && !entry.scores()});
    plan->tokens += count;
  }

  // A block for the next token of `entry`; when none is free, from a paused sequence, else from the
  // youngest of all, which may be `entry` itself: then it is preempted and the answer is false.
  bool GrowByOne(Entry& entry, StepPlan* plan) {
    while (!entry.blocks.Take(1, pool)) {
      Entry* victim = YoungestPaused();
      if (victim == nullptr) victim = &running.rbegin()->second;
      Preempt(*victim, plan);
      if (victim == &entry) return false;
    }
    return true;
  }

  void PlanDecodes(StepPlan* plan) {
    // From the oldest to the youngest: who is preempted on the way has not been planned yet. A
    // victim may be the very next one, hence upper_bound and not an iterator kept over GrowByOne.
    for (auto it = running.begin(); it != running.end();) {
      const Arrival arrival = it->first;
      Entry& entry = it->second;
      if (!entry.paused && entry.decodes()) {
        const int32_t needed = BlocksFor(entry.length(), options.block_size);
        const bool has_room = needed <= entry.blocks.size();
        if (has_room || GrowByOne(entry, plan)) AddToPlan(entry, 1, plan);
      }
      it = running.upper_bound(arrival);
    }
  }

  // Makes room to start `entry`, if need be by preempting paused sequences, youngest first; false,
  // and nothing changes, if even that would not do.
  bool MakeRoom(const Entry& entry, StepPlan* plan) {
    const int32_t kept_free = NothingRuns() ? 0 : watermark;
    const bool any_paused = YoungestPaused() != nullptr;
    if (!any_paused && pool.available() <= kept_free) return false;  // before any key is looked up
    const std::vector<BlockId> cached = entry.blocks.Cached(0, entry.length(), pool);
    const auto fits = [&](int32_t sequences, int32_t blocks) {
      const auto held = static_cast<int32_t>(std::count_if(
          cached.begin(), cached.end(), [&](BlockId block) { return pool.holders(block) > 0; }));
      return sequences < options.max_running && blocks >= BlocksToStart(entry) - held + kept_free;
    };
    const auto running_now = [&] { return static_cast<int32_t>(running.size()); };
    if (fits(running_now(), pool.available())) return true;
    int32_t paused = 0;
    for (const auto& [arrival, other] : running) paused += other.paused;
    if (!fits(running_now() - paused, pool.available() + HeldByPausedAlone(cached))) return false;
    while (!fits(running_now(), pool.available())) Preempt(*YoungestPaused(), plan);
    return true;
  }

  // Blocks that none but paused sequences hold. Those of `except` are left out: who would take them
  // finds them as they are, but needs as many more as it gains.
  int32_t HeldByPausedAlone(const std::vector<BlockId>& except) const {
    std::unordered_map<BlockId, int32_t> holders;
    for (const auto& [arrival, other] : running) {
      if (!other.paused) continue;
      for (const BlockId block : other.blocks.blocks()) ++holders[block];
    }
    for (const BlockId block : except) holders.erase(block);
    return static_cast<int32_t>(
        std::count_if(holders.begin(), holders.end(),
                      [&](const auto& held) { return held.second == pool.holders(held.first); }));
  }

  void Start(Entry& entry) {
    entry.blocks.Reserve(BlocksFor(entry.length_max(), options.block_size));
    entry.computed = entry.blocks.TakeCached(0, entry.length(), pool);
    CONCLAVE_CHECK(entry.blocks.Take(BlocksToStart(entry) - entry.blocks.size(), pool));
    waiting_tokens -= entry.length();
    Move(entry, waiting, running);
  }

  // Strictly in order: who does not fit lets nobody pass, or a long prompt would wait for ever. A
  // sequence starts only if this step has tokens for it; blocks would be idle otherwise.
  void Admit(StepPlan* plan) {
    int32_t tokens = options.step_tokens - plan->tokens;
    for (const auto& [arrival, entry] : running) tokens -= PrefillWanted(entry);
    while (tokens > 0 && !waiting.empty()) {
      Entry& entry = waiting.begin()->second;
      if (!MakeRoom(entry, plan)) return;
      Start(entry);
      tokens -= PrefillWanted(entry);
    }
  }

  int32_t Chunk(const Entry& entry) const {
    const int32_t own = entry.sequence.prefill_chunk;
    return own == 0 ? options.prefill_chunk : std::min(own, options.prefill_chunk);
  }

  // Decodes are planned by then. Who starts with all but one position cached is no prompt either,
  // but comes with them.
  int32_t PrefillWanted(const Entry& entry) const {
    if (entry.paused || entry.planned > 0) return 0;
    return std::min(entry.remaining(), Chunk(entry));
  }

  void PlanPrefills(StepPlan* plan) {
    std::set<std::array<uint64_t, 4>> filling;  // keys of blocks that get positions in this step
    for (auto& [arrival, entry] : running) {
      const int32_t left = options.step_tokens - plan->tokens;
      if (left == 0) return;
      if (PrefillWanted(entry) == 0) continue;
      entry.computed = entry.blocks.TakeCached(entry.computed, entry.length(), pool);
      const BlockKey* next = entry.blocks.NextKey(entry.computed);
      if (next != nullptr && filling.contains(next->words)) continue;
      if (const auto copy = entry.blocks.CopyOfLast(entry.computed, entry.length(), pool)) {
        plan->copies.push_back(*copy);
        entry.computed = entry.length() - 1;
      }
      const int32_t first = entry.computed;
      AddToPlan(entry, std::min(PrefillWanted(entry), left), plan);
      for (const BlockKey& key : entry.blocks.Keys(first, first + entry.planned - 1)) {
        filling.insert(key.words);
      }
    }
  }

  // Proposals get what tokens and blocks the step has left, those of older sequences first. Of
  // `decodes`, the first so many of the plan.
  void PlanProposals(size_t decodes, StepPlan* plan) {
    if (!speculates) return;
    int32_t left = std::min(options.step_tokens - plan->tokens, options.step_proposals);
    for (size_t i = 0; i < decodes && left > 0; ++i) {
      PlannedSequence& planned = plan->sequences[i];
      // A block that is yet to be copied from stays what it is.
      planned.proposed =
          Find(planned.id)->PlanProposals(left, plan->copies.empty(), options.block_size, pool);
      planned.count += planned.proposed;
      plan->tokens += planned.proposed;
      plan->proposed += planned.proposed;
      left -= planned.proposed;
    }
  }

  void Forget(const Entry& entry) {
    if (entry.blocks.published() == 0) return;
    pool.Forget(entry.blocks.blocks().front());
    for (auto& [arrival, other] : running) other.blocks.NoteForgotten(pool);
  }
};

BatchPlanner::BatchPlanner(const Options& options) {
  CONCLAVE_CHECK(options.block_size >= 1);
  CONCLAVE_CHECK(options.prefill_chunk >= 1);
  CONCLAVE_CHECK(options.max_running >= 1);
  CONCLAVE_CHECK(options.max_waiting >= 1);
  CONCLAVE_CHECK(options.max_waiting_tokens >= 1);
  CONCLAVE_CHECK(options.step_tokens >= options.max_running);
  CONCLAVE_CHECK(options.step_proposals >= 0);
  CONCLAVE_CHECK(options.watermark_permille >= 0 && options.watermark_permille <= 1000);
  state_ = std::make_unique<State>(options);
}

BatchPlanner::~BatchPlanner() = default;

BatchPlanner::Admission BatchPlanner::Add(Sequence sequence) {
  State& s = *state_;
  CONCLAVE_CHECK(sequence.prompt_tokens >= 1 && sequence.max_tokens >= 0);
  CONCLAVE_CHECK(sequence.prefill_chunk >= 0);
  CONCLAVE_CHECK(s.Find(sequence.id) == nullptr);
  CONCLAVE_CHECK(sequence.generated == 0 ||
                 (sequence.generated > 0 && sequence.generated < sequence.max_tokens));
  BlockTable blocks(s.options.block_size, std::move(sequence.keys), sequence.reuse);
  const int32_t generated = sequence.generated;
  Entry entry{.sequence = std::move(sequence), .generated = generated, .blocks = std::move(blocks)};
  CONCLAVE_CHECK(entry.blocks.keys() <= entry.length() / s.options.block_size);
  // In positions, not blocks: the sum of two lengths from outside may exceed 32 bits.
  if (entry.length_max() > int64_t{s.options.kv_blocks} * s.options.block_size ||
      entry.length() > s.options.max_waiting_tokens) {
    return Admission::kNeverFits;
  }
  if (s.WaitingCount() >= s.options.max_waiting ||
      s.waiting_tokens + entry.length() > s.options.max_waiting_tokens) {
    return Admission::kQueueFull;
  }
  entry.arrival = ++s.arrivals;
  s.waiting_tokens += entry.length();
  Entry& added = s.waiting.emplace(entry.arrival, std::move(entry)).first->second;
  s.index.emplace(added.sequence.id, &added);
  if (added.sequence.deadline) {
    s.deadlines.emplace(std::pair(*added.sequence.deadline, added.arrival), &added);
  }
  return Admission::kAdmitted;
}

void BatchPlanner::AddKey(SequenceId id, const BlockKey& key) {
  Entry* entry = state_->Find(id);
  if (entry == nullptr) return;
  const int32_t keys_fill = (entry->blocks.keys() + 1) * state_->options.block_size;
  CONCLAVE_CHECK(keys_fill > entry->length());
  CONCLAVE_CHECK(keys_fill <= entry->length() + 1 + entry->planned_proposed);
  entry->blocks.AddKey(key);
}

void BatchPlanner::Propose(SequenceId id, int32_t tokens) {
  CONCLAVE_CHECK(tokens >= 0);
  if (Entry* entry = state_->Find(id)) {
    entry->proposed = tokens;
    state_->speculates |= tokens > 0;
  }
}

void BatchPlanner::Cancel(SequenceId id) {
  Entry* entry = state_->Find(id);
  if (entry == nullptr || entry->cancelled) return;
  entry->cancelled = true;
  state_->cancels.push_back(id);
  ++state_->cancelled;
}

void BatchPlanner::SetPaused(SequenceId id, bool paused) {
  State& s = *state_;
  Entry* entry = s.Find(id);
  if (entry == nullptr || entry->paused == paused) return;
  Queue& from = s.QueueOf(*entry);
  entry->paused = paused;
  Queue& to = s.QueueOf(*entry);
  if (&from != &to) Move(*entry, from, to);
}

StepPlan BatchPlanner::Plan(Micros now) {
  State& s = *state_;
  CONCLAVE_CHECK(!s.in_flight);
  StepPlan plan;
  s.DropCancelled(&plan);
  s.DropLate(now, &plan);
  s.PlanDecodes(&plan);
  const size_t decodes = plan.sequences.size();
  // A step that lacked blocks for what runs starts nothing new.
  if (plan.preempted.empty()) s.Admit(&plan);
  s.PlanPrefills(&plan);
  s.PlanProposals(decodes, &plan);
  s.in_flight = !plan.sequences.empty();
  return plan;
}

std::vector<SequenceId> BatchPlanner::Commit(const StepPlan& plan, std::span<const uint8_t> ends,
                                             std::span<const int32_t> accepted) {
  State& s = *state_;
  CONCLAVE_CHECK(s.in_flight);
  CONCLAVE_CHECK(accepted.empty() || accepted.size() == ends.size());
  s.in_flight = false;
  std::vector<SequenceId> ended;
  size_t sampled = 0;
  for (const PlannedSequence& planned : plan.sequences) {
    bool end = false;
    int32_t also = 0;  // proposals that are tokens of the sequence now
    if (planned.samples) {
      CONCLAVE_CHECK(sampled < ends.size());
      if (!accepted.empty()) also = accepted[sampled];
      end = ends[sampled++] != 0;
    }
    Entry* entry = s.Find(planned.id);
    if (entry == nullptr || entry->planned == 0)
      continue;  // dropped meanwhile; the id may be a new one's
    CONCLAVE_CHECK(entry->planned == planned.count && entry->computed == planned.first);
    CONCLAVE_CHECK(also >= 0 && also <= planned.proposed);
    if (planned.samples) entry->generated += 1 + also;
    entry->Settle(planned.count - planned.proposed + also, s.options.block_size, s.pool);
    entry->blocks.Publish(entry->computed, s.pool);
    const bool all_generated = planned.samples && entry->generated == entry->sequence.max_tokens;
    const bool scored = entry->scores() && entry->remaining() == 0;
    if (!end && !all_generated && !scored) continue;
    ended.push_back(planned.id);
    s.Remove(*entry);
  }
  CONCLAVE_CHECK(sampled == ends.size());
  return ended;
}

void BatchPlanner::Abandon(const StepPlan& plan) {
  State& s = *state_;
  CONCLAVE_CHECK(s.in_flight);
  s.in_flight = false;
  for (const PlannedSequence& planned : plan.sequences) {
    if (Entry* entry = s.Find(planned.id); entry != nullptr && entry->planned > 0)
      entry->Settle(0, s.options.block_size, s.pool);
  }
}

void BatchPlanner::Drop(SequenceId id) {
  if (Entry* entry = state_->Find(id)) state_->Remove(*entry);
}

void BatchPlanner::DropAndForget(SequenceId id) {
  if (const Entry* entry = state_->Find(id)) state_->Forget(*entry);
  Drop(id);
}

std::span<const BlockId> BatchPlanner::Blocks(SequenceId id) const {
  const Entry* entry = state_->Find(id);
  CONCLAVE_CHECK(entry != nullptr);
  return entry->blocks.blocks();
}

BatchPlanner::Stats BatchPlanner::stats() const {
  const State& s = *state_;
  return {.running = static_cast<int32_t>(s.running.size()),
          .waiting = s.WaitingCount(),
          .paused = s.PausedCount(),
          .waiting_tokens = s.waiting_tokens,
          .blocks_used = s.pool.used(),
          .blocks_cached = s.pool.cached(),
          .blocks = s.pool.size(),
          .evictions = s.pool.evictions(),
          .preemptions = s.preemptions};
}

bool BatchPlanner::idle() const {
  return state_->waiting.empty() && state_->cancelled == 0 && state_->NothingRuns();
}

std::optional<Micros> BatchPlanner::NextDeadline() const {
  if (state_->deadlines.empty()) return std::nullopt;
  return state_->deadlines.begin()->first.first;
}

void BatchPlanner::CheckInvariants() const {
  const State& s = *state_;
  const Options& o = s.options;
  std::vector<int32_t> holders(static_cast<size_t>(s.pool.size()), 0);
  size_t with_deadline = 0;
  int32_t cancelled = 0;
  const auto check_entry = [&](const Entry& entry) {
    const auto found = s.index.find(entry.sequence.id);
    CONCLAVE_CHECK(found != s.index.end() && found->second == &entry);
    CONCLAVE_CHECK(entry.planned == 0 || s.in_flight);
    entry.CheckInvariants(o.block_size, s.pool);
    cancelled += entry.cancelled;
    for (const BlockId block : entry.blocks.blocks()) ++holders[static_cast<size_t>(block)];
    if (entry.sequence.deadline) {
      ++with_deadline;
      CONCLAVE_CHECK(s.deadlines.contains({*entry.sequence.deadline, entry.arrival}));
    }
  };

  int32_t planned = 0;
  for (const auto& [arrival, entry] : s.running) {
    check_entry(entry);
    CONCLAVE_CHECK(!entry.blocks.empty());
    planned += entry.planned;
  }
  int64_t tokens_waiting = 0;
  for (const Queue* queue : {&s.waiting, &s.parked}) {
    for (const auto& [arrival, entry] : *queue) {
      check_entry(entry);
      CONCLAVE_CHECK(entry.blocks.empty());
      CONCLAVE_CHECK(entry.paused == (queue == &s.parked));
      tokens_waiting += entry.length();
    }
  }
  for (BlockId block = 0; block < s.pool.size(); ++block) {
    CONCLAVE_CHECK(holders[static_cast<size_t>(block)] == s.pool.holders(block));
  }
  s.pool.CheckInvariants();
  CONCLAVE_CHECK(planned <= o.step_tokens);
  CONCLAVE_CHECK(static_cast<int32_t>(s.running.size()) <= o.max_running);
  CONCLAVE_CHECK(tokens_waiting == s.waiting_tokens);
  CONCLAVE_CHECK(s.index.size() == s.running.size() + s.waiting.size() + s.parked.size());
  CONCLAVE_CHECK(s.deadlines.size() == with_deadline);
  CONCLAVE_CHECK(s.cancelled == cancelled);
}

}  // namespace conclave::scheduler

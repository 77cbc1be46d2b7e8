#include "tests/sim/planner_sim.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <span>
#include <vector>

#include "scheduler/batch_planner.h"
#include "tests/sim/kv_memory.h"
#include "tests/sim/random.h"

namespace conclave::sim {
namespace {

using scheduler::BatchPlanner;
using scheduler::BlockId;
using scheduler::BlockKey;
using scheduler::DroppedSequence;
using scheduler::DropReason;
using scheduler::Micros;
using scheduler::PlannedSequence;
using scheduler::SequenceId;
using scheduler::StepPlan;
using Admission = BatchPlanner::Admission;

struct Violation {
  const char* promise;
};

void Expect(bool kept, const char* promise) {
  if (!kept) throw Violation{promise};
}

// What the model makes of one position, given what it made of the one before: stands for its key
// and value.
uint64_t Number(uint64_t before, uint64_t token) { return Mix(before ^ Mix(token)); }

enum class Fate : uint8_t { kLive, kRefused, kCompleted, kCancelled, kLate, kFailed };

// A request as the simulation knows it, without asking the planner.
struct Request {
  SequenceId id = 0;
  Micros arrives{0};
  std::optional<Micros> deadline;
  std::vector<uint64_t> tokens;  // the prompt, then what was emitted
  int32_t prompt = 0;
  int32_t max_tokens = 0;
  int32_t generated = 0;      // elsewhere, before it arrived
  int32_t prefill_chunk = 0;  // its own; 0: the planner's
  int32_t stops_after = 0;    // emitted tokens; the model ends it there
  uint64_t salt = 0;          // what its numbers begin with: a tenant's, an adapter's
  bool reuse = true;

  std::vector<uint64_t> numbers;   // of its tokens, of a run alone
  std::vector<BlockKey> keys;      // of its full blocks; stays empty without prefix reuse
  std::vector<uint64_t> proposed;  // guesses at its next tokens

  Fate fate = Fate::kLive;
  bool added = false;
  bool paused = false;
  bool cancelled = false;
  int32_t computed = 0;
  int32_t sealed = 0;         // leading blocks that others may find
  std::set<BlockId> spoiled;  // blocks it held when they were forgotten

  int32_t length() const { return static_cast<int32_t>(tokens.size()); }
  int32_t emitted() const { return length() - prompt; }
  int32_t remaining() const { return length() - computed; }
  int32_t Chunk(int32_t most) const {
    return prefill_chunk == 0 ? most : std::min(prefill_chunk, most);
  }
  uint64_t root() const { return keys.empty() ? 0 : keys.front().words[0]; }
  bool live() const { return added && fate == Fate::kLive; }
  bool decodes() const { return emitted() > 0 && remaining() == 1; }
};

struct Event {
  enum class Kind : uint8_t { kArrive, kCancel, kPause, kResume, kFail };
  Kind kind;
  size_t request;
};

class Simulation {
 public:
  explicit Simulation(uint64_t seed)
      : random_(seed),
        options_(RandomOptions()),
        planner_(options_),
        kv_(options_.kv_blocks, options_.block_size) {
    MakeRequests();
  }

  void Run() {
    while (true) {
      Deliver();
      if (!planner_.idle()) {
        Step();
      } else if (!Sleep()) {
        break;
      }
    }
    CheckEnd();
  }

  uint64_t steps() const { return steps_; }

  void AddTo(Totals* totals) const {
    totals->requests += requests_.size();
    totals->steps += steps_;
    totals->tokens += tokens_;
    totals->reused += reused_;
    totals->copies += copies_;
    totals->proposed += proposed_;
    totals->accepted += accepted_;
    totals->abandoned += abandoned_;
    totals->evictions += planner_.stats().evictions;
    totals->preemptions += planner_.stats().preemptions;
    totals->virtual_seconds += std::chrono::duration<double>(now_).count();
    for (const Request& r : requests_) {
      totals->refused += r.fate == Fate::kRefused;
      totals->completed += r.fate == Fate::kCompleted;
      totals->cancelled += r.fate == Fate::kCancelled;
      totals->late += r.fate == Fate::kLate;
      totals->failed += r.fate == Fate::kFailed;
    }
  }

 private:
  BatchPlanner::Options RandomOptions() {
    BatchPlanner::Options o;
    o.max_running = random_.Between(1, 16);
    o.step_tokens = o.max_running + random_.Between(0, 60);
    o.prefill_chunk = random_.Between(1, 40);
    o.max_waiting = random_.Between(1, 60);
    o.max_waiting_tokens = random_.Between(40, 2000);
    o.block_size = random_.Between(1, 16);
    o.kv_blocks = random_.Between(60, 400) / o.block_size;
    o.watermark_permille = random_.Between(0, 100);
    o.step_proposals = random_.Chance(30) ? 0 : random_.Between(1, 40);
    return o;
  }

  // Bursts: the rate of arrivals jumps between a trickle and more than the worker can do.
  void MakeRequests() {
    prefix_reuse_ = random_.Chance(80);
    const int32_t stems = random_.Between(1, 4);
    const int32_t count = random_.Between(10, 80);
    double at_us = 0;
    double gap_us = 1000;
    for (int32_t i = 0; i < count; ++i) {
      if (random_.Chance(10)) gap_us = random_.Chance(50) ? 200 : 20000;
      at_us += random_.Exponential(gap_us);
      MakeRequest(Micros(static_cast<int64_t>(at_us)), random_.Between(1, stems));
    }
  }

  // Prompts that begin alike: the first tokens are those of a stem, some prompts are all stem.
  void MakeRequest(Micros arrives, int32_t stem) {
    Request r;
    r.id = requests_.size() + 1;
    r.arrives = arrives;
    r.prompt = random_.Between(1, random_.Chance(10) ? 200 : 50);
    r.max_tokens = random_.Chance(10) ? 0 : random_.Between(1, 60);
    if (random_.Chance(15)) r.prefill_chunk = random_.Between(1, 50);
    r.stops_after = random_.Between(1, 90);
    r.salt = random_.Chance(80) ? 1 : 2;
    r.reuse = random_.Chance(90);
    const int32_t alike = random_.Chance(30) ? r.prompt : random_.Between(0, r.prompt);
    for (int32_t i = 0; i < r.prompt; ++i) {
      Append(r, i < alike ? Mix(static_cast<uint64_t>(stem * 1000 + i)) : random_.Next());
    }
    if (random_.Chance(20)) r.deadline = arrives + SomeTime(40000);
    if (r.max_tokens > 1 && random_.Chance(15)) ComeFromElsewhere(r);

    const size_t index = requests_.size();
    events_.emplace(arrives, Event{Event::Kind::kArrive, index});
    if (random_.Chance(15)) Schedule(arrives + SomeTime(20000), Event::Kind::kCancel, index);
    if (random_.Chance(5)) Schedule(arrives + SomeTime(20000), Event::Kind::kFail, index);
    while (random_.Chance(20)) {
      const Micros from = arrives + SomeTime(15000);
      Schedule(from, Event::Kind::kPause, index);
      Schedule(from + SomeTime(15000), Event::Kind::kResume, index);
    }
    requests_.push_back(std::move(r));
  }

  // With what it emitted on a worker that was lost.
  void ComeFromElsewhere(Request& r) {
    r.generated = random_.Between(1, r.max_tokens - 1);
    r.stops_after = std::max(r.stops_after, r.generated + 1);
    for (int32_t i = 0; i < r.generated; ++i) {
      Append(r, Mix(std::accumulate(r.numbers.begin(), r.numbers.end(), uint64_t{0})));
    }
  }

  void Append(Request& r, uint64_t token) {
    r.tokens.push_back(token);
    r.numbers.push_back(Number(r.numbers.empty() ? r.salt : r.numbers.back(), token));
    if (!prefix_reuse_ || r.length() % options_.block_size != 0) return;
    const uint64_t content = r.numbers.back();
    const auto length = static_cast<uint64_t>(r.length());
    r.keys.push_back({{Mix(content), Mix(content ^ length), length, r.salt}});
  }

  Micros SomeTime(double mean_us) {
    return Micros(static_cast<int64_t>(random_.Exponential(mean_us)));
  }

  void Schedule(Micros at, Event::Kind kind, size_t request) {
    events_.emplace(at, Event{kind, request});
  }

  void Deliver() {
    while (!events_.empty() && events_.begin()->first <= now_) {
      const Event event = events_.begin()->second;
      events_.erase(events_.begin());
      Deliver(event.kind, requests_[event.request]);
      steps_left_ = StepsAtMost();
    }
  }

  void Deliver(Event::Kind kind, Request& r) {
    switch (kind) {
      case Event::Kind::kArrive:
        return Arrive(r);
      case Event::Kind::kCancel:
        planner_.Cancel(r.id);
        r.cancelled = r.live();
        return;
      case Event::Kind::kPause:
      case Event::Kind::kResume:
        planner_.SetPaused(r.id, kind == Event::Kind::kPause);
        r.paused = r.live() && kind == Event::Kind::kPause;
        return;
      case Event::Kind::kFail:
        if (r.live()) Fail(r);
        return;
    }
  }

  // Half of those that fail have computed numbers that are none.
  void Fail(Request& r) {
    if (r.computed == 0 || random_.Chance(50)) {
      planner_.Drop(r.id);
    } else {
      if (IsFound(r)) Spoil(r.root());
      planner_.DropAndForget(r.id);
    }
    End(r, Fate::kFailed);
  }

  // Others may find blocks that it holds.
  bool IsFound(const Request& r) const {
    return r.sealed > 0 && !kv_.spoiled(planner_.Blocks(r.id).front());
  }

  void Spoil(uint64_t root) {
    kv_.Spoil(root);
    std::erase_if(findable_, [&](const auto& known) { return known.second == root; });
    for (Request& r : requests_) {
      if (r.live()) NoteSpoiled(r);
    }
  }

  // Of its blocks those that hold its numbers: the others it has yet to write, whatever they held.
  void NoteSpoiled(Request& r) {
    const KvMemory::Table blocks = planner_.Blocks(r.id);
    for (int32_t first = 0; first < r.length() && Block(first) < blocks.size();
         first += options_.block_size) {
      const BlockId block = blocks[Block(first)];
      if (!kv_.spoiled(block) || kv_.Read(blocks, first) != r.numbers[static_cast<size_t>(first)]) {
        break;
      }
      r.spoiled.insert(block);
    }
  }

  void Arrive(Request& r) {
    const bool never = r.prompt + r.max_tokens > options_.kv_blocks * options_.block_size ||
                       r.length() > options_.max_waiting_tokens;
    int32_t waiting = 0;
    int64_t waiting_tokens = r.length();
    for (const Request& other : requests_) {
      if (!other.live() || HoldsBlocks(other)) continue;
      ++waiting;
      waiting_tokens += other.length();
    }
    const bool full =
        waiting >= options_.max_waiting || waiting_tokens > options_.max_waiting_tokens;
    const Admission admission = planner_.Add({.id = r.id,
                                              .prompt_tokens = r.prompt,
                                              .max_tokens = r.max_tokens,
                                              .generated = r.generated,
                                              .prefill_chunk = r.prefill_chunk,
                                              .deadline = r.deadline,
                                              .keys = r.keys,
                                              .reuse = r.reuse});
    Expect((admission == Admission::kNeverFits) == never, "refused for good only if it never fits");
    Expect(never || (admission == Admission::kQueueFull) == full,
           "refused only if the queue is full");
    r.added = true;
    if (admission != Admission::kAdmitted) End(r, Fate::kRefused);
  }

  // When idle: until the next event or deadline. False if nothing will ever happen again.
  bool Sleep() {
    std::optional<Micros> until = planner_.NextDeadline();
    if (!events_.empty() && (!until || events_.begin()->first < *until)) {
      until = events_.begin()->first;
    }
    if (!until) return false;
    now_ = std::max(now_, *until);
    // A deadline is an event of the planner's own: a paused sequence may be dropped by it.
    if (planner_.NextDeadline() && *planner_.NextDeadline() <= now_) Step();
    return true;
  }

  void Step() {
    ++steps_;
    const int32_t unheld = options_.kv_blocks - planner_.stats().blocks_used;
    holders_.clear();
    decoding_.clear();
    for (const Request& r : requests_) {
      if (!r.live() || !HoldsBlocks(r)) continue;
      holders_.insert(r.id);
      if (r.decodes()) decoding_.insert(r.id);
    }
    const StepPlan plan = planner_.Plan(now_);
    Expect(!plan.sequences.empty() || !plan.dropped.empty(), "a planner that is not idle plans");
    TakeDropped(plan);
    TakePreempted(plan, unheld);
    MakeCopies(plan);
    TakeReused(plan);
    CheckPlan(plan);
    CheckBlocks();
    now_ += Micros(1000 + 20 * plan.tokens + random_.Between(0, 500));
    if (!plan.sequences.empty()) ComputeAndCommit(plan);
    CheckBlocks();
    Expect(steps_left_-- > 0, "nothing waits for ever");
  }

  void TakeDropped(const StepPlan& plan) {
    for (const DroppedSequence& dropped : plan.dropped) {
      Request& r = Live(dropped.id);
      const bool cancelled = dropped.reason == DropReason::kCancelled;
      if (cancelled) Expect(r.cancelled, "dropped as cancelled only if it was");
      if (!cancelled) Expect(r.deadline && *r.deadline <= now_, "dropped as late only if it is");
      End(r, cancelled ? Fate::kCancelled : Fate::kLate);
    }
  }

  // A decode takes a block at most: while there are enough, held by none, only paused sequences
  // lose theirs, to let others start.
  void TakePreempted(const StepPlan& plan, int32_t unheld) {
    for (const SequenceId id : plan.preempted) {
      Request& r = Live(id);
      Expect(r.paused || unheld < static_cast<int32_t>(holders_.size()),
             "nobody is preempted for a block while cached ones are left");
      Expect(holders_.contains(id), "preempted only if it held blocks");
      Expect(!HoldsBlocks(r), "the preempted holds no blocks");
      r.computed = r.sealed = 0;
      r.spoiled.clear();
    }
  }

  void MakeCopies(const StepPlan& plan) {
    std::map<BlockId, int32_t> holders;
    for (const Request& r : requests_) {
      if (!r.live()) continue;
      for (const BlockId block : planner_.Blocks(r.id)) ++holders[block];
    }
    for (const scheduler::BlockCopy& copy : plan.copies) {
      Expect(holders[copy.to] == 1, "only a block of one's own is copied to");
      Expect(!kv_.spoiled(copy.from), "what was forgotten is not found");
      kv_.Copy(copy);
      ++copies_;
    }
  }

  // A sequence may be planned behind what it has computed: then it found the blocks in between.
  void TakeReused(const StepPlan& plan) {
    for (const PlannedSequence& planned : plan.sequences) {
      Request& r = Live(planned.id);
      Expect(planned.first >= r.computed, "nothing is computed twice");
      if (!holders_.contains(r.id) && planner_.stats().evictions == 0) {
        Expect(planned.first >= Findable(r), "who starts finds all there is");
      }
      if (planned.first == r.computed) continue;
      Expect(prefix_reuse_ && r.reuse, "only who may reuse does");
      const int32_t size = options_.block_size;
      for (int32_t i = r.computed / size; i < planned.first / size; ++i) {
        const BlockId block = planner_.Blocks(r.id)[static_cast<size_t>(i)];
        Expect(!kv_.spoiled(block) || r.spoiled.contains(block), "what was forgotten is not found");
      }
      reused_ += static_cast<uint64_t>(planned.first - r.computed);
      r.computed = planned.first;
      r.sealed = planned.first / size;
    }
  }

  // Positions of the longest run of blocks that were sealed and not forgotten.
  int32_t Findable(const Request& r) const {
    if (!r.reuse) return 0;
    int32_t positions = 0;
    for (const BlockKey& key : r.keys) {
      const int32_t next = positions + options_.block_size;
      if (next >= r.length() || !findable_.contains(key.words)) break;
      positions = next;
    }
    return positions;
  }

  void CheckPlan(const StepPlan& plan) {
    int32_t tokens = 0;
    int32_t proposed = 0;
    bool prompts = false;
    SequenceId last = 0;
    std::set<SequenceId> planned_ids;
    for (const PlannedSequence& planned : plan.sequences) {
      const Request& r = Live(planned.id);
      tokens += planned.count;
      proposed += planned.proposed;
      planned_ids.insert(planned.id);
      CheckPlanned(r, planned);
      const bool decodes = decoding_.contains(r.id);
      if (!prompts && !decodes) {
        prompts = true;
        last = 0;
      }
      Expect(prompts != decodes, "decodes come before prompts");
      Expect(planned.id > last, "each once, in order of arrival");
      last = planned.id;
    }
    Expect(tokens == plan.tokens && tokens <= options_.step_tokens, "the step budget is kept");
    Expect(proposed == plan.proposed && proposed <= options_.step_proposals,
           "at most step_proposals are proposed");
    Expect(planner_.stats().running <= options_.max_running, "at most max_running run");
    CheckFairness(plan, planned_ids);
  }

  void CheckPlanned(const Request& r, const PlannedSequence& planned) {
    const int32_t count = planned.count - planned.proposed;
    const int32_t end = planned.first + count;
    Expect(!r.paused, "a paused sequence is not stepped");
    Expect(!r.cancelled, "a cancelled sequence is not planned");
    Expect(!r.deadline || *r.deadline > now_, "a late sequence is not planned");
    Expect(planned.first == r.computed, "every position is computed or found, in order");
    Expect(count >= 1 && end <= r.length(), "only known tokens are computed");
    Expect(count <= r.Chunk(options_.prefill_chunk), "the prefill chunk is kept");
    Expect(planned.proposed >= 0 && planned.proposed <= std::ssize(r.proposed),
           "only what was proposed is computed beside them");
    Expect(planned.proposed == 0 ||
               (decoding_.contains(r.id) && r.emitted() + planned.proposed + 1 <= r.max_tokens),
           "proposals are of a decode, and leave room for the token behind them");
    Expect(planned.samples == (r.max_tokens > 0 && end == r.length()),
           "samples after its last token");
    Expect(planned.first + planned.count <=
               static_cast<int32_t>(planner_.Blocks(r.id).size()) * options_.block_size,
           "every planned position has a block");
  }

  // Ids are given in order of arrival.
  void CheckFairness(const StepPlan& plan, const std::set<SequenceId>& planned_ids) {
    SequenceId oldest_waiting = requests_.size() + 1;
    SequenceId oldest_cut = requests_.size() + 1;  // whose prompt did not get all of its chunk
    for (const Request& r : requests_) {
      if (!r.live() || r.paused) continue;
      if (!HoldsBlocks(r)) {
        oldest_waiting = std::min(oldest_waiting, r.id);
      } else if (!planned_ids.contains(r.id) &&
                 !FollowsAnother(r, Block(r.computed), Block(r.length()), plan)) {
        oldest_cut = std::min(oldest_cut, r.id);
        Expect(!decoding_.contains(r.id), "every decode with blocks is stepped");
      }
    }
    for (const PlannedSequence& planned : plan.sequences) {
      const Request& r = Live(planned.id);
      if (decoding_.contains(r.id)) continue;
      Expect(planned.id < oldest_cut, "prompts are computed in order of arrival");
      if (planned.count < std::min(r.remaining(), r.Chunk(options_.prefill_chunk))) {
        oldest_cut = std::min(oldest_cut, planned.id + 1);
      }
      Expect(planned.first % options_.block_size != 0 || !r.spoiled.empty() ||
                 !FollowsAnother(r, Block(planned.first), Block(planned.first), plan),
             "what an older one computes is not computed beside it");
      const bool starts = !holders_.contains(planned.id);
      Expect(!starts || planned.id < oldest_waiting, "nobody starts before an older one");
    }
    Expect(plan.proposed == 0 || oldest_cut > requests_.size(),
           "proposals take nothing from prompts");
  }

  // An older sequence computes, in this step, numbers of a block that `r` lacks: one of [first,
  // last] in its own order.
  bool FollowsAnother(const Request& r, size_t first, size_t last, const StepPlan& plan) const {
    if (!r.reuse) return false;
    for (const PlannedSequence& planned : plan.sequences) {
      const Request& other = requests_[planned.id - 1];
      if (other.id >= r.id || decoding_.contains(other.id) || !other.spoiled.empty()) continue;
      for (size_t i = Block(planned.first); i <= Block(planned.first + planned.count - 1); ++i) {
        if (i < first || i > last || i >= std::min(other.keys.size(), r.keys.size())) continue;
        if (other.keys[i] == r.keys[i]) return true;
      }
    }
    return false;
  }

  size_t Block(int32_t position) const {
    return static_cast<size_t>(position / options_.block_size);
  }

  // Blocks taken = blocks held, and each holds what its holders say.
  void CheckBlocks() {
    planner_.CheckInvariants();
    std::set<BlockId> held;
    int32_t running = 0;
    int32_t live = 0;
    for (const Request& r : requests_) {
      if (!r.live()) continue;
      ++live;
      const std::span<const BlockId> blocks = planner_.Blocks(r.id);
      running += !blocks.empty();
      for (const BlockId block : blocks) {
        Expect(block >= 0 && block < options_.kv_blocks, "blocks are of the pool");
        const bool first = held.insert(block).second;
        Expect(first || prefix_reuse_, "without reuse no block has two holders");
      }
      if (blocks.empty()) continue;
      for (int32_t i = 0; i < r.computed; ++i) {
        Expect(kv_.Read(blocks, i) == r.numbers[static_cast<size_t>(i)],
               "a block holds what its holders' tokens say");
      }
    }
    const BatchPlanner::Stats stats = planner_.stats();
    Expect(std::ssize(held) == stats.blocks_used, "blocks taken = blocks held");
    Expect(stats.blocks_used + stats.blocks_cached <= stats.blocks, "held or cached, not both");
    Expect(running == stats.running && live == running + stats.waiting, "every sequence is known");
  }

  void ComputeAndCommit(const StepPlan& plan) {
    std::vector<uint8_t> ends;
    std::vector<int32_t> accepted;
    std::vector<SequenceId> ending;
    for (const PlannedSequence& planned : plan.sequences) Compute(Live(planned.id), planned);
    if (random_.Chance(2)) return Abandon(plan);
    for (const PlannedSequence& planned : plan.sequences)
      Live(planned.id).computed += planned.count - planned.proposed;
    for (const PlannedSequence& planned : plan.sequences) {
      Request& r = Live(planned.id);
      // A step may fail a sequence: it is dropped, and keeps its place in the commit. More often
      // while a copy has just been made of what is to be forgotten.
      if (random_.Between(1, plan.copies.empty() ? 2000 : 10) == 1) {
        if (planned.samples) {
          ends.push_back(0);
          accepted.push_back(random_.Between(0, planned.proposed));
        }
        Fail(r);
        continue;
      }
      if (planned.samples) Emit(r, planned, &ends, &accepted);
      if (planned.samples ? ends.back() != 0 || r.emitted() == r.max_tokens
                          : r.max_tokens == 0 && r.remaining() == 0) {
        ending.push_back(r.id);
      }
    }
    // What ends with this step is found as well: it was computed.
    for (const PlannedSequence& planned : plan.sequences) {
      if (requests_[planned.id - 1].live()) Seal(requests_[planned.id - 1]);
    }
    Expect(planner_.Commit(plan, ends, accepted) == ending, "who ends is told once, at the end");
    for (const SequenceId id : ending) {
      CheckTokens(Live(id));
      End(Live(id), Fate::kCompleted);
    }
    for (const PlannedSequence& planned : plan.sequences) {
      Request& r = requests_[planned.id - 1];
      if (planned.samples && r.live()) CheckHeldAndPropose(r, planned);
    }
  }

  // The step brought nothing, whatever it wrote.
  void Abandon(const StepPlan& plan) {
    planner_.Abandon(plan);
    for (const PlannedSequence& planned : plan.sequences) Live(planned.id).proposed.clear();
    ++steps_left_;
    ++abandoned_;
  }

  // Guesses of which the first few are right.
  void CheckHeldAndPropose(Request& r, const PlannedSequence& planned) {
    Expect(planned.proposed == 0 || planner_.Blocks(r.id).size() <= Block(r.length() - 1) + 1,
           "blocks of proposals that were wrong are given back");
    r.proposed.clear();
    const int32_t count = random_.Chance(30) ? 0 : random_.Between(0, 20);
    const int32_t right = random_.Between(0, count);
    uint64_t sum = std::accumulate(r.numbers.begin(), r.numbers.end(), uint64_t{0});
    uint64_t number = r.numbers.back();
    for (int32_t i = 0; i < count; ++i) {
      const uint64_t token = Mix(sum);
      r.proposed.push_back(i == right ? token + 1 : token);
      number = Number(number, token);
      sum += number;
    }
    planner_.Propose(r.id, count);
  }

  void Compute(Request& r, const PlannedSequence& planned) {
    const KvMemory::Table blocks = planner_.Blocks(r.id);
    for (int32_t position = planned.first; position < planned.first + planned.count; ++position) {
      const uint64_t before = position == 0 ? r.salt : kv_.Read(blocks, position - 1);
      const int32_t behind = position - r.length();
      const uint64_t token = behind < 0 ? r.tokens[static_cast<size_t>(position)]
                                        : r.proposed[static_cast<size_t>(behind)];
      const uint64_t number = Number(before, token);
      Expect(kv_.Write(blocks, position, number), "no block is written once others may find it");
    }
    tokens_ += static_cast<uint64_t>(planned.count);
    proposed_ += static_cast<uint64_t>(planned.proposed);
  }

  // Attention over every position: a block that was lost, mixed up or stale changes the token.
  // So does a number of a proposal that was wrong.
  void Emit(Request& r, const PlannedSequence& planned, std::vector<uint8_t>* ends,
            std::vector<int32_t>* accepted) {
    uint64_t sum = 0;
    for (int32_t i = 0; i < r.computed; ++i) sum += kv_.Read(planner_.Blocks(r.id), i);
    int32_t right = 0;
    while (true) {
      const size_t keys = r.keys.size();
      Append(r, Mix(sum));
      if (r.keys.size() > keys) planner_.AddKey(r.id, r.keys.back());
      if (r.emitted() == r.stops_after || right == planned.proposed ||
          r.tokens.back() != r.proposed[static_cast<size_t>(right)]) {
        break;
      }
      sum += kv_.Read(planner_.Blocks(r.id), r.computed++);
      ++right;
    }
    ends->push_back(r.emitted() == r.stops_after);
    accepted->push_back(right);
    accepted_ += static_cast<uint64_t>(right);
  }

  // Its full blocks may be found after this step, unless one before them must not.
  void Seal(Request& r) {
    const KvMemory::Table blocks = planner_.Blocks(r.id);
    const auto full = static_cast<size_t>(r.computed / options_.block_size);
    for (size_t i = 0; i < std::min(full, r.keys.size()); ++i) {
      kv_.Seal(blocks, i, r.root());
      if (kv_.spoiled(blocks[i])) break;
      findable_.emplace(r.keys[i].words, r.root());
      r.sealed = static_cast<int32_t>(i) + 1;
    }
  }

  // What the model says of the prompt alone, with no batch, blocks or preemption.
  static void CheckTokens(const Request& r) {
    uint64_t sum = 0;
    for (size_t i = 0; i < r.tokens.size(); ++i) {
      if (i >= static_cast<size_t>(r.prompt)) {
        Expect(r.tokens[i] == Mix(sum), "the tokens are those of a run alone");
      }
      sum += r.numbers[i];
    }
  }

  void End(Request& r, Fate fate) {
    Expect(r.fate == Fate::kLive, "every request ends once");
    r.fate = fate;
  }

  void CheckEnd() {
    for (const Request& r : requests_) Expect(r.added && !r.live(), "every request ends");
    Expect(planner_.stats().blocks_used == 0, "at the end no block is taken");
    Expect(planner_.stats().waiting == 0, "at the end nobody waits");
  }

  // While nothing new happens, the oldest running sequence gets a token in every step and keeps its
  // blocks, so one ends after at most its length in steps. One more for each that is dropped.
  int64_t StepsAtMost() const {
    int64_t steps = 0;
    for (const Request& r : requests_) {
      if (r.live()) steps += r.prompt + r.max_tokens + 1;
    }
    return steps + 1;
  }

  Request& Live(SequenceId id) {
    Expect(id >= 1 && id <= requests_.size(), "only known sequences are named");
    Request& r = requests_[id - 1];
    Expect(r.live(), "only live sequences are named");
    return r;
  }

  bool HoldsBlocks(const Request& r) const { return !planner_.Blocks(r.id).empty(); }

  Random random_;
  const BatchPlanner::Options options_;
  BatchPlanner planner_;
  std::vector<Request> requests_;  // by id - 1
  std::multimap<Micros, Event> events_;
  KvMemory kv_;
  bool prefix_reuse_ = false;
  // Keys of full blocks that were computed and not forgotten, with what their sequences begin with.
  std::map<std::array<uint64_t, 4>, uint64_t> findable_;
  std::set<SequenceId> holders_;   // of blocks, before the current plan
  std::set<SequenceId> decoding_;  // of them, those whose next token is their last
  Micros now_{0};
  uint64_t steps_ = 0;
  uint64_t tokens_ = 0;
  uint64_t reused_ = 0;
  uint64_t copies_ = 0;
  uint64_t proposed_ = 0;
  uint64_t accepted_ = 0;
  uint64_t abandoned_ = 0;
  int64_t steps_left_ = 0;
};

}  // namespace

std::optional<std::string> SimulatePlanner(uint64_t seed, Totals* totals) {
  Simulation simulation(seed);
  try {
    simulation.Run();
  } catch (const Violation& violation) {
    return "seed " + std::to_string(seed) + ", step " + std::to_string(simulation.steps()) +
           ": broken: " + violation.promise;
  }
  simulation.AddTo(totals);
  return std::nullopt;
}

}  // namespace conclave::sim

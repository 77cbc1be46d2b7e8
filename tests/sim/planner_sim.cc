#include "tests/sim/planner_sim.h"

#include <algorithm>
#include <map>
#include <set>
#include <span>
#include <vector>

#include "scheduler/batch_planner.h"
#include "tests/sim/random.h"

namespace conclave::sim {
namespace {

using scheduler::BatchPlanner;
using scheduler::BlockId;
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

// What the model makes of one position: stands for its key and value.
uint64_t Cell(uint64_t token, int32_t position) {
  return Mix(token ^ (static_cast<uint64_t>(position) << 32));
}

enum class Fate : uint8_t { kLive, kRefused, kCompleted, kCancelled, kLate, kFailed };

// A request as the simulation knows it, without asking the planner.
struct Request {
  SequenceId id = 0;
  Micros arrives{0};
  std::optional<Micros> deadline;
  std::vector<uint64_t> tokens;  // the prompt, then what was emitted
  int32_t prompt = 0;
  int32_t max_tokens = 0;
  int32_t prefill_chunk = 0;  // its own; 0: the planner's
  int32_t stops_after = 0;    // emitted tokens; the model ends it there

  Fate fate = Fate::kLive;
  bool added = false;
  bool paused = false;
  bool cancelled = false;
  int32_t computed = 0;

  int32_t length() const { return static_cast<int32_t>(tokens.size()); }
  int32_t emitted() const { return length() - prompt; }
  int32_t remaining() const { return length() - computed; }
  int32_t Chunk(int32_t most) const {
    return prefill_chunk == 0 ? most : std::min(prefill_chunk, most);
  }
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
      : random_(seed), options_(RandomOptions()), planner_(options_) {
    kv_.resize(static_cast<size_t>(options_.kv_blocks) * static_cast<size_t>(options_.block_size));
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
    return o;
  }

  // Bursts: the rate of arrivals jumps between a trickle and more than the worker can do.
  void MakeRequests() {
    const int32_t count = random_.Between(10, 80);
    double at_us = 0;
    double gap_us = 1000;
    for (int32_t i = 0; i < count; ++i) {
      if (random_.Chance(10)) gap_us = random_.Chance(50) ? 200 : 20000;
      at_us += random_.Exponential(gap_us);
      MakeRequest(Micros(static_cast<int64_t>(at_us)));
    }
  }

  void MakeRequest(Micros arrives) {
    Request r;
    r.id = requests_.size() + 1;
    r.arrives = arrives;
    r.prompt = random_.Between(1, random_.Chance(10) ? 200 : 50);
    r.max_tokens = random_.Chance(10) ? 0 : random_.Between(1, 60);
    if (random_.Chance(15)) r.prefill_chunk = random_.Between(1, 50);
    r.stops_after = random_.Between(1, 90);
    for (int32_t i = 0; i < r.prompt; ++i) r.tokens.push_back(random_.Next());
    if (random_.Chance(20)) r.deadline = arrives + SomeTime(40000);

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
        planner_.Drop(r.id);
        if (r.live()) End(r, Fate::kFailed);
        return;
    }
  }

  void Arrive(Request& r) {
    const bool never = r.prompt + r.max_tokens > options_.kv_blocks * options_.block_size ||
                       r.prompt > options_.max_waiting_tokens;
    int32_t waiting = 0;
    int64_t waiting_tokens = r.prompt;
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
                                              .prefill_chunk = r.prefill_chunk,
                                              .deadline = r.deadline});
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
    holders_.clear();
    for (const Request& r : requests_) {
      if (r.live() && HoldsBlocks(r)) holders_.insert(r.id);
    }
    const StepPlan plan = planner_.Plan(now_);
    Expect(!plan.sequences.empty() || !plan.dropped.empty(), "a planner that is not idle plans");
    TakeDropped(plan);
    TakePreempted(plan);
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

  void TakePreempted(const StepPlan& plan) {
    for (const SequenceId id : plan.preempted) {
      Request& r = Live(id);
      Expect(holders_.contains(id), "preempted only if it held blocks");
      Expect(!HoldsBlocks(r), "the preempted holds no blocks");
      r.computed = 0;
    }
  }

  void CheckPlan(const StepPlan& plan) {
    int32_t tokens = 0;
    bool prompts = false;
    SequenceId last = 0;
    std::set<SequenceId> planned_ids;
    for (const PlannedSequence& planned : plan.sequences) {
      const Request& r = Live(planned.id);
      tokens += planned.count;
      planned_ids.insert(planned.id);
      CheckPlanned(r, planned);
      if (!prompts && !r.decodes()) {
        prompts = true;
        last = 0;
      }
      Expect(prompts != r.decodes(), "decodes come before prompts");
      Expect(planned.id > last, "each once, in order of arrival");
      last = planned.id;
    }
    Expect(tokens == plan.tokens && tokens <= options_.step_tokens, "the step budget is kept");
    Expect(planner_.stats().running <= options_.max_running, "at most max_running run");
    CheckFairness(plan, planned_ids);
  }

  void CheckPlanned(const Request& r, const PlannedSequence& planned) {
    const int32_t end = planned.first + planned.count;
    Expect(!r.paused, "a paused sequence is not stepped");
    Expect(!r.cancelled, "a cancelled sequence is not planned");
    Expect(!r.deadline || *r.deadline > now_, "a late sequence is not planned");
    Expect(planned.first == r.computed, "every position is computed, in order");
    Expect(planned.count >= 1 && end <= r.length(), "only known tokens are computed");
    Expect(planned.count <= r.Chunk(options_.prefill_chunk), "the prefill chunk is kept");
    Expect(planned.samples == (r.max_tokens > 0 && end == r.length()),
           "samples after its last token");
    Expect(end <= static_cast<int32_t>(planner_.Blocks(r.id).size()) * options_.block_size,
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
      } else if (!planned_ids.contains(r.id)) {
        oldest_cut = std::min(oldest_cut, r.id);
        Expect(!r.decodes(), "every decode with blocks is stepped");
      }
    }
    for (const PlannedSequence& planned : plan.sequences) {
      const Request& r = Live(planned.id);
      if (r.decodes()) continue;
      Expect(planned.id < oldest_cut, "prompts are computed in order of arrival");
      if (planned.count < std::min(r.remaining(), r.Chunk(options_.prefill_chunk))) {
        oldest_cut = std::min(oldest_cut, planned.id + 1);
      }
      const bool starts = !holders_.contains(planned.id);
      Expect(!starts || planned.id < oldest_waiting, "nobody starts before an older one");
    }
  }

  // Blocks taken = blocks held, and none is held twice.
  void CheckBlocks() {
    planner_.CheckInvariants();
    owners_.assign(static_cast<size_t>(options_.kv_blocks), 0);
    int32_t held = 0;
    int32_t running = 0;
    int32_t live = 0;
    for (const Request& r : requests_) {
      if (!r.live()) continue;
      ++live;
      const std::span<const BlockId> blocks = planner_.Blocks(r.id);
      running += !blocks.empty();
      for (const BlockId block : blocks) {
        Expect(block >= 0 && block < options_.kv_blocks, "blocks are of the pool");
        Expect(owners_[static_cast<size_t>(block)] == 0, "no block has two owners");
        owners_[static_cast<size_t>(block)] = r.id;
        ++held;
      }
    }
    const BatchPlanner::Stats stats = planner_.stats();
    Expect(held == stats.blocks_used, "blocks taken = blocks held");
    Expect(running == stats.running && live == running + stats.waiting, "every sequence is known");
  }

  void ComputeAndCommit(const StepPlan& plan) {
    std::vector<uint8_t> ends;
    std::vector<SequenceId> ending;
    for (const PlannedSequence& planned : plan.sequences) {
      Request& r = Live(planned.id);
      Compute(r, planned);
      if (planned.samples) {
        r.tokens.push_back(Sample(r));
        ends.push_back(r.emitted() == r.stops_after);
      }
      // A step may fail a sequence: it is dropped, and keeps its place in the commit.
      if (random_.Between(1, 2000) == 1) {
        planner_.Drop(r.id);
        End(r, Fate::kFailed);
      } else if (planned.samples ? ends.back() != 0 || r.emitted() == r.max_tokens
                                 : r.max_tokens == 0 && r.remaining() == 0) {
        ending.push_back(r.id);
      }
    }
    Expect(planner_.Commit(plan, ends) == ending, "who ends is told once, at the end");
    for (const SequenceId id : ending) {
      CheckTokens(Live(id));
      End(Live(id), Fate::kCompleted);
    }
  }

  void Compute(Request& r, const PlannedSequence& planned) {
    for (int32_t position = planned.first; position < planned.first + planned.count; ++position) {
      At(r, position) = Cell(r.tokens[static_cast<size_t>(position)], position);
    }
    r.computed += planned.count;
    tokens_ += static_cast<uint64_t>(planned.count);
  }

  // Attention over every position: a block that was lost, shared or stale changes the token.
  uint64_t Sample(const Request& r) {
    uint64_t sum = 0;
    for (int32_t position = 0; position < r.computed; ++position) sum += At(r, position);
    return Mix(sum);
  }

  uint64_t& At(const Request& r, int32_t position) {
    const auto p = static_cast<size_t>(position);
    const auto size = static_cast<size_t>(options_.block_size);
    return kv_[static_cast<size_t>(planner_.Blocks(r.id)[p / size]) * size + p % size];
  }

  // What the model says of the prompt alone, with no batch, blocks or preemption.
  static void CheckTokens(const Request& r) {
    uint64_t sum = 0;
    for (int32_t i = 0; i < r.length(); ++i) {
      if (i >= r.prompt) {
        Expect(r.tokens[static_cast<size_t>(i)] == Mix(sum), "the tokens are those of a run alone");
      }
      sum += Cell(r.tokens[static_cast<size_t>(i)], i);
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
  std::vector<uint64_t> kv_;      // [kv_blocks, block_size]
  std::set<SequenceId> holders_;  // of blocks, before the current plan
  std::vector<SequenceId> owners_;
  Micros now_{0};
  uint64_t steps_ = 0;
  uint64_t tokens_ = 0;
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

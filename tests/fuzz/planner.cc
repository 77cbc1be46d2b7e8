// Any order of calls that the planner's contract allows keeps its invariants.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "scheduler/batch_planner.h"
#include "scheduler/check.h"

namespace {

using conclave::scheduler::BatchPlanner;
using conclave::scheduler::BlockKey;
using conclave::scheduler::Micros;
using conclave::scheduler::PlannedSequence;
using conclave::scheduler::SequenceId;
using conclave::scheduler::StepPlan;

class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  bool empty() const { return at_ >= size_; }
  int32_t Next(int32_t low, int32_t high) {
    const uint8_t byte = empty() ? 0 : data_[at_++];
    return low + byte % (high - low + 1);
  }

 private:
  const uint8_t* data_;
  size_t size_;
  size_t at_ = 0;
};

// Of one of four texts, which part somewhere; or none.
std::vector<BlockKey> KeysOf(int32_t blocks, Bytes& bytes) {
  std::vector<BlockKey> keys;
  const auto text = static_cast<uint64_t>(bytes.Next(0, 4));
  if (text == 4) return keys;
  const auto parts_at = static_cast<uint64_t>(bytes.Next(0, 20));
  for (uint64_t i = 0; i < static_cast<uint64_t>(blocks); ++i) {
    keys.push_back({{i, i < parts_at ? 0 : text, i < parts_at ? 0 : parts_at, 0}});
  }
  return keys;
}

void Step(BatchPlanner& planner, Bytes& bytes, Micros now) {
  const bool idle = planner.idle();
  const StepPlan plan = planner.Plan(now);
  planner.CheckInvariants();
  CONCLAVE_CHECK(idle || !plan.sequences.empty() || !plan.dropped.empty());
  if (plan.sequences.empty()) return;
  if (bytes.Next(0, 15) == 15) return planner.Abandon(plan);
  std::vector<uint8_t> ends;
  std::vector<int32_t> accepted;
  for (const PlannedSequence& planned : plan.sequences) {
    if (!planned.samples) continue;
    ends.push_back(bytes.Next(0, 7) == 7);
    accepted.push_back(planned.proposed == 0 ? 0 : bytes.Next(0, planned.proposed));
  }
  if (bytes.Next(0, 15) == 15) planner.Drop(plan.sequences.front().id);
  planner.Commit(plan, ends, accepted);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Bytes bytes(data, size);
  BatchPlanner::Options options;
  options.max_running = bytes.Next(1, 8);
  options.step_tokens = options.max_running + bytes.Next(0, 31);
  options.prefill_chunk = bytes.Next(1, 32);
  options.max_waiting = bytes.Next(1, 8);
  options.max_waiting_tokens = bytes.Next(1, 200);
  options.kv_blocks = bytes.Next(1, 40);
  options.block_size = bytes.Next(1, 8);
  options.watermark_permille = 4 * bytes.Next(0, 250);
  options.step_proposals = bytes.Next(0, 32);
  BatchPlanner planner(options);

  SequenceId last = 0;
  Micros now{0};
  while (!bytes.empty()) {
    const auto some = [&] { return static_cast<SequenceId>(bytes.Next(1, 255)) % (last + 2); };
    switch (bytes.Next(0, 9)) {
      case 0: {
        BatchPlanner::Sequence sequence{.id = ++last};
        sequence.prompt_tokens = bytes.Next(1, 100);
        sequence.max_tokens = bytes.Next(0, 40);
        if (bytes.Next(0, 3) == 0) sequence.deadline = now + Micros(bytes.Next(0, 100));
        sequence.keys = KeysOf(sequence.prompt_tokens / options.block_size, bytes);
        sequence.reuse = bytes.Next(0, 7) != 0;
        planner.Add(sequence);
        break;
      }
      case 1:
        planner.Cancel(some());
        break;
      case 2:
        planner.SetPaused(some(), true);
        break;
      case 3:
        planner.SetPaused(some(), false);
        break;
      case 4:
        planner.Drop(some());
        break;
      case 5:
        planner.DropAndForget(some());
        break;
      case 6:
        planner.Propose(some(), bytes.Next(0, 16));
        break;
      default:
        Step(planner, bytes, now);
        now += Micros(1);
    }
    planner.CheckInvariants();
  }
  return 0;
}

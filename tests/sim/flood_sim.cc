#include "tests/sim/flood_sim.h"

#include <algorithm>
#include <deque>
#include <unordered_map>

#include "scheduler/check.h"
#include "scheduler/credit_rule.h"
#include "tests/sim/random.h"

namespace conclave::sim {
namespace {

using router::Admission;
using scheduler::Micros;

struct Sequence {
  uint64_t key = 0;
  size_t adapter = 0;
  double came = 0;
  int32_t prompt = 0, output = 0;
  int32_t computed = 0, sampled = 0;
};

// Those that were admitted first come first, as a planner's do.
class Worker {
 public:
  Worker(const FloodOptions& options, uint64_t key) : options_(options), key_(key) { Grant(); }

  void Submit(const Sequence& sequence) {
    CONCLAVE_CHECK(credit_.Take());
    sequences_.push_back(sequence);
  }
  router::WorkerView view() const {
    return {.key = key_, .model = "m", .ready = true, .credit = credit_.granted() - submitted_};
  }
  void CountSubmit() { ++submitted_; }

  // A token of each that runs and has its prompt behind it.
  template <typename OnToken, typename OnEnd>
  void Step(OnToken on_token, OnEnd on_end) {
    int32_t budget = options_.prompt_tokens;
    const size_t running = std::min<size_t>(sequences_.size(), static_cast<size_t>(options_.batch));
    for (size_t i = 0; i < running; ++i) {
      Sequence& sequence = sequences_[i];
      const int32_t chunk = std::min(budget, sequence.prompt - sequence.computed);
      sequence.computed += chunk;
      budget -= chunk;
      if (sequence.computed < sequence.prompt) continue;
      on_token(sequence, ++sequence.sampled);
      if (sequence.sampled == sequence.output) on_end(sequence);
    }
    std::erase_if(sequences_, [](const Sequence& one) { return one.sampled == one.output; });
    Grant();
  }
  int32_t running() const {
    return std::min(static_cast<int32_t>(sequences_.size()), options_.batch);
  }

 private:
  void Grant() {
    const auto sequences = static_cast<int32_t>(sequences_.size());
    credit_.Grant(rule_.Share({.batch = options_.batch, .limit = 1 << 20, .sequences = sequences},
                              /*links=*/1));
  }

  const FloodOptions& options_;
  const uint64_t key_;
  const scheduler::CreditRule rule_{{}};
  scheduler::LinkCredit credit_;
  uint64_t submitted_ = 0;
  std::deque<Sequence> sequences_;
};

double Quantile(std::vector<double>& values, double q) {
  if (values.empty()) return 0;
  const auto at = static_cast<size_t>(q * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(at), values.end());
  return values[at];
}

class Simulation {
 public:
  Simulation(const FloodOptions& options, uint64_t seed)
      : options_(options), random_(seed), admission_(options.admission) {
    admission_.ShareOut(true);
    for (int32_t i = 0; i < options.workers; ++i)
      workers_.emplace_back(options_, static_cast<uint64_t>(i));
    result_.adapters.resize(options.adapters.size());
    first_tokens_.resize(options.adapters.size());
    for (size_t i = 0; i < options.adapters.size(); ++i) next_.push_back(Gap(i));
  }

  FloodResult Run() {
    const auto steps = static_cast<int64_t>(options_.seconds / options_.step_seconds);
    double places = 0;
    for (int64_t step = 0; step < steps; ++step) {
      now_ = static_cast<double>(step) * options_.step_seconds;
      for (size_t i = 0; i < next_.size(); ++i) {
        for (; next_[i] <= now_; next_[i] += Gap(i)) Come(i, next_[i]);
      }
      Dispatch();
      for (Worker& worker : workers_) {
        places += worker.running();
        Step(worker);
      }
      Dispatch();
      if (step % 1000 == 0) admission_.CheckInvariants();
    }
    result_.busy = places / static_cast<double>(steps * options_.workers * options_.batch);
    Judge();
    return result_;
  }

 private:
  bool counts(double when) const { return when >= options_.seconds / 10; }
  double Gap(size_t adapter) {
    const FloodOptions::Adapter& own = options_.adapters[adapter];
    const double capacity = options_.workers * options_.batch / options_.step_seconds;
    const double share = capacity / static_cast<double>(options_.adapters.size());
    const double output = (own.output_least + own.output_most) / 2.0;
    return random_.Exponential(output / (share * own.shares));
  }

  void Come(size_t adapter, double when) {
    const FloodOptions::Adapter& own = options_.adapters[adapter];
    Sequence sequence{.key = ++last_key_,
                      .adapter = adapter,
                      .came = when,
                      .prompt = random_.Between(1, options_.prompt_most),
                      .output = random_.Between(own.output_least, own.output_most)};
    FloodResult::Adapter& result = result_.adapters[adapter];
    if (counts(when)) {
      ++result.came;
      result.demanded += sequence.output;
    }
    const std::string id = std::to_string(sequence.key);
    const std::string name = "adapter" + std::to_string(adapter);
    auto refusal = admission_.Reserve(sequence.key, id, std::nullopt, name);
    if (!refusal) {
      refusal =
          admission_.Enqueue(sequence.key, {.prompt = sequence.prompt, .output = own.output_most});
      if (refusal) admission_.Remove(sequence.key, Micros(0));
    }
    if (refusal) {
      result.refused += counts(when);
    } else {
      waiting_[sequence.key] = sequence;
    }
  }

  void Dispatch() {
    std::vector<router::WorkerView> views;
    for (const Worker& worker : workers_) views.push_back(worker.view());
    for (const auto& start : admission_.Dispatch(views, "m", random_.Next())) {
      Worker& worker = workers_[start.worker];
      worker.CountSubmit();
      worker.Submit(waiting_.at(start.key));
      waiting_.erase(start.key);
    }
  }

  void Step(Worker& worker) {
    const double then = now_ + options_.step_seconds;
    worker.Step(
        [&](const Sequence& sequence, int32_t sampled) {
          if (!counts(then)) return;
          result_.adapters[sequence.adapter].served += 1;
          if (sampled == 1 && counts(sequence.came))
            first_tokens_[sequence.adapter].push_back(then - sequence.came);
        },
        [&](const Sequence& sequence) {
          const Micros at(static_cast<int64_t>(then * 1e6));
          admission_.LeaveHome(sequence.key, at, sequence.prompt + sequence.sampled);
          admission_.Remove(sequence.key, at);
        });
  }

  void Judge() {
    const double seconds = options_.seconds * 0.9;
    double left = 0;
    for (size_t i = 0; i < result_.adapters.size(); ++i) {
      FloodResult::Adapter& adapter = result_.adapters[i];
      adapter.demanded /= seconds;
      adapter.served /= seconds;
      left += adapter.served;
      adapter.first_token_p50 = Quantile(first_tokens_[i], 0.5);
      adapter.first_token_p99 = Quantile(first_tokens_[i], 0.99);
    }
    std::vector<FloodResult::Adapter> by_demand = result_.adapters;
    std::sort(by_demand.begin(), by_demand.end(),
              [](const auto& a, const auto& b) { return a.demanded < b.demanded; });
    double sum = 0, squares = 0;
    for (size_t i = 0; i < by_demand.size(); ++i) {
      const double fair = left / static_cast<double>(by_demand.size() - i);
      const double due = std::min(by_demand[i].demanded, fair);
      const double ratio = by_demand[i].served / due;
      left -= due;
      sum += ratio;
      squares += ratio * ratio;
    }
    result_.jain = sum * sum / (static_cast<double>(by_demand.size()) * squares);
  }

  const FloodOptions options_;
  Random random_;
  Admission admission_;
  std::deque<Worker> workers_;
  FloodResult result_;
  std::vector<double> next_;  // of each adapter
  std::vector<std::vector<double>> first_tokens_;
  std::unordered_map<uint64_t, Sequence> waiting_;
  uint64_t last_key_ = 0;
  double now_ = 0;
};

}  // namespace

FloodResult SimulateFlood(const FloodOptions& options, uint64_t seed) {
  return Simulation(options, seed).Run();
}

}  // namespace conclave::sim

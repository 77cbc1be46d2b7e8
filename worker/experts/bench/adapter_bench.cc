// What adapters cost a step, beside what their experts' bytes cost anybody:
//   conclave-adapter-bench MODEL --adapter DIR... [--pairs 20] [--tokens 8]
// Steps of the base alone, in batches of many sizes, give a fit of a step's seconds to its distinct
// expert bytes and rows; steps of as many rows spread over the adapters, taken in turns with them,
// are held against it. Two workers are compared besides, one with the adapters and one without, on
// the base's traffic alone; and the table of experts is timed by itself.
// Prints a line for each figure, medians with their 95 % interval.

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "scheduler/placement.h"
#include "worker/engine.h"
#include "worker/experts/expert_table.h"
#include "worker/model/expert_layout.h"
#include "worker/model/model.h"

namespace conclave::worker {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::array kFitted = {1, 2, 4, 8, 12, 16, 24, 32, 48, 64};  // batches of the base
constexpr std::array kJudged = {1, 16, 64};
constexpr int kLargest = 64;

struct Arguments {
  std::string model;
  std::vector<std::string> adapters;
  int pairs = 20;
  int tokens = 8;
};

[[noreturn]] void Fail(const absl::Status& status) {
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  std::exit(1);
}

double Seconds(Clock::duration time) { return std::chrono::duration<double>(time).count(); }

class Ends final : public Link {
 public:
  void OnStep(std::vector<SequenceEvent> events) override {
    for (const SequenceEvent& event : events) count += event.end.has_value();
  }
  int count = 0;
};

// Mean of the steps of one batch.
struct Run {
  double seconds = 0;
  double expert_bytes = 0;  // distinct ones, of all layers
  double experts = 0;
  double rows = 0;
};

class Worker {
 public:
  Worker(const std::shared_ptr<const Model>& model, const std::vector<std::string>& adapters,
         int tokens)
      : model_(model), tokens_(tokens) {
    Engine::Options options;
    options.prefix_reuse = false;
    options.start_thread = false;
    options.experts.id = "w";
    options.planner.max_running = kLargest;
    options.kv_bytes = int64_t{64} << 20;
    auto engine =
        Engine::Create(options, model, *MakeCpuDevice(CpuDeviceOptionsFor(model->spec, options)));
    if (!engine.ok()) Fail(engine.status());
    engine_ = *std::move(engine);
    scheduler::Placement placement = scheduler::Everywhere({"w"}, model->Experts().size());
    for (const std::string& directory : adapters) {
      const auto check = engine_->CheckAdapter(directory);
      if (!check.ok()) Fail(check.status());
      digests_.push_back(check->digest);
      placement =
          WithAdapter(std::move(placement),
                      {.digest = check->digest, .source = directory, .replaced = check->replaced});
    }
    placement.epoch = placement.plan = 1;
    placement_ = placement;
    const auto shared = std::make_shared<const scheduler::Placement>(std::move(placement));
    if (const auto status = engine_->Prepare(shared); !status.ok()) Fail(status);
    if (const auto status = engine_->Commit(1, 1); !status.ok()) Fail(status);
    engine_->Step(Engine::Now());
  }

  const scheduler::Placement& placement() const { return placement_; }

  // A batch of prompts of one token; every lot asks for others. The first step, which takes the
  // sequences in, does not count.
  Run Decode(int batch, bool adapted, uint64_t lot) {
    const auto link = std::make_shared<Ends>();
    for (int i = 0; i < batch; ++i) {
      SequenceRequest request;
      request.id = ++last_id_;
      const uint64_t token = (lot * 64 + static_cast<uint64_t>(i)) * 7919 + 13;
      request.prompt = {static_cast<int32_t>(token % static_cast<uint64_t>(model_->spec.vocab))};
      request.max_tokens = tokens_ + 1;
      if (adapted) {
        request.adapter = digests_[(lot + static_cast<uint64_t>(i)) % digests_.size()];
      }
      if (const auto status = engine_->Submit(link, std::move(request)); !status.ok()) Fail(status);
    }
    engine_->Step(Engine::Now());
    const uint64_t read = engine_->expert_stats().server.weights_read;
    const Clock::time_point begin = Clock::now();
    int steps = 0;
    for (; link->count < batch; ++steps) engine_->Step(Engine::Now());
    const double seconds = Seconds(Clock::now() - begin);
    const double experts = static_cast<double>(engine_->expert_stats().server.weights_read - read);
    const double bytes = static_cast<double>(ExpertLayout(model_->spec).bytes());
    return {.seconds = seconds / steps,
            .expert_bytes = experts * bytes / steps,
            .experts = experts / steps,
            .rows = static_cast<double>(batch)};
  }

 private:
  const std::shared_ptr<const Model> model_;
  const int tokens_;
  std::unique_ptr<Engine> engine_;
  scheduler::Placement placement_;
  std::vector<std::string> digests_;
  uint64_t last_id_ = 0;
};

// Least squares of seconds = a + b * bytes + c * rows, each run weighted by what it takes: a step
// of one row counts as much as one of 64.
std::array<double, 3> Fit(const std::vector<Run>& runs) {
  std::array<std::array<double, 4>, 3> sums{};
  for (const Run& run : runs) {
    const std::array<double, 4> terms = {1 / run.seconds, run.expert_bytes / run.seconds,
                                         run.rows / run.seconds, 1};
    for (size_t i = 0; i < 3; ++i) {
      for (size_t j = 0; j < 4; ++j) sums[i][j] += terms[i] * terms[j];
    }
  }
  for (size_t i = 0; i < 3; ++i) {
    for (size_t k = 0; k < 3; ++k) {
      if (k == i) continue;
      const double factor = sums[k][i] / sums[i][i];
      for (size_t j = 0; j < 4; ++j) sums[k][j] -= factor * sums[i][j];
    }
  }
  return {sums[0][3] / sums[0][0], sums[1][3] / sums[1][1], sums[2][3] / sums[2][2]};
}

void PrintMedian(const char* what, int batch, std::vector<double> values) {
  std::sort(values.begin(), values.end());
  // Of the order statistics, those that hold the median with 95 %.
  const size_t middle = values.size() / 2;
  const auto half = static_cast<size_t>(0.98 * std::sqrt(static_cast<double>(values.size())));
  std::printf("%s batch %d median %.4f interval %.4f %.4f\n", what, batch, values[middle],
              values[middle > half ? middle - half : 0],
              values[std::min(values.size() - 1, middle + half)]);
}

// Seconds that the table takes of a step.
double TimeTable(const Model& model, const scheduler::Placement& placement, int batch) {
  const auto layers =
      static_cast<int32_t>(model.Experts().size() / static_cast<size_t>(model.spec.gate.slots));
  ExpertTable table(layers, model.spec.gate.slots);
  table.SetAdapters(placement.adapters);
  const auto top_k = static_cast<size_t>(model.spec.gate.top_k);
  std::vector<int32_t> slots(top_k);
  std::vector<scheduler::ExpertId> experts(top_k);
  constexpr int kTimes = 1000;
  const Clock::time_point begin = Clock::now();
  uint64_t sum = 0;
  for (int time = 0; time < kTimes; ++time) {
    for (int32_t layer = 0; layer < layers; ++layer) {
      for (int row = 0; row < batch; ++row) {
        for (size_t k = 0; k < top_k; ++k)
          slots[k] = static_cast<int32_t>((static_cast<size_t>(row + time) * 31 + k * 7) %
                                          static_cast<size_t>(model.spec.gate.slots));
        const auto adapter = static_cast<AdapterIndex>(
            placement.adapters.empty() ? 0
                                       : 1 + static_cast<size_t>(row) % placement.adapters.size());
        table.Resolve(adapter, layer, slots, experts);
        sum += std::accumulate(experts.begin(), experts.end(), uint64_t{0});
      }
    }
  }
  const double seconds = Seconds(Clock::now() - begin) / kTimes;
  if (sum == 0) std::printf("\n");  // or nothing was resolved
  return seconds;
}

Arguments Parse(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i < argc; ++i) {
    const bool more = i + 1 < argc;
    if (std::strcmp(argv[i], "--adapter") == 0 && more) {
      arguments.adapters.emplace_back(argv[++i]);
    } else if (std::strcmp(argv[i], "--pairs") == 0 && more) {
      arguments.pairs = std::atoi(argv[++i]);
    } else if (std::strcmp(argv[i], "--tokens") == 0 && more) {
      arguments.tokens = std::atoi(argv[++i]);
    } else {
      arguments.model = argv[i];
    }
  }
  return arguments;
}

int Main(int argc, char** argv) {
  const Arguments arguments = Parse(argc, argv);
  if (arguments.model.empty() || arguments.adapters.empty()) {
    std::fprintf(stderr, "usage: conclave-adapter-bench MODEL --adapter DIR... [--pairs N]\n");
    return 2;
  }
  auto model = Model::Load(arguments.model);
  if (!model.ok()) Fail(model.status());
  Worker bare(*model, {}, arguments.tokens);
  Worker full(*model, arguments.adapters, arguments.tokens);
  for (const int batch : kJudged) {  // pages are touched
    for (uint64_t lot = 0; lot < 4; ++lot)
      bare.Decode(batch, false, lot), full.Decode(batch, true, lot);
  }

  std::vector<Run> base;
  std::map<int, std::vector<Run>> adapted, plain;
  for (int pair = 0; pair < arguments.pairs; ++pair) {
    const auto lot = static_cast<uint64_t>(pair);
    for (const int batch : kFitted) {
      base.push_back(full.Decode(batch, false, lot));
      if (std::find(kJudged.begin(), kJudged.end(), batch) == kJudged.end()) continue;
      plain[batch].push_back(base.back());
      adapted[batch].push_back(full.Decode(batch, true, lot));
    }
  }
  const std::array<double, 3> fit = Fit(base);
  std::printf("fit of %zu runs: %.3f ms + %.3f ms/GB of experts + %.4f ms/row\n", base.size(),
              fit[0] * 1e3, fit[1] * 1e12, fit[2] * 1e3);
  for (const int batch : kJudged) {
    std::vector<double> to_fit, base_to_fit, outright;
    double experts = 0, base_experts = 0;
    const auto predicted = [&](const Run& run) {
      return fit[0] + fit[1] * run.expert_bytes + fit[2] * run.rows;
    };
    for (size_t i = 0; i < adapted[batch].size(); ++i) {
      const Run& with = adapted[batch][i];
      const Run& without = plain[batch][i];
      to_fit.push_back(with.seconds / predicted(with));
      base_to_fit.push_back(without.seconds / predicted(without));
      outright.push_back(with.seconds / without.seconds);
      experts += with.experts, base_experts += without.experts;
    }
    const double runs = static_cast<double>(outright.size());
    std::printf("distinct experts of a step batch %d adapters %.1f base %.1f\n", batch,
                experts / runs, base_experts / runs);
    PrintMedian("adapters to fit", batch, to_fit);
    PrintMedian("base to fit", batch, base_to_fit);
    PrintMedian("adapters to base", batch, outright);
    std::printf("table batch %d share %.6f\n", batch,
                TimeTable(**model, full.placement(), batch) / predicted(adapted[batch][0]));
  }
  for (const int batch : kJudged) {
    std::vector<double> ratios;
    for (int pair = 0; pair < arguments.pairs; ++pair) {
      const auto lot = static_cast<uint64_t>(pair);
      double without = 0, with = 0;
      if (pair % 2 == 0) without = bare.Decode(batch, false, lot).seconds;
      with = full.Decode(batch, false, lot).seconds;
      if (pair % 2 == 1) without = bare.Decode(batch, false, lot).seconds;
      ratios.push_back(without / with);
    }
    PrintMedian("base throughput, loaded to none loaded", batch, ratios);
  }
  return 0;
}

}  // namespace
}  // namespace conclave::worker

int main(int argc, char** argv) { return conclave::worker::Main(argc, argv); }

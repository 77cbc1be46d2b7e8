// What spreading experts costs on one machine: tokens a second of N workers with one compute thread
// each, beside one worker with N, interleaved, in one process, on the same checkpoint.
//   conclave-parallel-bench MODEL [--workers 2] [--pairs 20] [--batch 16] [--tokens 16]
//   [--gather-us 20000] [--returns rows|sums]
// Prints a line for each pair and at the end what workers sent each other and the median of the
// ratios with its 95 % interval.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "scheduler/check.h"
#include "worker/engine.h"
#include "worker/experts/in_process_transport.h"
#include "worker/model/model.h"

namespace conclave::worker {
namespace {

struct Arguments {
  std::string model;
  int workers = 2;
  int pairs = 20;
  int batch = 16;
  int tokens = 16;
  Returns returns = Returns::kRows;
  int gather_us = static_cast<int>(scheduler::GatherRule::Options().longest.count());
};

class Ends final : public Link {
 public:
  void OnStep(std::vector<SequenceEvent> events) override {
    for (const SequenceEvent& event : events) count_ += event.end.has_value();
    count_.notify_all();
  }
  void Await(int count) {
    for (int now = count_; now < count; now = count_) count_.wait(now);
  }

 private:
  std::atomic<int> count_{0};
};

// Engines joined in one process, every expert owned by one of them.
class Group {
 public:
  Group(const Arguments& arguments, const std::shared_ptr<const Model>& model, int workers,
        int threads)
      : arguments_(arguments),
        vocab_(model->spec.vocab),
        layers_(static_cast<int32_t>(FrameLimitsFor(model->spec, 1).layers)),
        network_(
            FrameLimitsFor(model->spec, Engine::Options().planner.step_tokens, arguments.returns)) {
    std::vector<Peer> peers;
    std::vector<std::string> names;
    for (int i = 0; i < workers; ++i) {
      Engine::Options options;
      options.prefix_reuse = false;
      options.experts.id = "w" + std::to_string(i);
      options.experts.returns = arguments.returns;
      options.experts.server.gather.longest = scheduler::Micros(arguments.gather_us);
      CpuDeviceOptions device = CpuDeviceOptionsFor(model->spec, options);
      device.threads = threads;
      auto engine = Engine::Create(options, model, *MakeCpuDevice(device),
                                   workers == 1 ? nullptr : network_.Join(options.experts.id, 1));
      if (!engine.ok()) Fail(engine.status());
      engines_.push_back(*std::move(engine));
      peers.push_back({.id = options.experts.id, .incarnation = 1});
      names.push_back(options.experts.id);
    }
    if (workers == 1) return;
    const FrameLimits limits = FrameLimitsFor(model->spec, 1);
    scheduler::Placement placement =
        scheduler::Contiguous(names, static_cast<int32_t>(limits.layers), model->spec.gate.slots);
    placement.epoch = placement.plan = 1;
    const auto shared = std::make_shared<const scheduler::Placement>(placement);
    for (const auto& engine : engines_) engine->SetPeers(peers);
    for (const auto& engine : engines_) {
      if (const auto status = engine->Prepare(shared); !status.ok()) Fail(status);
      if (const auto status = engine->Commit(1, 1); !status.ok()) Fail(status);
    }
  }

  // Tokens a second of one batch, prompts of one token.
  double Run() {
    const auto link = std::make_shared<Ends>();
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < arguments_.batch; ++i) {
      SequenceRequest request;
      request.id = ++last_id_;
      request.prompt = {static_cast<int32_t>((i * 7919 + 13) % vocab_)};
      request.max_tokens = arguments_.tokens;
      const absl::Status status =
          engines_[static_cast<size_t>(i) % engines_.size()]->Submit(link, std::move(request));
      if (!status.ok()) Fail(status);
    }
    link->Await(arguments_.batch);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    return arguments_.batch * arguments_.tokens / took.count();
  }

  std::string Frames() const {
    uint64_t frames = 0, rows = 0, steps = 0, passes = 0, read = 0;
    uint64_t bytes = 0, home_bytes = 0, tokens = 0;
    for (const auto& engine : engines_) {
      const ExpertHost::Stats stats = engine->expert_stats();
      frames += stats.exchange.frames;
      rows += stats.exchange.rows;
      bytes += stats.exchange.bytes;
      home_bytes += stats.exchange.home_bytes;
      passes += stats.server.passes;
      read += stats.server.weights_read;
      steps += engine->stats().steps;
      tokens += engine->stats().generated_tokens;
    }
    const double rounds = static_cast<double>(steps) * static_cast<double>(layers_);
    const double places = static_cast<double>(tokens) * static_cast<double>(layers_);
    char line[360];
    std::snprintf(line, sizeof line,
                  "%llu steps, %llu frames, %llu rows sent, %llu passes, %llu experts read\n"
                  "payload of a token and layer: %.1f bytes to owners, %.1f home\n"
                  "frames %.3f for each step and layer",
                  static_cast<unsigned long long>(steps), static_cast<unsigned long long>(frames),
                  static_cast<unsigned long long>(rows), static_cast<unsigned long long>(passes),
                  static_cast<unsigned long long>(read),
                  static_cast<double>(bytes - home_bytes) / places,
                  static_cast<double>(home_bytes) / places, static_cast<double>(frames) / rounds);
    return line;
  }

 private:
  [[noreturn]] static void Fail(const absl::Status& status) {
    std::fprintf(stderr, "%s\n", status.ToString().c_str());
    std::exit(1);
  }

  const Arguments arguments_;
  const int32_t vocab_;
  const int32_t layers_;  // that have experts
  InProcessNetwork network_;
  std::vector<std::unique_ptr<Engine>> engines_;
  uint64_t last_id_ = 0;
};

Arguments Parse(int argc, char** argv) {
  Arguments arguments;
  const std::pair<const char*, int*> flags[] = {{"--workers", &arguments.workers},
                                                {"--pairs", &arguments.pairs},
                                                {"--batch", &arguments.batch},
                                                {"--tokens", &arguments.tokens},
                                                {"--gather-us", &arguments.gather_us}};
  for (int i = 1; i < argc; ++i) {
    const auto flag = std::find_if(std::begin(flags), std::end(flags), [&](const auto& known) {
      return std::strcmp(known.first, argv[i]) == 0;
    });
    if (std::strcmp(argv[i], "--returns") == 0 && i + 1 < argc) {
      const std::string_view what = argv[++i];
      CONCLAVE_CHECK(what == NameOf(Returns::kSums) || what == NameOf(Returns::kRows));
      arguments.returns = what == NameOf(Returns::kSums) ? Returns::kSums : Returns::kRows;
    } else if (flag != std::end(flags) && i + 1 < argc) {
      *flag->second = std::atoi(argv[++i]);
    } else {
      arguments.model = argv[i];
    }
  }
  return arguments;
}

int Main(int argc, char** argv) {
  const Arguments arguments = Parse(argc, argv);
  auto model = Model::Load(arguments.model);
  if (!model.ok()) {
    std::fprintf(stderr, "%s\n", model.status().ToString().c_str());
    return 1;
  }
  Group one(arguments, *model, 1, arguments.workers);
  Group many(arguments, *model, arguments.workers, 1);
  one.Run(), many.Run();  // pages are touched
  std::vector<double> ratios;
  for (int pair = 0; pair < arguments.pairs; ++pair) {
    const bool first = pair % 2 == 0;
    double a = 0, b = 0;
    if (first) a = one.Run();
    b = many.Run();
    if (!first) a = one.Run();
    ratios.push_back(b / a);
    std::printf("one worker %8.1f tokens/s, %d workers %8.1f, ratio %.3f\n", a, arguments.workers,
                b, b / a);
  }
  std::sort(ratios.begin(), ratios.end());
  // Of the order statistics, those that hold the median with 95 %.
  const double n = static_cast<double>(ratios.size());
  const auto half = static_cast<size_t>(0.98 * std::sqrt(n));
  const size_t middle = ratios.size() / 2;
  std::printf("%s\n", many.Frames().c_str());
  std::printf("median %.3f interval %.3f %.3f\n", ratios[middle],
              ratios[middle > half ? middle - half : 0],
              ratios[std::min(ratios.size() - 1, middle + half)]);
  return 0;
}

}  // namespace
}  // namespace conclave::worker

int main(int argc, char** argv) { return conclave::worker::Main(argc, argv); }

// Steps of one worker on a checkpoint, beside what the machine's memory and cores permit, measured
// in the same run: decoding of batches, prompts, and where their time goes.
//   conclave-step-bench MODEL [--threads 1] [--level NAME] [--weights stored] [--batches 1,4,16,64]
//   [--context 32] [--steps 16] [--prompts 512] [--chunk 512] [--runs 5] [--json]
// Each figure is the median of `runs`; batches, prompts and readings of the roof take turns.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "nlohmann/json.hpp"
#include "worker/bench/metered_device.h"
#include "worker/bench/roofline.h"
#include "worker/device/packed.h"
#include "worker/engine.h"
#include "worker/model/model.h"

namespace conclave::worker {
namespace {

struct Arguments {
  std::string model;
  std::string level;
  std::optional<DType> experts_as;
  int threads = 1;
  std::vector<int> batches = {1, 4, 16, 64};
  std::vector<int> prompts = {512};
  int context = 32;
  int steps = 16;
  int chunk = 512;
  int runs = 5;
  bool json = false;
};

[[noreturn]] void Fail(const std::string& why) {
  std::fprintf(stderr, "%s\n", why.c_str());
  std::exit(1);
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

class Ends final : public Link {
 public:
  void OnStep(std::vector<SequenceEvent> events) override {
    for (const SequenceEvent& event : events) {
      if (event.end && !event.end->status.ok() && !absl::IsCancelled(event.end->status)) {
        Fail(event.end->status.ToString());
      }
    }
  }
};

// What the machine permits, read between the runs.
struct Roof {
  std::vector<double> bytes, bf16, fp32;  // a second
  double Seconds(const MeteredDevice::Meter& work) const {
    const double reading = work.bytes / Median(bytes);
    const double fp32_peak = Median(fp32);
    const double bf16_peak = Median(bf16) > 0 ? Median(bf16) : fp32_peak;
    if (fp32_peak == 0) return reading;  // "portable": nothing is known of its arithmetic
    return std::max(reading, work.bf16_operations / bf16_peak + work.fp32_operations / fp32_peak);
  }
};

// One shape of work: what its runs took.
struct Figure {
  std::string what;
  int tokens = 0;  // a run brings
  std::vector<double> seconds;
  std::vector<MeteredDevice::Meters> meters;

  MeteredDevice::Meter Total(size_t run) const {
    MeteredDevice::Meter sum;
    for (const MeteredDevice::Meter& meter : meters[run]) sum += meter;
    return sum;
  }
  // The run of the median time.
  size_t Middle() const {
    const double median = Median(seconds);
    return static_cast<size_t>(std::find(seconds.begin(), seconds.end(), median) - seconds.begin());
  }
};

class Bench {
 public:
  explicit Bench(const Arguments& arguments) : arguments_(arguments) {
    auto model = Model::Load(arguments.model, {.experts_as = arguments.experts_as});
    if (!model.ok()) Fail(model.status().ToString());
    model_ = *std::move(model);
    Engine::Options options;
    const int widest = *std::max_element(arguments.batches.begin(), arguments.batches.end());
    options.planner.max_running = std::max(widest, 1);
    options.planner.prefill_chunk = arguments.chunk;
    options.planner.step_tokens = std::max(arguments.chunk, widest);
    options.kv_bytes = int64_t{2} << 30;
    options.prefix_reuse = false;
    options.start_thread = false;
    CpuDeviceOptions device = CpuDeviceOptionsFor(model_->spec, options);
    device.threads = arguments.threads;
    device.level = arguments.level;
    device.spin_us = 1000;
    auto made = MakeCpuDevice(device);
    if (!made.ok()) Fail(made.status().ToString());
    auto metered = std::make_unique<MeteredDevice>(*std::move(made));
    device_ = metered.get();
    auto engine = Engine::Create(options, model_, std::move(metered));
    if (!engine.ok()) Fail(engine.status().ToString());
    engine_ = *std::move(engine);
    level_ = arguments.level.empty() ? CpuLevels().front() : arguments.level;
  }

  // Seconds of `steps` steps in which `batch` sequences behind `context` tokens take one each.
  void Decode(Figure& figure, int batch) {
    const uint64_t before = engine_->stats().prompt_tokens;
    const auto prompts = static_cast<uint64_t>(batch) * static_cast<uint64_t>(arguments_.context);
    // Those whose prompt is done first take tokens while the others' is.
    const int prompt_steps = batch * arguments_.context / arguments_.chunk + batch + 2;
    for (int i = 0; i < batch; ++i) Submit(arguments_.context, arguments_.steps + prompt_steps);
    while (engine_->stats().prompt_tokens < before + prompts) Step();
    Step();
    const uint64_t generated = engine_->stats().generated_tokens;
    Measure(figure, [&] {
      for (int i = 0; i < arguments_.steps; ++i) Step();
    });
    figure.tokens = batch * arguments_.steps;
    if (engine_->stats().generated_tokens - generated != static_cast<uint64_t>(figure.tokens)) {
      Fail("not all of a batch of " + std::to_string(batch) + " decoded in every step");
    }
    for (int i = 0; i < batch; ++i)
      engine_->Cancel(link_.get(), last_id_ - static_cast<uint64_t>(i));
    Finish();
  }

  void Prompt(Figure& figure, int tokens) {
    Submit(tokens, 1);
    Measure(figure, [&] { Finish(); });
    figure.tokens = tokens;
  }

  void ReadRoof(Roof& roof) const {
    roof.bytes.push_back(StreamingRead(arguments_.threads));
    roof.bf16.push_back(Bf16Peak(level_.c_str(), arguments_.threads));
    roof.fp32.push_back(Fp32Peak(level_.c_str(), arguments_.threads));
  }

  std::string numerics() const { return engine_->numerics(); }

 private:
  void Submit(int prompt, int max_tokens) {
    SequenceRequest request;
    request.id = ++last_id_;
    for (int i = 0; i < prompt; ++i) {
      request.prompt.push_back(
          static_cast<int32_t>(random_() % static_cast<uint32_t>(model_->spec.vocab)));
    }
    request.max_tokens = max_tokens;
    const absl::Status status = engine_->Submit(link_, std::move(request));
    if (!status.ok()) Fail(status.ToString());
  }
  bool Step() { return engine_->Step(Engine::Now()); }
  void Finish() {
    while (Step()) {
    }
  }
  template <typename Call>
  void Measure(Figure& figure, Call call) {
    device_->Reset();
    const auto begin = std::chrono::steady_clock::now();
    call();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    figure.seconds.push_back(took.count());
    figure.meters.push_back(device_->meters());
  }

  const Arguments arguments_;
  std::shared_ptr<const Model> model_;
  MeteredDevice* device_ = nullptr;
  std::unique_ptr<Engine> engine_;
  std::string level_;
  const std::shared_ptr<Link> link_ = std::make_shared<Ends>();
  std::mt19937 random_{1};
  uint64_t last_id_ = 0;
};

nlohmann::json Describe(const Figure& figure, const Roof& roof) {
  const size_t middle = figure.Middle();
  const double seconds = figure.seconds[middle];
  const MeteredDevice::Meter total = figure.Total(middle);
  nlohmann::json shares;
  for (int kind = 0; kind < MeteredDevice::kKinds; ++kind) {
    const MeteredDevice::Meter& meter = figure.meters[middle][static_cast<size_t>(kind)];
    if (meter.seconds == 0) continue;
    shares[MeteredDevice::kNames[kind]] = {
        {"share", meter.seconds / seconds},
        {"gb_per_second", meter.bytes / meter.seconds / 1e9},
        {"gflops", (meter.bf16_operations + meter.fp32_operations) / meter.seconds / 1e9},
        {"of_roof", roof.Seconds(meter) / meter.seconds}};
  }
  return {{"what", figure.what},
          {"tokens_per_second", figure.tokens / seconds},
          {"gb_per_second", total.bytes / seconds / 1e9},
          {"gflops", (total.bf16_operations + total.fp32_operations) / seconds / 1e9},
          {"of_bandwidth", total.bytes / seconds / Median(roof.bytes)},
          {"of_roof", roof.Seconds(total) / seconds},
          {"operations", shares}};
}

void Print(const nlohmann::json& figure) {
  std::printf(
      "%-14s %9.1f tokens/s %6.1f GB/s %7.0f GF/s  %5.1f %% of roof, %5.1f %% of bandwidth\n",
      figure["what"].get<std::string>().c_str(), figure["tokens_per_second"].get<double>(),
      figure["gb_per_second"].get<double>(), figure["gflops"].get<double>(),
      100 * figure["of_roof"].get<double>(), 100 * figure["of_bandwidth"].get<double>());
  for (const auto& [name, part] : figure["operations"].items()) {
    std::printf("    %-10s %5.1f %% of the time %6.1f GB/s %7.0f GF/s  %5.1f %% of roof\n",
                name.c_str(), 100 * part["share"].get<double>(),
                part["gb_per_second"].get<double>(), part["gflops"].get<double>(),
                100 * part["of_roof"].get<double>());
  }
}

std::vector<int> Numbers(const char* text) {
  std::vector<int> numbers;
  for (const auto part : absl::StrSplit(text, ',', absl::SkipEmpty())) {
    int number = 0;
    if (!absl::SimpleAtoi(part, &number) || number < 1) Fail(std::string("not a number: ") + text);
    numbers.push_back(number);
  }
  return numbers;
}

std::optional<DType> FormOf(const std::string& name) {
  const std::optional<DType> packed = PackedTypeOf(name);
  if (!packed && name != "stored") Fail("--weights: want stored, mxint8 or mxfp4");
  return packed;
}

Arguments Parse(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--json") {
      arguments.json = true;
    } else if (flag.rfind("--", 0) != 0) {
      arguments.model = flag;
    } else if (i + 1 == argc) {
      Fail(flag + " needs a value");
    } else {
      const char* value = argv[++i];
      if (flag == "--level")
        arguments.level = value;
      else if (flag == "--weights")
        arguments.experts_as = FormOf(value);
      else if (flag == "--batches")
        arguments.batches = Numbers(value);
      else if (flag == "--prompts")
        arguments.prompts = Numbers(value);
      else if (flag == "--threads")
        arguments.threads = Numbers(value).at(0);
      else if (flag == "--context")
        arguments.context = Numbers(value).at(0);
      else if (flag == "--steps")
        arguments.steps = Numbers(value).at(0);
      else if (flag == "--chunk")
        arguments.chunk = Numbers(value).at(0);
      else if (flag == "--runs")
        arguments.runs = Numbers(value).at(0);
      else
        Fail("unknown flag " + flag);
    }
  }
  if (arguments.model.empty()) Fail("usage: conclave-step-bench MODEL [flags]; see its source");
  return arguments;
}

int Main(int argc, char** argv) {
  const Arguments arguments = Parse(argc, argv);
  Bench bench(arguments);
  Roof roof;
  std::vector<Figure> decodes, prompts;
  for (const int batch : arguments.batches) decodes.push_back({"decode " + std::to_string(batch)});
  for (const int tokens : arguments.prompts)
    prompts.push_back({"prompt " + std::to_string(tokens)});
  for (int run = 0; run <= arguments.runs; ++run) {
    bench.ReadRoof(roof);
    for (size_t i = 0; i < decodes.size(); ++i) bench.Decode(decodes[i], arguments.batches[i]);
    for (size_t i = 0; i < prompts.size(); ++i) bench.Prompt(prompts[i], arguments.prompts[i]);
    if (run > 0) continue;
    roof = {};  // the first warmed everything up
    for (Figure& figure : decodes) figure = {figure.what};
    for (Figure& figure : prompts) figure = {figure.what};
  }
  nlohmann::json report = {{"numerics", bench.numerics()},
                           {"threads", arguments.threads},
                           {"streaming_gb_per_second", Median(roof.bytes) / 1e9},
                           {"bf16_gflops", Median(roof.bf16) / 1e9},
                           {"fp32_gflops", Median(roof.fp32) / 1e9}};
  for (const Figure& figure : decodes) report["figures"].push_back(Describe(figure, roof));
  for (const Figure& figure : prompts) report["figures"].push_back(Describe(figure, roof));
  if (arguments.json) {
    std::printf("%s\n", report.dump(2).c_str());
    return 0;
  }
  std::printf("%s, %d threads: reads %.1f GB/s, BF16 %.0f GF/s, fp32 %.0f GF/s\n",
              bench.numerics().c_str(), arguments.threads, Median(roof.bytes) / 1e9,
              Median(roof.bf16) / 1e9, Median(roof.fp32) / 1e9);
  for (const nlohmann::json& figure : report["figures"]) Print(figure);
  return 0;
}

}  // namespace
}  // namespace conclave::worker

int main(int argc, char** argv) { return conclave::worker::Main(argc, argv); }

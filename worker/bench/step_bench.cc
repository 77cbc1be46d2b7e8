// Steps of one worker on a checkpoint, beside what the machine's memory and cores permit, measured
// in the same run: decoding of batches, prompts, and where their time goes.
//   conclave-step-bench MODEL [--threads 1] [--level NAME] [--weights stored]
//   [--dense-weights stored] [--batches 1,4,16,64] [--contexts 32] [--adapter DIR]...
//   [--adapted 0] [--steps 16] [--prompts 512] [--chunk 512] [--runs 5] [--blank] [--once] [--json]
// Each figure is the median of `runs`; batches, prompts and readings of the roof take turns. Every
// batch decodes behind every context and with as many of the adapters as each number of --adapted
// says, the sequences in turn. --blank leaves contexts as the cache has them, uncomputed. --once
// does all without a roof and once only, for who counts from outside what conclave_bench_step does.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "nlohmann/json.hpp"
#include "scheduler/placement.h"
#include "worker/bench/metered_device.h"
#include "worker/bench/roofline.h"
#include "worker/device/packed.h"
#include "worker/engine.h"
#include "worker/model/model.h"

// Apart, so that others can count what it does: callgrind by --toggle-collect.
extern "C" [[gnu::noinline, gnu::used]] bool conclave_bench_step(conclave::worker::Engine& engine) {
  return engine.Step(conclave::worker::Engine::Now());
}

namespace conclave::worker {
namespace {

struct Arguments {
  std::string model;
  std::string level;
  std::optional<DType> experts_as;
  std::optional<DType> dense_as;
  int threads = 1;
  std::vector<int> batches = {1, 4, 16, 64};
  std::vector<int> contexts = {32};
  std::vector<std::string> adapters;
  std::vector<int> adapted = {0};
  std::vector<int> prompts = {512};
  int steps = 16;
  int chunk = 512;
  int runs = 5;
  bool blank = false;
  bool once = false;
  bool json = false;
};

// How a batch decodes.
struct Shape {
  int batch = 0;
  int context = 0;  // tokens of each prompt
  int adapted = 0;  // adapters among the sequences; 0: the base alone
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
  std::map<uint64_t, size_t> tokens;  // that sequences brought, by their ids

  void OnStep(std::vector<SequenceEvent> events) override {
    for (const SequenceEvent& event : events) {
      tokens[event.id] += event.tokens.size();
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
  Shape shape;     // of decoding
  int tokens = 0;  // a run brings
  std::vector<double> seconds;
  std::vector<MeteredDevice::Meters> meters;
  double positions = 0;  // of the cache, of all sequences, that a step of the last run sees
  std::map<int, int> expert_rows;  // of the last run: how many experts had so many rows

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
    auto model = Model::Load(arguments.model,
                             {.experts_as = arguments.experts_as, .dense_as = arguments.dense_as});
    if (!model.ok()) Fail(model.status().ToString());
    model_ = *std::move(model);
    Engine::Options options;
    const int widest = *std::max_element(arguments.batches.begin(), arguments.batches.end());
    options.planner.max_running = std::max(widest, 1);
    options.planner.prefill_chunk = arguments.chunk;
    options.planner.step_tokens = std::max(arguments.chunk, widest);
    options.planner.max_waiting_tokens = int64_t{1} << 30;
    options.logit_rows = LogitRowsFor(options);
    options.experts.id = "w";
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
    if (!arguments.adapters.empty()) AddAdapters();
  }

  // Seconds of `steps` steps in which sequences behind their contexts take a token each.
  void Decode(Figure& figure) {
    const Shape& shape = figure.shape;
    link_->tokens.clear();
    const uint64_t before = engine_->stats().prompt_tokens;
    const auto prompts = static_cast<uint64_t>(shape.batch) * static_cast<uint64_t>(shape.context);
    // Those whose prompt is done first take tokens while the others' is.
    const int prompt_steps = shape.batch * shape.context / arguments_.chunk + shape.batch + 2;
    for (int i = 0; i < shape.batch; ++i) {
      Submit(shape.context, arguments_.steps + prompt_steps,
             shape.adapted > 0 ? i % shape.adapted : kBase);
    }
    device_->SetBlank(arguments_.blank);
    while (engine_->stats().prompt_tokens < before + prompts) Step();
    device_->SetBlank(false);
    Step();
    figure.positions = shape.batch * (shape.context + (arguments_.steps - 1) / 2.0);
    for (int i = 0; i < shape.batch; ++i)
      figure.positions += static_cast<double>(link_->tokens[last_id_ - static_cast<uint64_t>(i)]);
    const uint64_t generated = engine_->stats().generated_tokens;
    Measure(figure, [&] {
      for (int i = 0; i < arguments_.steps; ++i) conclave_bench_step(*engine_);
    });
    CountExperts(figure);
    figure.tokens = shape.batch * arguments_.steps;
    if (engine_->stats().generated_tokens - generated != static_cast<uint64_t>(figure.tokens)) {
      Fail("not all of a batch of " + std::to_string(shape.batch) + " decoded in every step");
    }
    for (int i = 0; i < shape.batch; ++i)
      engine_->Cancel(link_.get(), last_id_ - static_cast<uint64_t>(i));
    Finish();
  }

  void Prompt(Figure& figure, int tokens) {
    Submit(tokens, 1, kBase);
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
  static constexpr int kBase = -1;  // no adapter

  void AddAdapters() {
    scheduler::Placement placement = scheduler::Everywhere({"w"}, model_->Experts().size());
    for (const std::string& directory : arguments_.adapters) {
      const auto check = engine_->CheckAdapter(directory);
      if (!check.ok()) Fail(check.status().ToString());
      digests_.push_back(check->digest);
      replaced_.emplace_back(check->replaced.begin(), check->replaced.end());
      placement =
          WithAdapter(std::move(placement),
                      {.digest = check->digest, .source = directory, .replaced = check->replaced});
    }
    placement.epoch = placement.plan = 1;
    const auto shared = std::make_shared<const scheduler::Placement>(std::move(placement));
    if (const auto status = engine_->Prepare(shared); !status.ok()) Fail(status.ToString());
    if (const auto status = engine_->Commit(1, 1); !status.ok()) Fail(status.ToString());
    Step();
  }

  // What the gate's choices ask for: a row of an adapter that replaces a slot asks for another
  // expert there than other rows do. Rows are as their sequences were submitted.
  void CountExperts(Figure& figure) const {
    figure.expert_rows.clear();
    const auto top_k = static_cast<size_t>(model_->spec.gate.top_k);
    const size_t slots = static_cast<size_t>(model_->spec.gate.slots);
    const size_t layers = model_->Experts().size() / slots;
    for (size_t call = 0; call < device_->gated().size(); ++call) {
      const std::vector<int32_t>& chosen = device_->gated()[call];
      std::map<std::pair<int, size_t>, int> rows;  // of (adapter, expert of the base)
      for (size_t i = 0; i < chosen.size(); ++i) {
        const size_t expert = call % layers * slots + static_cast<size_t>(chosen[i]);
        const int adapter =
            figure.shape.adapted > 0 ? static_cast<int>(i / top_k) % figure.shape.adapted : kBase;
        const bool own = adapter != kBase && replaced_[static_cast<size_t>(adapter)].contains(
                                                 static_cast<scheduler::ExpertId>(expert));
        ++rows[{own ? adapter : kBase, expert}];
      }
      for (const auto& [expert, count] : rows) ++figure.expert_rows[count];
    }
  }

  void Submit(int prompt, int max_tokens, int adapter) {
    SequenceRequest request;
    request.id = ++last_id_;
    if (adapter != kBase) request.adapter = digests_[static_cast<size_t>(adapter)];
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
  const std::shared_ptr<Ends> link_ = std::make_shared<Ends>();
  std::vector<std::string> digests_;                     // of the adapters
  std::vector<std::set<scheduler::ExpertId>> replaced_;  // by each
  std::mt19937 random_{1};
  uint64_t last_id_ = 0;
};

// A step of a figure: what the last run read and computed, and how long each run took for it.
nlohmann::json DescribeStep(const Figure& figure, int steps) {
  const MeteredDevice::Meter total = figure.Total(figure.meters.size() - 1);
  nlohmann::json rows = nlohmann::json::array(), seconds = nlohmann::json::array();
  for (const auto& [count, experts] : figure.expert_rows)
    rows.push_back({count, static_cast<double>(experts) / steps});
  for (const double one : figure.seconds) seconds.push_back(one / steps);
  return {{"batch", figure.shape.batch},
          {"context", figure.shape.context},
          {"adapted", figure.shape.adapted},
          {"positions", figure.positions},
          {"bytes", total.bytes / steps},
          {"operations", (total.bf16_operations + total.fp32_operations) / steps},
          {"expert_rows", rows},
          {"seconds", seconds}};
}

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

std::vector<int> Numbers(const char* text, int least = 1) {
  std::vector<int> numbers;
  for (const auto part : absl::StrSplit(text, ',', absl::SkipEmpty())) {
    int number = 0;
    if (!absl::SimpleAtoi(part, &number) || number < least)
      Fail(std::string("not a number: ") + text);
    numbers.push_back(number);
  }
  return numbers;
}

std::optional<DType> FormOf(const std::string& flag, const std::string& name) {
  const std::optional<DType> packed = PackedTypeOf(name);
  if (!packed && name != "stored") Fail(flag + ": want stored, mxint8 or mxfp4");
  return packed;
}

Arguments Parse(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--json") {
      arguments.json = true;
    } else if (flag == "--blank") {
      arguments.blank = true;
    } else if (flag == "--once") {
      arguments.once = true;
    } else if (flag.rfind("--", 0) != 0) {
      arguments.model = flag;
    } else if (i + 1 == argc) {
      Fail(flag + " needs a value");
    } else {
      const char* value = argv[++i];
      if (flag == "--level")
        arguments.level = value;
      else if (flag == "--weights")
        arguments.experts_as = FormOf(flag, value);
      else if (flag == "--dense-weights")
        arguments.dense_as = FormOf(flag, value);
      else if (flag == "--batches")
        arguments.batches = Numbers(value);
      else if (flag == "--prompts")
        arguments.prompts = Numbers(value);
      else if (flag == "--threads")
        arguments.threads = Numbers(value).at(0);
      else if (flag == "--contexts")
        arguments.contexts = Numbers(value);
      else if (flag == "--adapter")
        arguments.adapters.emplace_back(value);
      else if (flag == "--adapted")
        arguments.adapted = Numbers(value, 0);
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
  if (*std::max_element(arguments.adapted.begin(), arguments.adapted.end()) >
      static_cast<int>(arguments.adapters.size()))
    Fail("--adapted: there are not so many --adapter");
  return arguments;
}

// Every batch behind every context with every number of adapters.
std::vector<Figure> Decodes(const Arguments& arguments) {
  std::vector<Figure> decodes;
  for (const int batch : arguments.batches) {
    for (const int context : arguments.contexts) {
      for (const int adapted : arguments.adapted) {
        std::string what = "decode " + std::to_string(batch);
        if (arguments.contexts.size() > 1) what += " behind " + std::to_string(context);
        if (adapted > 0) what += " of " + std::to_string(adapted);
        decodes.push_back({what, {batch, context, adapted}});
      }
    }
  }
  return decodes;
}

int Main(int argc, char** argv) {
  const Arguments arguments = Parse(argc, argv);
  Bench bench(arguments);
  std::vector<Figure> decodes = Decodes(arguments), prompts;
  for (const int tokens : arguments.prompts)
    prompts.push_back({"prompt " + std::to_string(tokens)});
  if (arguments.once) {
    nlohmann::json figures;
    for (Figure& figure : decodes) {
      bench.Decode(figure);
      figures.push_back(DescribeStep(figure, arguments.steps));
    }
    std::printf("%s\n", nlohmann::json{{"steps", figures}}.dump(2).c_str());
    return 0;
  }
  Roof roof;
  for (int run = 0; run <= arguments.runs; ++run) {
    bench.ReadRoof(roof);
    for (Figure& figure : decodes) bench.Decode(figure);
    for (size_t i = 0; i < prompts.size(); ++i) bench.Prompt(prompts[i], arguments.prompts[i]);
    if (run > 0) continue;
    roof = {};  // the first warmed everything up
    for (Figure& figure : decodes) figure = {figure.what, figure.shape};
    for (Figure& figure : prompts) figure = {figure.what};
  }
  nlohmann::json report = {{"numerics", bench.numerics()},
                           {"threads", arguments.threads},
                           {"streaming_gb_per_second", Median(roof.bytes) / 1e9},
                           {"bf16_gflops", Median(roof.bf16) / 1e9},
                           {"fp32_gflops", Median(roof.fp32) / 1e9}};
  for (const Figure& figure : decodes) {
    report["figures"].push_back(Describe(figure, roof));
    report["steps"].push_back(DescribeStep(figure, arguments.steps));
  }
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

// Fixed work whose instructions tests/counted/counted counts: `counted_work CASE` does it in one
// call of a counted_ function, on one thread, at level avx2, which valgrind can execute. Prints
// `bytes N` of what it counts itself: what the operations of a step must read.

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "router/stop_strings.h"
#include "router/tokenizer.h"
#include "router/transcript.h"
#include "scheduler/batch_planner.h"
#include "worker/bench/metered_device.h"
#include "worker/engine.h"
#include "worker/model/model.h"

namespace {

using namespace conclave;

constexpr char kModel[] = CONCLAVE_SOURCE_DIR "/deploy/model/conclave-tiny";
constexpr int kTokens = 48;  // of the prompt that is counted

[[noreturn]] void Fail(const std::string& why) {
  std::fprintf(stderr, "%s\n", why.c_str());
  std::exit(1);
}

class Nobody final : public worker::Link {
 public:
  void OnStep(std::vector<worker::SequenceEvent>) override {}
};

class Worker {
 public:
  Worker() {
    auto model = worker::Model::Load(kModel);
    if (!model.ok()) Fail(model.status().ToString());
    vocab_ = (*model)->spec.vocab;
    worker::Engine::Options options;
    options.start_thread = false;
    options.prefix_reuse = false;
    options.kv_bytes = int64_t{32} << 20;
    worker::CpuDeviceOptions cpu = worker::CpuDeviceOptionsFor((*model)->spec, options);
    cpu.threads = 1;
    cpu.level = "avx2";
    auto device = worker::MakeCpuDevice(cpu);
    if (!device.ok()) Fail(device.status().ToString());
    auto metered = std::make_unique<worker::MeteredDevice>(*std::move(device));
    device_ = metered.get();
    auto engine = worker::Engine::Create(options, *std::move(model), std::move(metered));
    if (!engine.ok()) Fail(engine.status().ToString());
    engine_ = *std::move(engine);
  }

  void Submit(int tokens, int max_tokens) {
    worker::SequenceRequest request;
    request.id = ++last_id_;
    for (int i = 0; i < tokens; ++i) {
      const uint64_t token = (request.id * kTokens + static_cast<uint64_t>(i)) * 7919 + 13;
      request.prompt.push_back(static_cast<int32_t>(token % static_cast<uint64_t>(vocab_)));
    }
    request.max_tokens = max_tokens;
    if (const auto status = engine_->Submit(link_, std::move(request)); !status.ok())
      Fail(status.ToString());
  }
  void StartCounting() { device_->Reset(); }
  bool Step() { return engine_->Step(scheduler::Micros(0)); }
  void PrintBytes() const {  // since counting started
    double bytes = 0;
    for (const auto& meter : device_->meters()) bytes += meter.bytes;
    std::printf("bytes %.0f\n", bytes);
  }

 private:
  worker::MeteredDevice* device_ = nullptr;
  std::unique_ptr<worker::Engine> engine_;
  const std::shared_ptr<worker::Link> link_ = std::make_shared<Nobody>();
  int64_t vocab_ = 0;
  uint64_t last_id_ = 0;
};

std::string HeldOut() {
  std::ifstream file(CONCLAVE_SOURCE_DIR "/deploy/model/heldout/german.txt");
  std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (text.size() < 4096) Fail("no held-out text");
  return text.substr(0, 4096);
}

}  // namespace

// ---- What is counted ----

#define COUNTED extern "C" [[gnu::noinline, gnu::used]]

COUNTED void counted_step(Worker& worker) { worker.Step(); }  // of decoding, or of a prompt

// A decoding step of 64 sequences.
COUNTED void counted_plan(scheduler::BatchPlanner& planner, const std::vector<uint8_t>& ends) {
  planner.Commit(planner.Plan(scheduler::Micros(0)), ends);
}

COUNTED size_t counted_tokenize(const router::Tokenizer& tokenizer, const std::string& text) {
  std::string error;
  const auto ids = tokenizer.Encode(text, {}, &error);
  if (!ids) Fail(error);
  return ids->size();
}

// Tokens to a client, one a message, while a stop string is watched for.
COUNTED size_t counted_transcript(router::Transcript& transcript,
                                  const std::vector<scheduler::TokenId>& tokens) {
  size_t bytes = 0;
  for (const scheduler::TokenId token : tokens) {
    router::SequenceEvent event;
    event.tokens = {token};
    bytes += transcript.Take(std::move(event)).text.size();
  }
  return bytes;
}

namespace {

// Counts a step of so many sequences that decode; 0: of one that brings its prompt.
void CountStep(int batch) {
  Worker worker;
  for (int i = 0; i < batch; ++i) worker.Submit(2, 8);
  for (int i = 0; i < 2; ++i) worker.Step();
  if (batch == 0) worker.Submit(kTokens, 1);
  worker.StartCounting();
  counted_step(worker);
  worker.PrintBytes();
}

void CountPlanner() {
  constexpr int32_t kSequences = 64;
  scheduler::BatchPlanner planner({});
  for (uint64_t id = 1; id <= kSequences; ++id)
    planner.Add({.id = id, .prompt_tokens = 3, .max_tokens = 64});
  const std::vector<uint8_t> ends(kSequences, 0);
  planner.Commit(planner.Plan(scheduler::Micros(0)), ends);
  counted_plan(planner, ends);
}

void CountRouter(bool tokenize) {
  std::string error;
  const std::optional<router::Tokenizer> tokenizer =
      router::Tokenizer::LoadDirectory(kModel, &error);
  if (!tokenizer) Fail(error);
  const std::string text = HeldOut();
  if (tokenize) {
    counted_tokenize(*tokenizer, text);
    return;
  }
  const auto ids = tokenizer->Encode(text, {}, &error);
  auto stops = router::StopStrings::Create({"never in this text"}, {}, &error);
  if (!ids || !stops) Fail(error);
  router::Transcript transcript(&*tokenizer, *std::move(stops), 1);
  if (counted_transcript(transcript, *ids) == 0) Fail("no text came");
}

}  // namespace

int main(int argc, char** argv) {
  const std::string which = argc == 2 ? argv[1] : "";
  if (which == "decode_1") {
    CountStep(1);
  } else if (which == "decode_16") {
    CountStep(16);
  } else if (which == "prompt") {
    CountStep(0);
  } else if (which == "plan") {
    CountPlanner();
  } else if (which == "tokenize" || which == "transcript") {
    CountRouter(which == "tokenize");
  } else {
    Fail("usage: counted_work CASE");
  }
}

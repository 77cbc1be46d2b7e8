#pragma once
// Several workers' engines in one process, joined by an in-process network, each on threads of its
// own, and what their clients get of them. One thread drives it.

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/testing/wait_for.h"
#include "tests/worker/testing/collector.h"
#include "worker/experts/in_process_transport.h"
#include "worker/model/model.h"

namespace conclave::worker::testing {

// So that who is asked depends on the placement alone, however busy the machine is.
inline constexpr std::chrono::microseconds kNeverLate = std::chrono::hours(1);

// A collector that says how many of its sequences have ended, to another thread.
class CountingCollector final : public Link {
 public:
  void OnStep(std::vector<SequenceEvent> events) override {
    int ends = 0;
    for (const SequenceEvent& event : events) ends += event.end.has_value();
    tokens_ += static_cast<int>(events.size());
    collector_.OnStep(std::move(events));
    ends_ += ends;
  }
  int ends() const { return ends_; }
  int events() const { return tokens_; }
  // Once nothing more comes.
  const std::map<uint64_t, Collector::Answer>& answers() const { return collector_.answers; }

 private:
  Collector collector_;
  std::atomic<int> ends_{0};
  std::atomic<int> tokens_{0};
};

class WorkerGroup {
 public:
  using Answers = std::map<uint64_t, Collector::Answer>;

  struct Options {
    int workers = 1;
    int threads = 1;  // compute threads of each
    std::string level;
    Engine::Options engine;
  };

  // Each worker loads the checkpoint for itself, without experts: those of its placements come.
  WorkerGroup(const Options& options, const std::string& directory)
      : network_(FrameLimitsFor(Load(directory)->spec, options.engine.planner.step_tokens,
                                options.engine.experts.returns)) {
    for (int i = 0; i < options.workers; ++i) {
      const std::shared_ptr<const Model> model = Load(directory);
      const std::string id = Name(i);
      Engine::Options engine_options = options.engine;
      engine_options.experts.id = id;
      engine_options.experts.needs_placement = true;
      CpuDeviceOptions device = CpuDeviceOptionsFor(model->spec, engine_options);
      device.level = options.level;
      device.threads = options.threads;
      auto engine = Engine::Create(engine_options, model, *MakeCpuDevice(device),
                                   network_.Join(id, Incarnation(i)));
      EXPECT_TRUE(engine.ok()) << engine.status();
      engines_.push_back(*std::move(engine));
      links_.push_back(std::make_shared<CountingCollector>());
      peers_.push_back({.id = id, .incarnation = Incarnation(i), .address = id});
    }
    TellPeers();
  }

  static std::string Name(int i) { return "w" + std::to_string(i); }
  static uint64_t Incarnation(int i) { return 100 + static_cast<uint64_t>(i); }
  static std::vector<std::string> Names(int count) {
    std::vector<std::string> names;
    for (int i = 0; i < count; ++i) names.push_back(Name(i));
    return names;
  }

  int workers() const { return static_cast<int>(engines_.size()); }
  Engine& engine(int i) { return *engines_[static_cast<size_t>(i)]; }
  CountingCollector& link(int i) { return *links_[static_cast<size_t>(i)]; }
  InProcessNetwork& network() { return network_; }

  void SetAlive(int i, bool alive) {
    peers_[static_cast<size_t>(i)].alive = alive;
    TellPeers();
  }

  // Likewise, of a placement that is committed whoever can hold it.
  void PlaceCommitted(scheduler::Placement placement) {
    Place(std::move(placement), &Engine::PrepareCommitted);
  }
  // Prepares, commits and waits until every worker that is alive steps by it; then releases what
  // was before.
  using Shared = std::shared_ptr<const scheduler::Placement>;
  void Place(scheduler::Placement placement,
             absl::Status (Engine::*prepare)(Shared) = &Engine::Prepare) {
    placement.epoch = ++epoch_;
    placement.plan = epoch_ * 10;
    const Shared shared = std::make_shared<const scheduler::Placement>(std::move(placement));
    for (int i = 0; i < workers(); ++i) {
      if (!Alive(i)) continue;
      const absl::Status prepared = (engine(i).*prepare)(shared);
      ASSERT_TRUE(prepared.ok()) << prepared;
    }
    for (int i = 0; i < workers(); ++i) {
      if (!Alive(i)) continue;
      const absl::Status committed = engine(i).Commit(shared->plan, shared->epoch);
      ASSERT_TRUE(committed.ok()) << committed;
    }
    for (int i = 0; i < workers(); ++i) {
      if (!Alive(i)) continue;
      ASSERT_TRUE(conclave::testing::WaitFor([&] { return engine(i).adopted() == epoch_; },
                                             "a worker to adopt the placement"));
    }
    for (int i = 0; i < workers(); ++i) {
      if (Alive(i)) engine(i).Release(epoch_);
    }
  }
  scheduler::Epoch epoch() const { return epoch_; }

  void Submit(int i, SequenceRequest request) {
    const absl::Status status =
        engine(i).Submit(links_[static_cast<size_t>(i)], std::move(request));
    ASSERT_TRUE(status.ok()) << status;
    ++submitted_[i];
  }
  void AwaitAll() {
    for (const auto& [i, count] : submitted_) {
      ASSERT_TRUE(conclave::testing::WaitFor([&] { return link(i).ends() >= count; },
                                             "the sequences of " + Name(i) + " to end"));
    }
  }
  // Of all workers; ids are unique among them.
  Answers AllAnswers() {
    Answers all;
    for (const auto& link : links_) all.insert(link->answers().begin(), link->answers().end());
    return all;
  }

 private:
  static std::shared_ptr<const Model> Load(const std::string& directory) {
    auto model = Model::Load(directory, {.hold_experts = false});
    EXPECT_TRUE(model.ok()) << model.status();
    return *std::move(model);
  }
  bool Alive(int i) const { return peers_[static_cast<size_t>(i)].alive; }
  void TellPeers() {
    for (int i = 0; i < workers(); ++i) {
      if (Alive(i)) engine(i).SetPeers(peers_);
    }
  }

  InProcessNetwork network_;
  std::vector<Peer> peers_;
  std::vector<std::shared_ptr<CountingCollector>> links_;
  std::vector<std::unique_ptr<Engine>> engines_;
  std::map<int, int> submitted_;
  scheduler::Epoch epoch_ = 0;
};

}  // namespace conclave::worker::testing

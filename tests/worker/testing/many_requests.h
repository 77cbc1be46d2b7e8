#pragma once
// Requests of many kinds for every checkpoint of tests/reference, placements by lot, and what one
// worker that is alone makes of them.

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "scheduler/placement.h"
#include "tests/worker/testing/worker_group.h"

namespace conclave::worker::testing {

inline constexpr int kRequests = 64;

inline std::string Folder() {
  return std::string(CONCLAVE_SOURCE_DIR) + "/tests/reference/checkpoints";
}

inline std::vector<std::string> Checkpoints() {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(Folder())) {
    if (entry.is_directory()) names.insert(entry.path().filename().string());
  }
  return {names.begin(), names.end()};
}

inline SequenceRequest Request(int i, int32_t vocab) {
  SequenceRequest request;
  request.id = static_cast<uint64_t>(i);
  std::mt19937_64 random(static_cast<uint64_t>(i) + 17);
  for (int t = 0; t <= (i * 37) % 60; ++t) {
    request.prompt.push_back(
        static_cast<scheduler::TokenId>(random() % static_cast<uint64_t>(vocab)));
  }
  request.max_tokens = 2 + i % 5;
  if (i % 2 == 1) {
    request.temperature = 0.9f;
    request.seed = static_cast<uint64_t>(i) * 1000003u;
  }
  request.logprobs = i % 3;
  request.prompt_logprobs = i % 8 == 0;
  request.routing = i % 8 == 4;
  return request;
}

// Every expert somewhere, by lot; some of them in several places.
inline scheduler::Placement AnyPlacement(int workers, size_t experts, uint64_t seed) {
  std::mt19937_64 random(seed);
  scheduler::Placement placement{.workers = WorkerGroup::Names(workers)};
  placement.owners.resize(experts);
  for (std::vector<int32_t>& owners : placement.owners) {
    const auto lot = [&] {
      return static_cast<int32_t>(random() % static_cast<uint64_t>(workers));
    };
    std::set<int32_t> chosen = {lot()};
    while (random() % 4 == 0) chosen.insert(lot());
    owners.assign(chosen.begin(), chosen.end());
  }
  return placement;
}

inline size_t ExpertsOf(const Model& model) { return model.Experts().size(); }

inline WorkerGroup::Answers RunAll(WorkerGroup& group, int32_t vocab) {
  for (int i = 0; i < kRequests; ++i) group.Submit(i % group.workers(), Request(i, vocab));
  group.AwaitAll();
  return group.AllAnswers();
}

// What one worker that is alone gives.
inline WorkerGroup::Answers Alone(const std::shared_ptr<const Model>& model,
                                  const Engine::Options& options = {}) {
  auto engine =
      Engine::Create(options, model, *MakeCpuDevice(CpuDeviceOptionsFor(model->spec, options)));
  EXPECT_TRUE(engine.ok()) << engine.status();
  const auto link = std::make_shared<CountingCollector>();
  for (int i = 0; i < kRequests; ++i) {
    EXPECT_TRUE((*engine)->Submit(link, Request(i, model->spec.vocab)).ok());
  }
  EXPECT_TRUE(conclave::testing::WaitFor([&] { return link->ends() == kRequests; }, "all to end"));
  const WorkerGroup::Answers answers = link->answers();
  EXPECT_EQ(answers.size(), size_t{kRequests});
  for (const auto& [id, answer] : answers) {
    EXPECT_TRUE(answer.end.has_value() && answer.end->status.ok()) << id;
  }
  return answers;
}

}  // namespace conclave::worker::testing

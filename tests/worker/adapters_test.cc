// Adapters in the batches of many workers: an answer through an adapter is what a checkpoint gives
// that has the adapter's experts in place of the base's, bit for bit, whoever shares the batch and
// whoever owns the experts.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "scheduler/placement.h"
#include "tests/worker/testing/tiny_adapter.h"
#include "tests/worker/testing/worker_group.h"

namespace conclave::worker {
namespace {

using scheduler::PlacedAdapter;
using scheduler::Placement;
using scheduler::TokenId;
using testing::MakeTinyAdapter;
using testing::TempDir;
using testing::TinyAdapter;
using testing::TinyAdapterOptions;
using testing::WorkerGroup;
using Answers = WorkerGroup::Answers;

std::string Folder() { return std::string(CONCLAVE_SOURCE_DIR) + "/tests/reference/checkpoints"; }

std::vector<std::string> Checkpoints() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(Folder()))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

// How much is tried, a multiple of what every run of the tests does.
uint64_t Effort() {
  const char* effort = std::getenv("CONCLAVE_TEST_EFFORT");
  return effort == nullptr ? 1 : static_cast<uint64_t>(std::max(1, std::atoi(effort)));
}

std::shared_ptr<const Model> Load(const std::string& directory) {
  auto model = Model::Load(directory);
  EXPECT_TRUE(model.ok()) << model.status();
  return *std::move(model);
}

SequenceRequest Request(uint64_t id, int32_t vocab) {
  std::mt19937_64 random(id + 5);
  SequenceRequest request{.id = id};
  for (uint64_t t = 0; t <= (id * 13) % 30; ++t)
    request.prompt.push_back(static_cast<TokenId>(random() % static_cast<uint64_t>(vocab)));
  request.max_tokens = 3 + static_cast<int32_t>(id % 4);
  request.temperature = id % 2 == 0 ? 0.0f : 0.8f;
  request.seed = id * 77;
  request.logprobs = 2;
  request.prompt_logprobs = id % 3 == 0;
  return request;
}

// An adapter of a checkpoint with the merged one beside it.
struct Tuned {
  Tuned(const std::string& checkpoint, uint64_t seed, const TinyAdapterOptions& options) {
    const TinyAdapter adapter = MakeTinyAdapter(checkpoint, seed, options);
    WriteAdapter(adapter, directory.path());
    WriteMerged(checkpoint, adapter, merged.path());
  }
  TempDir directory, merged;
  std::string digest;  // once checked
};

// What one worker gives to requests [first, first + count) that serves this checkpoint alone.
Answers Alone(const std::string& checkpoint, uint64_t first, uint64_t count) {
  const std::shared_ptr<const Model> model = Load(checkpoint);
  const Engine::Options options;
  auto engine =
      Engine::Create(options, model, *MakeCpuDevice(CpuDeviceOptionsFor(model->spec, options)));
  EXPECT_TRUE(engine.ok()) << engine.status();
  const auto link = std::make_shared<testing::CountingCollector>();
  for (uint64_t id = first; id < first + count; ++id)
    EXPECT_TRUE((*engine)->Submit(link, Request(id, model->spec.vocab)).ok());
  EXPECT_TRUE(conclave::testing::WaitFor([&] { return link->ends() == static_cast<int>(count); },
                                         "all to end"));
  return link->answers();
}

PlacedAdapter Checked(Engine& engine, Tuned& tuned) {
  const absl::StatusOr<AdapterCheck> check = engine.CheckAdapter(tuned.directory.path());
  EXPECT_TRUE(check.ok()) << check.status();
  if (!check.ok()) return {};
  tuned.digest = check->digest;
  return {.digest = check->digest, .source = tuned.directory.path(), .replaced = check->replaced};
}

Placement Contiguous(const ModelSpec& spec, int workers) {
  const auto layers = std::count_if(spec.layers.begin(), spec.layers.end(),
                                    [](const LayerSpec& layer) { return layer.moe; });
  return scheduler::Contiguous(WorkerGroup::Names(workers), static_cast<int32_t>(layers),
                               spec.gate.slots);
}

class Adapters : public ::testing::TestWithParam<std::string> {};

// Three adapters by lot: with a shared expert where the family has one, with keys without a prefix,
// and one of every expert.
std::vector<std::unique_ptr<Tuned>> TunedBy(uint64_t lot, const std::string& base, bool shared) {
  using Options = TinyAdapterOptions;
  std::vector<std::unique_ptr<Tuned>> tuned;
  tuned.push_back(std::make_unique<Tuned>(base, 3 * lot + 1, Options{.shared = shared}));
  tuned.push_back(std::make_unique<Tuned>(base, 3 * lot + 2, Options{.prefix = false}));
  tuned.push_back(std::make_unique<Tuned>(base, 3 * lot + 3,
                                          Options{.which = Options::Which::kAll, .type = "F32"}));
  return tuned;
}

TEST_P(Adapters, GiveWhatTheMergedCheckpointsGiveInOneBatchWithTheBase) {
  constexpr uint64_t kEach = 6;
  const std::string base = Folder() + "/" + GetParam();
  const ModelSpec spec = Load(base)->spec;
  const Answers alone = Alone(base, 0, kEach);
  for (uint64_t lot = 0; lot < Effort(); ++lot) {
    const auto tuned = TunedBy(lot, base, spec.shared_ffn_dim > 0);
    Answers expected = alone;
    for (size_t i = 0; i < tuned.size(); ++i)
      expected.merge(Alone(tuned[i]->merged.path(), (i + 1) * kEach, kEach));
    for (const int workers : {1, 3, 4}) {
      SCOPED_TRACE(::testing::Message() << workers << " workers, lot " << lot);
      WorkerGroup group({.workers = workers}, base);
      Placement placement = Contiguous(spec, workers);
      group.Place(placement);
      for (const auto& one : tuned)
        placement = WithAdapter(std::move(placement), Checked(group.engine(0), *one));
      group.Place(placement);
      for (uint64_t id = 0; id < kEach * (tuned.size() + 1); ++id) {
        SequenceRequest request = Request(id, spec.vocab);
        if (id >= kEach) request.adapter = tuned[id / kEach - 1]->digest;
        group.Submit(static_cast<int>(id) % workers, std::move(request));
      }
      group.AwaitAll();
      EXPECT_TRUE(group.AllAnswers() == expected);
      uint64_t routes = 0, own = 0;
      for (int i = 0; i < workers; ++i) {
        routes += group.engine(i).stats().adapter_routes;
        own += group.engine(i).stats().tuned_routes;
      }
      EXPECT_GT(own, 0u) << "one adapter replaces every expert";
      EXPECT_LT(own, routes) << "others do not";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, Adapters, ::testing::ValuesIn(Checkpoints()),
                         [](const auto& checkpoint) {
                           std::string name = checkpoint.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

class AdapterChanges : public ::testing::Test {
 protected:
  const std::string base_ = Folder() + "/deepseek-v2-group";
  const ModelSpec spec_ = Load(base_)->spec;
  Tuned one_{base_, 1, {.shared = true}}, two_{base_, 2, {}};
};

TEST_F(AdapterChanges, AVersionThatIsNotServedIsRefused) {
  WorkerGroup group({.workers = 1}, base_);
  group.Place(Contiguous(spec_, 1));
  SequenceRequest request = Request(1, spec_.vocab);
  request.adapter = "0123";
  const absl::Status status =
      group.engine(0).Submit(std::make_shared<testing::CountingCollector>(), request);
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("0123"));
}

TEST_F(AdapterChanges, SequencesGoOnWhileAnotherVersionComes) {
  const Answers expected = Alone(one_.merged.path(), 0, 8);
  WorkerGroup group({.workers = 2}, base_);
  Placement placement = WithAdapter(Contiguous(spec_, 2), Checked(group.engine(0), one_));
  group.Place(placement);
  for (uint64_t id = 0; id < 8; ++id) {
    SequenceRequest request = Request(id, spec_.vocab);
    request.adapter = one_.digest;
    group.Submit(static_cast<int>(id) % 2, std::move(request));
  }
  group.Place(WithAdapter(std::move(placement), Checked(group.engine(1), two_)));
  group.AwaitAll();
  EXPECT_TRUE(group.AllAnswers() == expected);
}

TEST_F(AdapterChanges, AVersionIsInUseUntilItsLastSequenceEnds) {
  WorkerGroup group({.workers = 1}, base_);
  group.Place(WithAdapter(Contiguous(spec_, 1), Checked(group.engine(0), one_)));
  EXPECT_THAT(group.engine(0).AdaptersInUse(), ::testing::IsEmpty());
  SequenceRequest request = Request(0, spec_.vocab);
  request.adapter = one_.digest;
  request.max_tokens = 500;
  group.Submit(0, request);
  EXPECT_THAT(group.engine(0).AdaptersInUse(), ::testing::ElementsAre(one_.digest));
  group.AwaitAll();
  EXPECT_TRUE(conclave::testing::WaitFor([&] { return group.engine(0).AdaptersInUse().empty(); },
                                         "the version to be free"));
}

TEST_F(AdapterChanges, WhatIsTakenOutGivesItsMemoryBackAndEndsItsSequences) {
  WorkerGroup group({.workers = 2}, base_);
  const Placement base = Contiguous(spec_, 2);
  group.Place(WithAdapter(base, Checked(group.engine(0), one_)));
  uint64_t bytes = 0;
  for (int i = 0; i < 2; ++i) bytes += group.engine(i).expert_stats().adapters.bytes;
  EXPECT_GT(bytes, 0u);
  SequenceRequest request = Request(0, spec_.vocab);
  request.adapter = one_.digest;
  request.max_tokens = spec_.context_limit - static_cast<int32_t>(request.prompt.size());
  group.Submit(0, request);
  group.Place(base);
  group.AwaitAll();
  const Answers answers = group.AllAnswers();
  const auto& end = answers.at(0).end;
  ASSERT_TRUE(end.has_value());
  EXPECT_EQ(end->status.code(), absl::StatusCode::kAborted) << end->status;
  uint64_t freed = 0;
  for (int i = 0; i < 2; ++i) {
    const AdapterStore::Stats stats = group.engine(i).expert_stats().adapters;
    EXPECT_EQ(stats.experts, 0u);
    EXPECT_EQ(stats.bytes, 0u);
    freed += stats.freed_bytes;
  }
  EXPECT_EQ(freed, bytes);
}

// Three workers serve both; then the directory of one is damaged, and the last of the three dies.
class AdapterLacks : public AdapterChanges {
 protected:
  AdapterLacks() {
    placement_ = WithAdapter(Contiguous(spec_, 3), Checked(group_.engine(0), one_));
    placement_ = WithAdapter(std::move(placement_), Checked(group_.engine(0), two_));
    group_.Place(placement_);
    std::filesystem::copy(one_.directory.path(), kept_.path(),
                          std::filesystem::copy_options::recursive);
    std::filesystem::resize_file(one_.directory.path() + kFile, 100);
    group_.SetAlive(2, false);
  }
  void Mend() {
    std::filesystem::remove(one_.directory.path() + kFile);
    std::filesystem::copy_file(kept_.path() + kFile, one_.directory.path() + kFile);
  }
  // Requests id, id + 1, id + 2 of the base and both versions.
  void SubmitAll(int worker, uint64_t id) {
    for (const std::string& version : {std::string(), one_.digest, two_.digest}) {
      SequenceRequest request = Request(id++, spec_.vocab);
      request.adapter = version;
      group_.Submit(worker, std::move(request));
    }
  }
  // What they give where nothing is damaged.
  Answers Expected(uint64_t id) {
    Answers expected = Alone(base_, id, 1);
    expected.merge(Alone(one_.merged.path(), id + 1, 1));
    expected.merge(Alone(two_.merged.path(), id + 2, 1));
    return expected;
  }
  void ExpectAllButOne(uint64_t id) {
    const Answers answers = group_.AllAnswers(), expected = Expected(id);
    EXPECT_TRUE(answers.at(id) == expected.at(id));
    EXPECT_TRUE(answers.at(id + 2) == expected.at(id + 2));
    const auto& end = answers.at(id + 1).end;
    EXPECT_TRUE(end->lacks_adapter);
    EXPECT_EQ(end->status.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(std::string(end->status.message()),
                ::testing::AllOf(::testing::HasSubstr(one_.digest),
                                 ::testing::HasSubstr("lacks its experts")));
  }

  static constexpr char kFile[] = "/model-00001-of-000001.safetensors";
  TempDir kept_;
  WorkerGroup group_{{.workers = 3}, base_};
  Placement placement_;
};

TEST_F(AdapterLacks, AWorkerThatCannotReadOneServesAllElse) {
  const Placement recovered = *Recovered(placement_, WorkerGroup::Names(2));
  EXPECT_FALSE(group_.engine(0)
                   .Prepare(std::make_shared<const Placement>([&] {
                     Placement plan = recovered;
                     plan.epoch = plan.plan = 2;
                     return plan;
                   }()))
                   .ok())
      << "before a commit it says that it cannot";
  group_.PlaceCommitted(recovered);
  EXPECT_TRUE(group_.engine(0).Lacks().contains(one_.digest));
  EXPECT_EQ(group_.engine(0).Lacks().size(), 1u);
  SubmitAll(0, 0);
  SubmitAll(1, 3);
  group_.AwaitAll();
  ExpectAllButOne(0);
  ExpectAllButOne(3);
}

TEST_F(AdapterLacks, AHomeEndsTheSequencesOfOneThatItsOwnerLacksAndGoesOn) {
  Placement placement = *Recovered(placement_, WorkerGroup::Names(2));
  for (auto& owners : placement.adapters[0].owners) {
    if (!owners.empty()) owners = {1};
  }
  group_.PlaceCommitted(placement);
  EXPECT_TRUE(group_.engine(0).Lacks().empty());
  EXPECT_TRUE(group_.engine(1).Lacks().contains(one_.digest));
  SubmitAll(0, 0);
  group_.AwaitAll();
  ExpectAllButOne(0);
  EXPECT_GT(group_.engine(0).stats().steps_redone, 0u);
}

TEST_F(AdapterLacks, WhatIsLackedKeepsNothingElseFromChangingAndIsServedWhereItIsReadAgain) {
  const Placement recovered = *Recovered(placement_, WorkerGroup::Names(2));
  group_.PlaceCommitted(recovered);
  group_.Place(WithoutAdapter(recovered, two_.digest));
  EXPECT_TRUE(group_.engine(0).Lacks().contains(one_.digest));
  Mend();
  group_.Place(recovered);
  EXPECT_TRUE(group_.engine(0).Lacks().empty());
  SubmitAll(0, 0);
  SubmitAll(1, 3);
  group_.AwaitAll();
  Answers expected = Expected(0);
  expected.merge(Expected(3));
  EXPECT_TRUE(group_.AllAnswers() == expected);
}

TEST_F(AdapterLacks, IdsOfWhatIsLackedAreNobodyElsesUntilItIsReleased) {
  group_.PlaceCommitted(*Recovered(placement_, WorkerGroup::Names(2)));
  Placement other = Contiguous(spec_, 2);
  other = WithAdapter(std::move(other), Checked(group_.engine(0), two_));
  other.epoch = other.plan = 100;
  ASSERT_EQ(other.adapters[0].first, placement_.adapters[0].first);
  const absl::Status prepared = group_.engine(0).Prepare(std::make_shared<const Placement>(other));
  EXPECT_EQ(prepared.code(), absl::StatusCode::kFailedPrecondition) << prepared;
  EXPECT_THAT(std::string(prepared.message()), ::testing::HasSubstr("are still adapter"));
}

TEST_F(AdapterChanges, BlocksOfOneVersionAreNotFoundByAnother) {
  WorkerGroup group({.workers = 1}, base_);
  Placement placement = WithAdapter(Contiguous(spec_, 1), Checked(group.engine(0), one_));
  placement = WithAdapter(std::move(placement), Checked(group.engine(0), two_));
  group.Place(placement);
  const auto run = [&](uint64_t id, const std::string& adapter) {
    SequenceRequest request{.id = id, .adapter = adapter, .prompt = std::vector<TokenId>(64, 3)};
    request.max_tokens = 1;
    group.Submit(0, request);
    group.AwaitAll();
    return group.engine(0).stats().prefix_hits;
  };
  EXPECT_EQ(run(0, one_.digest), 0u);
  EXPECT_EQ(run(1, two_.digest), 0u) << "another version";
  EXPECT_EQ(run(2, ""), 0u) << "the base";
  EXPECT_GT(run(3, one_.digest), 0u) << "its own";
}

}  // namespace
}  // namespace conclave::worker

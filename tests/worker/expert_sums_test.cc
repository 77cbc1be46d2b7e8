// Workers that return sums: what a request gets depends on the placement, and on nothing else: not
// on its home, its batch, which replica answers, or that a worker is late or lost meanwhile. It is
// near what one worker gives that is alone.

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "scheduler/placement.h"
#include "tests/worker/testing/many_requests.h"
#include "tests/worker/testing/worker_group.h"

namespace conclave::worker {
namespace {

using scheduler::Placement;
using testing::Folder;
using testing::kRequests;
using testing::Request;
using testing::WorkerGroup;
using Answers = WorkerGroup::Answers;

Engine::Options Sums() {
  Engine::Options options;
  options.experts.returns = Returns::kSums;
  return options;
}

Placement Spread(const Model& model, int workers) {
  const FrameLimits limits = FrameLimitsFor(model.spec, 1);
  return scheduler::Contiguous(WorkerGroup::Names(workers), static_cast<int32_t>(limits.layers),
                               model.spec.gate.slots);
}

// Request i on the home (i + shift) of the first `homes`.
void SubmitAll(WorkerGroup& group, int32_t vocab, int homes, int shift = 0) {
  for (int i = 0; i < kRequests; ++i) group.Submit((i + shift) % homes, Request(i, vocab));
}

Answers RunUnder(const Placement& placement, const Model& model, const std::string& directory,
                 int shift = 0) {
  const int workers = static_cast<int>(placement.workers.size());
  WorkerGroup group({.workers = workers, .engine = Sums()}, directory);
  group.Place(placement);
  SubmitAll(group, model.spec.vocab, workers, shift);
  group.AwaitAll();
  return group.AllAnswers();
}

uint64_t HomeBytes(WorkerGroup& group) {
  uint64_t bytes = 0;
  for (int i = 0; i < group.workers(); ++i) {
    bytes += group.engine(i).expert_stats().exchange.home_bytes;
  }
  return bytes;
}

// How far a prompt's log-probabilities are from those of one worker that returns rows.
struct Distance {
  double mean = 0.0;
  double max = 0.0;
};

constexpr int kPrompts = 4;

SequenceRequest Scored(int i, int32_t vocab) {
  SequenceRequest request = Request(59 + i, vocab);
  request.prompt_logprobs = true;
  request.max_tokens = 1;
  return request;
}

Answers Score(WorkerGroup& group, const Placement& placement, int32_t vocab) {
  group.Place(placement);
  for (int i = 0; i < kPrompts; ++i) group.Submit(i % group.workers(), Scored(i, vocab));
  group.AwaitAll();
  return group.AllAnswers();
}

Distance Between(const Answers& a, const Answers& b) {
  Distance distance;
  int count = 0;
  for (const auto& [id, answer] : a) {
    const auto& other = b.at(id).prompt_logprobs;
    EXPECT_EQ(answer.prompt_logprobs.size(), other.size());
    for (size_t i = 0; i < other.size(); ++i) {
      const double off = std::abs(answer.prompt_logprobs[i].logprob - other[i].logprob);
      distance.mean += off;
      distance.max = std::max(distance.max, off);
      ++count;
    }
  }
  EXPECT_GT(count, 50);
  distance.mean /= count;
  return distance;
}

class FamilySums : public ::testing::TestWithParam<std::string> {};

TEST_P(FamilySums, AreNearWhatOneWorkerGives) {
  const std::string directory = Folder() + "/" + GetParam();
  const auto loaded = Model::Load(directory);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const Model& model = **loaded;
  const int32_t vocab = model.spec.vocab;
  WorkerGroup one({.workers = 1}, directory);
  const Answers expected = Score(one, Spread(model, 1), vocab);
  for (const int workers : {2, 4}) {
    WorkerGroup group({.workers = workers, .engine = Sums()}, directory);
    const Distance off = Between(Score(group, Spread(model, workers), vocab), expected);
    // Measured at most: 5e-7 and 2e-6 in F32; 2e-3 and 1e-2 in BF16, where the authors' code is as
    // far from us by 3e-3 to 9e-3 in the mean.
    const bool narrow = model.spec.activation_type() == DType::kBF16;
    EXPECT_LT(off.mean, narrow ? 4e-3 : 1e-6);
    EXPECT_LT(off.max, narrow ? 2e-2 : 1e-5);
  }
}

INSTANTIATE_TEST_SUITE_P(All, FamilySums, ::testing::ValuesIn(testing::Checkpoints()),
                         [](const auto& row) {
                           std::string name = row.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

class Sum : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto loaded = Model::Load(directory_);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    model_ = *loaded;
  }
  Placement Any(int workers, uint64_t seed) {
    return testing::AnyPlacement(workers, testing::ExpertsOf(*model_), seed);
  }
  // What w2 owns, others own too: two of them in turn, so that a sum of it has no other owner.
  Placement Covered() {
    Placement placement = Spread(*model_, 4);
    int32_t turn = 0;
    for (std::vector<int32_t>& owners : placement.owners) {
      if (owners.back() == 2) owners = turn++ % 2 == 0 ? std::vector{0, 2} : std::vector{2, 3};
    }
    return placement;
  }

  const std::string directory_ = Folder() + "/deepseek-v3-fp8-bf16";
  std::shared_ptr<const Model> model_;
};

TEST_F(Sum, DependsOnThePlacementAndNotOnHomes) {
  const Placement placement = Any(3, 4);
  const Answers expected = RunUnder(placement, *model_, directory_);
  EXPECT_TRUE(RunUnder(placement, *model_, directory_) == expected);
  EXPECT_TRUE(RunUnder(placement, *model_, directory_, /*shift=*/1) == expected);
  EXPECT_FALSE(RunUnder(Any(3, 5), *model_, directory_) == expected)
      << "the bits of another placement are others, or nothing was summed";
}

TEST_F(Sum, OfAllOfARowIsWhatOneWorkerGivesInFullPrecision) {
  const std::string directory = Folder() + "/deepseek-v3-fp8";
  const auto model = Model::Load(directory);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_TRUE(RunUnder(Spread(**model, 1), **model, directory) == testing::Alone(*model));
  EXPECT_TRUE(testing::Alone(*model, Sums()) == testing::Alone(*model));
}

TEST_F(Sum, BringsFewerBytesHomeThanRows) {
  const auto home_bytes = [&](const Engine::Options& options) {
    WorkerGroup group({.workers = 2, .engine = options}, directory_);
    group.Place(Spread(*model_, 2));
    SubmitAll(group, model_->spec.vocab, 2);
    group.AwaitAll();
    return HomeBytes(group);
  };
  const uint64_t sums = home_bytes(Sums());
  EXPECT_GT(sums, 0u);
  EXPECT_LT(sums, home_bytes({}) * 3 / 4);
}

TEST_F(Sum, IsTheSameWhenAPeerIsLostAndNoOtherOwnsAllOfIt) {
  const Answers expected = RunUnder(Covered(), *model_, directory_);
  Engine::Options engine = Sums();
  engine.experts.exchange.late = testing::kNeverLate;  // or w2 might not be asked often enough
  WorkerGroup group({.workers = 4, .engine = engine}, directory_);
  group.Place(Covered());
  std::atomic<int> asked{0};
  group.network().SetJudge([&](const std::string&, const std::string& to, const FrameHeader& h) {
    if (to == "w2" && IsQuestion(h.kind) && ++asked > 5) return InProcessNetwork::Fate::kDrop;
    return InProcessNetwork::Fate::kDeliver;
  });
  SubmitAll(group, model_->spec.vocab, 2);
  ASSERT_TRUE(conclave::testing::WaitFor([&] { return asked > 5; }, "w2 to be asked"));
  group.SetAlive(2, false);
  group.AwaitAll();
  EXPECT_TRUE(group.AllAnswers() == expected);
}

TEST_F(Sum, IsTheSameWhenRowsOfALateOneAreAskedOfOthers) {
  const Answers expected = RunUnder(Covered(), *model_, directory_);
  Engine::Options engine = Sums();
  engine.experts.exchange.late = std::chrono::microseconds(200);
  WorkerGroup group({.workers = 4, .engine = engine}, directory_);
  group.Place(Covered());
  group.network().SetJudge([](const std::string& from, const std::string&, const FrameHeader& h) {
    return from == "w2" && h.kind == FrameKind::kSums ? InProcessNetwork::Fate::kHold
                                                      : InProcessNetwork::Fate::kDeliver;
  });
  SubmitAll(group, model_->spec.vocab, 2);
  group.AwaitAll();
  EXPECT_TRUE(group.AllAnswers() == expected);
  const PeerExchange::Stats before = group.engine(0).expert_stats().exchange;
  EXPECT_GT(before.late, 0u);
  group.network().DeliverHeld();
  EXPECT_GT(group.engine(0).expert_stats().exchange.stale, before.stale);
}

TEST_F(Sum, GoesOnThroughChangesOfPlacement) {
  WorkerGroup group({.workers = 3, .engine = Sums()}, directory_);
  group.Place(Any(3, 1));
  SubmitAll(group, model_->spec.vocab, 3);
  for (uint64_t seed = 2; seed < 8; ++seed) group.Place(Any(3, seed));
  group.AwaitAll();
  for (const auto& [id, answer] : group.AllAnswers()) {
    EXPECT_TRUE(answer.end && answer.end->status.ok()) << id;
  }
}

// What lies in KV blocks was computed by the placement of its time.
TEST_F(Sum, BeginsBehindNoBlocksOfAnotherPlacement) {
  const Placement placement = Any(2, 9);
  const auto run = [&](WorkerGroup& group, uint64_t id) {
    SequenceRequest request = Request(47, model_->spec.vocab);
    request.id = id;
    group.Submit(0, request);
    group.AwaitAll();
    return group.link(0).answers().at(id);
  };
  WorkerGroup fresh({.workers = 2, .engine = Sums()}, directory_);
  fresh.Place(placement);
  const auto expected = run(fresh, 1);
  EXPECT_TRUE(run(fresh, 2) == expected);
  EXPECT_GT(fresh.engine(0).stats().prefix_hits, 0u) << "blocks of the same one are used";

  WorkerGroup changed({.workers = 2, .engine = Sums()}, directory_);
  changed.Place(Any(2, 10));
  run(changed, 1);
  changed.Place(placement);
  EXPECT_TRUE(run(changed, 2) == expected);
}

}  // namespace
}  // namespace conclave::worker

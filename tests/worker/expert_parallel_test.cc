// Many workers, one model: what a request gets does not depend on how many there are, who owns
// which expert, which replica answers, or that a placement changes or a worker is lost meanwhile.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "scheduler/placement.h"
#include "tests/worker/testing/many_requests.h"
#include "tests/worker/testing/worker_group.h"

namespace conclave::worker {
namespace {

using scheduler::Placement;
using testing::Alone;
using testing::AnyPlacement;
using testing::Checkpoints;
using testing::ExpertsOf;
using testing::Folder;
using testing::kRequests;
using testing::Request;
using testing::RunAll;
using testing::WorkerGroup;
using Answers = WorkerGroup::Answers;

// How much is tried, a multiple of what every run of the tests does.
int Effort() {
  const char* effort = std::getenv("CONCLAVE_TEST_EFFORT");
  return effort == nullptr ? 1 : std::max(1, std::atoi(effort));
}

std::string TestName(const ::testing::TestParamInfo<std::string>& checkpoint) {
  std::string name = checkpoint.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

class ExpertParallel : public ::testing::TestWithParam<std::string> {};

TEST_P(ExpertParallel, GivesWhatOneWorkerGivesForAnyNumberAndAnyPlacement) {
  const auto model = Model::Load(Folder() + "/" + GetParam());
  ASSERT_TRUE(model.ok()) << model.status();
  const Answers expected = Alone(*model);
  for (const int workers : {1, 2, 3, 4, 5, 8}) {
    for (int lot = 0; lot < Effort(); ++lot) {
      SCOPED_TRACE(::testing::Message() << workers << " workers, placement " << lot);
      WorkerGroup group({.workers = workers}, Folder() + "/" + GetParam());
      group.Place(
          AnyPlacement(workers, ExpertsOf(**model), static_cast<uint64_t>(lot * 9 + workers)));
      EXPECT_TRUE(RunAll(group, (*model)->spec.vocab) == expected);
      uint64_t asked = 0;
      for (int i = 0; i < workers; ++i) asked += group.engine(i).expert_stats().exchange.frames;
      EXPECT_EQ(asked > 0, workers > 1);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, ExpertParallel, ::testing::ValuesIn(Checkpoints()), TestName);

class Workers : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto loaded = Model::Load(directory_);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    model_ = *loaded;
    expected_ = Alone(model_);
  }
  Placement Any(int workers, uint64_t seed) {
    return AnyPlacement(workers, ExpertsOf(*model_), seed);
  }
  Placement Contiguous(int workers) {
    const FrameLimits limits = FrameLimitsFor(model_->spec, 1);
    return scheduler::Contiguous(WorkerGroup::Names(workers), static_cast<int32_t>(limits.layers),
                                 model_->spec.gate.slots);
  }
  Placement Everywhere(int workers) {
    return scheduler::Everywhere(WorkerGroup::Names(workers), ExpertsOf(*model_));
  }
  void SubmitAll(WorkerGroup& group, int homes) {
    for (int i = 0; i < kRequests; ++i) group.Submit(i % homes, Request(i, model_->spec.vocab));
  }

  // FP8: an expert that is not held is zero, so it would show.
  const std::string directory_ = Folder() + "/deepseek-v3-fp8";
  std::shared_ptr<const Model> model_;
  Answers expected_;
};

TEST_F(Workers, ChangePlacementsWhileTokensFlow) {
  WorkerGroup group({.workers = 3}, directory_);
  group.Place(Any(3, 1));
  SubmitAll(group, 3);
  for (uint64_t seed = 2; seed < 12; ++seed) group.Place(Any(3, seed));
  group.AwaitAll();
  EXPECT_TRUE(group.AllAnswers() == expected_);
}

TEST_F(Workers, AdoptWithoutWorkWhatIsCommittedWhileAStepAdoptsAnother) {
  WorkerGroup group({.workers = 2}, directory_);
  Engine& engine = group.engine(0);
  const auto commit = [&](scheduler::Epoch epoch) {
    Placement placement = Contiguous(2);
    placement.epoch = epoch;
    placement.plan = epoch * 10;
    EXPECT_TRUE(engine.Prepare(std::make_shared<const Placement>(placement)).ok());
    EXPECT_TRUE(engine.Commit(placement.plan, epoch).ok());
  };
  std::atomic<bool> told{false};
  engine.OnNews([&] {
    if (!told.exchange(true)) commit(2);
  });
  commit(1);
  EXPECT_TRUE(conclave::testing::WaitFor([&] { return engine.adopted() == 2; }, "the second"));
  engine.OnNews(nullptr);
}

TEST_F(Workers, GiveTheSameWhileHomesThatAreAheadWaitForTheOthers) {
  Engine::Options engine;
  engine.experts.server.gather.worthwhile = std::chrono::microseconds(0);
  WorkerGroup group({.workers = 3, .engine = engine}, directory_);
  group.Place(Contiguous(3));
  SubmitAll(group, 3);
  group.AwaitAll();
  EXPECT_TRUE(group.AllAnswers() == expected_);
}

// Whatever w2 owns, w1 owns too.
Placement AllOfW2sWithW1(Placement placement) {
  for (std::vector<int32_t>& owners : placement.owners) {
    if (owners.back() == 2) owners = {1, 2};
  }
  return placement;
}

TEST_F(Workers, GoOnWithReplicasWhenAPeerIsLost) {
  Engine::Options engine;
  engine.experts.exchange.late = testing::kNeverLate;  // or w2 might not be asked often enough
  WorkerGroup group({.workers = 3, .engine = engine}, directory_);
  group.Place(AllOfW2sWithW1(Contiguous(3)));
  std::atomic<int> asked{0};
  group.network().SetJudge([&](const std::string&, const std::string& to, const FrameHeader& h) {
    if (to == "w2" && h.kind == FrameKind::kRows && ++asked > 5)
      return InProcessNetwork::Fate::kDrop;  // it is silent from now on
    return InProcessNetwork::Fate::kDeliver;
  });
  SubmitAll(group, 1);
  ASSERT_TRUE(conclave::testing::WaitFor([&] { return asked > 5; }, "w2 to be asked"));
  group.SetAlive(2, false);
  group.AwaitAll();
  EXPECT_TRUE(group.AllAnswers() == expected_);
}

TEST_F(Workers, BeginAStepWithoutTheLossesThatAreOver) {
  Engine::Options engine;
  engine.experts.exchange.late = testing::kNeverLate;
  WorkerGroup group({.workers = 3, .engine = engine}, directory_);
  group.Place(AllOfW2sWithW1(Contiguous(3)));
  for (const char* peer : {"w1", "w2"}) {
    group.network().SetConnected("w0", peer, false);
    group.network().SetConnected("w0", peer, true);
  }
  std::atomic<int> asked_w2{0};
  group.network().SetJudge([&](const std::string&, const std::string& to, const FrameHeader& h) {
    if (to == "w2" && h.kind == FrameKind::kRows) ++asked_w2;
    return InProcessNetwork::Fate::kDeliver;
  });
  SubmitAll(group, 1);
  group.AwaitAll();
  EXPECT_TRUE(group.AllAnswers() == expected_);
  EXPECT_EQ(group.engine(0).stats().steps_redone, 0u) << "w1 alone has some of the experts";
  EXPECT_GT(asked_w2, 0);
}

TEST_F(Workers, RedoTheStepWhenAnExpertHasNoOwnerLeftUntilAPlacementGivesItOne) {
  WorkerGroup group({.workers = 2}, directory_);
  group.Place(Contiguous(2));
  group.network().SetConnected("w0", "w1", false);
  SubmitAll(group, 1);
  ASSERT_TRUE(conclave::testing::WaitFor([&] { return group.engine(0).stats().steps_redone > 2; },
                                         "steps to be done again"));
  EXPECT_EQ(group.link(0).ends(), 0);
  group.SetAlive(1, false);
  group.Place(*scheduler::Recovered(Contiguous(2), {"w0"}));
  group.AwaitAll();
  EXPECT_TRUE(group.AllAnswers() == expected_);
}

TEST_F(Workers, EndWithUnavailableWhenTheDeadlineComesBeforeAnOwner) {
  WorkerGroup group({.workers = 2}, directory_);
  group.Place(Contiguous(2));
  group.network().SetConnected("w0", "w1", false);
  SequenceRequest request = Request(1, model_->spec.vocab);
  request.deadline = Engine::Now() + std::chrono::seconds(1);
  group.Submit(0, request);
  group.AwaitAll();
  const Answers answers = group.AllAnswers();
  ASSERT_TRUE(answers.at(1).end.has_value());
  EXPECT_TRUE(absl::IsUnavailable(answers.at(1).end->status)) << answers.at(1).end->status;
  EXPECT_TRUE(answers.at(1).end->lacks_expert);
  EXPECT_THAT(std::string(answers.at(1).end->status.message()),
              ::testing::HasSubstr("no live owner for expert"));
}

TEST_F(Workers, EndWithUnavailableWhenStepsWereRedoneAsLongAsTheyMayBe) {
  Engine::Options engine;
  engine.expert_wait = std::chrono::milliseconds(20);
  WorkerGroup group({.workers = 2, .engine = engine}, directory_);
  group.Place(Contiguous(2));
  // The other worker has not heard of the epoch this one steps by.
  Placement ahead = Contiguous(2);
  ahead.epoch = group.epoch() + 1;
  ahead.plan = 1000;
  ASSERT_TRUE(group.engine(0).Prepare(std::make_shared<const Placement>(ahead)).ok());
  ASSERT_TRUE(group.engine(0).Commit(ahead.plan, ahead.epoch).ok());
  uint64_t redone = 0;
  for (const int request : {1, 2}) {
    group.Submit(0, Request(request, model_->spec.vocab));
    group.AwaitAll();
    EXPECT_GT(group.engine(0).stats().steps_redone, redone + 1) << "each is waited for";
    redone = group.engine(0).stats().steps_redone;
    const absl::Status status = group.AllAnswers().at(static_cast<uint64_t>(request)).end->status;
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("refused rows of epoch 2"));
  }
}

TEST_F(Workers, AskAReplicaToo_WhenOneIsLate) {
  Engine::Options engine;
  engine.experts.exchange.late = std::chrono::microseconds(200);
  WorkerGroup group({.workers = 3, .engine = engine}, directory_);
  group.Place(AllOfW2sWithW1(Contiguous(3)));
  // What w2 answers comes only after all is over.
  group.network().SetJudge([](const std::string& from, const std::string&, const FrameHeader& h) {
    return from == "w2" && h.kind == FrameKind::kResults ? InProcessNetwork::Fate::kHold
                                                         : InProcessNetwork::Fate::kDeliver;
  });
  SubmitAll(group, 2);
  group.AwaitAll();
  EXPECT_TRUE(group.AllAnswers() == expected_);
  EXPECT_GT(group.engine(0).expert_stats().exchange.late, 0u);
  const uint64_t stale = group.engine(0).expert_stats().exchange.stale;
  group.network().DeliverHeld();
  EXPECT_GT(group.engine(0).expert_stats().exchange.stale, stale) << "late answers count nowhere";
}

// w1 and w2 own everything that w0 does not.
Placement OnTheOtherTwo(Placement placement) {
  for (std::vector<int32_t>& owners : placement.owners) {
    if (owners.back() != 0) owners = {1, 2};
  }
  return placement;
}

TEST_F(Workers, PassOverAPeerThatWasLate) {
  Engine::Options engine;
  engine.experts.exchange.late = std::chrono::milliseconds(300);  // not w1, on a busy machine
  engine.experts.exchange.lateness = {.avoid_min = std::chrono::hours(1),
                                      .avoid_max = std::chrono::hours(1)};
  WorkerGroup group({.workers = 3, .engine = engine}, directory_);
  group.Place(OnTheOtherTwo(Contiguous(3)));
  std::atomic<int> asked_w1{0}, asked_w2{0};
  group.network().SetJudge(
      [&](const std::string& from, const std::string& to, const FrameHeader& h) {
        if (h.kind == FrameKind::kRows && from == "w0") ++(to == "w1" ? asked_w1 : asked_w2);
        return from == "w2" && h.kind == FrameKind::kResults ? InProcessNetwork::Fate::kHold
                                                             : InProcessNetwork::Fate::kDeliver;
      });
  SubmitAll(group, 1);
  group.AwaitAll();
  EXPECT_TRUE(group.AllAnswers() == expected_);
  EXPECT_GE(group.engine(0).expert_stats().exchange.avoided, 1u);
  // Once; more often only where w1 has seemed late for a moment too.
  EXPECT_GE(asked_w2, 1);
  EXPECT_LT(asked_w2, asked_w1 / 4);
}

TEST_F(Workers, AskAPeerAgainThatWasLateOnce) {
  Engine::Options engine;
  engine.experts.exchange.late = std::chrono::microseconds(200);
  engine.experts.exchange.lateness = {.avoid_min = std::chrono::milliseconds(1),
                                      .avoid_max = std::chrono::milliseconds(1)};
  WorkerGroup group({.workers = 3, .engine = engine}, directory_);
  group.Place(OnTheOtherTwo(Contiguous(3)));
  std::atomic<int> answers{0};
  group.network().SetJudge([&](const std::string& from, const std::string&, const FrameHeader& h) {
    return from == "w2" && h.kind == FrameKind::kResults && ++answers == 1
               ? InProcessNetwork::Fate::kHold
               : InProcessNetwork::Fate::kDeliver;
  });
  SubmitAll(group, 1);
  group.AwaitAll();
  EXPECT_TRUE(group.AllAnswers() == expected_);
  EXPECT_GE(group.engine(0).expert_stats().exchange.avoided, 1u);
  EXPECT_GT(answers, 1);
}

TEST_F(Workers, GiveTheSameWhicheverReplicaIsNear) {
  for (const char* far : {"w1", "w2"}) {
    SCOPED_TRACE(far);
    WorkerGroup group({.workers = 3}, directory_);
    group.network().SetDistance("w0", far, 1);
    group.Place(OnTheOtherTwo(Contiguous(3)));
    SubmitAll(group, 1);
    group.AwaitAll();
    EXPECT_TRUE(group.AllAnswers() == expected_);
  }
}

TEST_F(Workers, AskEveryReplicaOnceHoweverLateTheyAre) {
  Engine::Options engine;
  engine.experts.exchange.late = std::chrono::microseconds(200);
  WorkerGroup group({.workers = 3, .engine = engine}, directory_);
  group.Place(OnTheOtherTwo(Contiguous(3)));
  std::atomic<uint32_t> attempts{0};
  group.network().SetJudge([&](const std::string&, const std::string& to, const FrameHeader& h) {
    attempts = std::max(attempts.load(), h.attempt);
    return to == "w0" && h.kind == FrameKind::kResults ? InProcessNetwork::Fate::kHold
                                                       : InProcessNetwork::Fate::kDeliver;
  });
  SequenceRequest stuck = Request(0, model_->spec.vocab);
  group.Submit(0, stuck);
  ASSERT_TRUE(conclave::testing::WaitFor([&] { return attempts == 1; }, "replicas to be asked"));
  for (int i = 1; i < kRequests; ++i) group.Submit(1, Request(i, model_->spec.vocab));
  ASSERT_TRUE(conclave::testing::WaitFor([&] { return group.link(1).ends() == kRequests - 1; },
                                         "another home to be done, many times as late"));
  EXPECT_EQ(attempts, 1u);
  group.network().SetJudge(nullptr);
  group.network().DeliverHeld();
  group.AwaitAll();
  EXPECT_TRUE(group.AllAnswers() == expected_);
}

TEST_F(Workers, RefuseFramesOfAWorkerThatIsCalledDead) {
  WorkerGroup group({.workers = 2}, directory_);
  group.Place(Everywhere(2));
  Placement placement = Contiguous(2);
  group.Place(placement);
  // w1 does not know yet that the cluster has given it up.
  group.engine(0).SetPeers(
      {{.id = "w1", .incarnation = WorkerGroup::Incarnation(1), .alive = false}});
  group.Submit(1, Request(3, model_->spec.vocab));
  ASSERT_TRUE(conclave::testing::WaitFor([&] { return group.engine(1).stats().steps_redone > 2; },
                                         "w1 to be refused"));
  EXPECT_GT(group.engine(0).expert_stats().server.refused[static_cast<size_t>(Refusal::kFenced)],
            0u);
  EXPECT_EQ(group.link(1).ends(), 0);
}

TEST_F(Workers, TakeNothingOfACorruptFrame) {
  WorkerGroup group({.workers = 3}, directory_);
  group.Place(Any(3, 5));
  std::atomic<int> frames{0};
  group.network().SetJudge([&](const std::string&, const std::string&, const FrameHeader&) {
    return ++frames % 50 == 0 ? InProcessNetwork::Fate::kCorrupt : InProcessNetwork::Fate::kDeliver;
  });
  SubmitAll(group, 3);
  group.AwaitAll();
  EXPECT_TRUE(group.AllAnswers() == expected_);
  uint64_t bad = 0;
  for (int i = 0; i < 3; ++i) bad += group.engine(i).expert_stats().transport.bad_frames;
  EXPECT_GT(bad, 0u);
}

TEST_F(Workers, RefuseAPlacementThatIsNoneOfTheirs) {
  WorkerGroup group({.workers = 1}, directory_);
  Placement placement = Contiguous(1);
  placement.epoch = 1;
  placement.plan = 1;
  placement.owners.pop_back();
  EXPECT_TRUE(absl::IsInvalidArgument(
      group.engine(0).Prepare(std::make_shared<const Placement>(placement))));
  placement.owners.push_back({7});
  EXPECT_TRUE(absl::IsInvalidArgument(
      group.engine(0).Prepare(std::make_shared<const Placement>(placement))));
  EXPECT_TRUE(absl::IsNotFound(group.engine(0).Commit(1, 1)));
}

}  // namespace
}  // namespace conclave::worker

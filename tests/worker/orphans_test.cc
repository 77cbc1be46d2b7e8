// Sequences of a router that is gone: kept for a while, taken over by their name, to the same bits.

#include "worker/orphans.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "scheduler/check.h"
#include "tests/worker/testing/collector.h"
#include "tests/worker/testing/give_all.h"
#include "tests/worker/testing/tiny_checkpoint.h"
#include "worker/engine.h"

namespace conclave::worker {
namespace {

using scheduler::Micros;
using scheduler::TokenId;
using testing::Collector;
using ::testing::ElementsAre;
using testing::GiveAll;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(Orphans, AreForgottenWhenTheirTimeIsOver) {
  Orphans orphans({.keep = Micros(10), .max = 2});
  EXPECT_FALSE(orphans.NextDue());
  EXPECT_TRUE(orphans.Add("a", 1, Micros(100)));
  EXPECT_FALSE(orphans.Add("a", 2, Micros(100))) << "the name is taken";
  EXPECT_TRUE(orphans.Add("b", 3, Micros(105)));
  EXPECT_FALSE(orphans.Add("c", 4, Micros(105))) << "there is no place";
  EXPECT_EQ(orphans.Find("b"), 3u);
  EXPECT_EQ(orphans.NextDue(), Micros(110));
  EXPECT_THAT(orphans.TakeDue(Micros(109)), IsEmpty());
  EXPECT_THAT(orphans.TakeDue(Micros(110)), ElementsAre(1));
  EXPECT_FALSE(orphans.Find("a"));
  orphans.Remove(3);
  EXPECT_THAT(orphans.Names(), IsEmpty());
  EXPECT_TRUE(orphans.Add("c", 4, Micros(110)));
}

// An engine that is stepped by hand; each link is one router.
class EngineOrphans : public ::testing::Test {
 protected:
  static constexpr Micros kNow{1'000'000};

  EngineOrphans() {
    const testing::TempDir dir;
    testing::WriteTinyOlmoe(dir.path(), 7, {.vocab = 20, .eos = -1, .tokenizer = false});
    auto model = Model::Load(dir.path());
    CONCLAVE_CHECK(model.ok());
    const Engine::Options options = {.orphans = {.keep = std::chrono::seconds(5)},
                                     .start_thread = false,
                                     .experts = {.id = "here"}};
    CpuDeviceOptions device_options = CpuDeviceOptionsFor((*model)->spec, options);
    device_options.threads = 1;
    auto device = MakeCpuDevice(device_options);
    CONCLAVE_CHECK(device.ok());
    auto engine = Engine::Create(options, *model, std::move(*device));
    CONCLAVE_CHECK(engine.ok());
    engine_ = std::move(*engine);
    request_.prompt = {3, 1, 4, 1, 5};
    request_.max_tokens = 20;
    request_.temperature = 1.0f;
    request_.seed = 9;
    request_.logprobs = 2;
  }

  void Steps(int count, Micros now = kNow) {
    for (int i = 0; i < count; ++i) engine_->Step(now);
  }
  void RunAll(Micros now = kNow) {
    while (engine_->Step(now)) {
    }
  }
  Collector::Answer Whole() {
    const auto link = std::make_shared<Collector>();
    SequenceRequest request = request_;
    request.id = 100;
    EXPECT_TRUE(engine_->Submit(link, request).ok());
    RunAll();
    return link->answers[100];
  }
  // A router that submits under the name, gets eight tokens and goes.
  void LeaveAnOrphan(const std::string& name) {
    const auto link = std::make_shared<Collector>();
    SequenceRequest request = request_;
    request.id = 1;
    request.name = name;
    EXPECT_TRUE(engine_->Submit(link, request).ok());
    Steps(8);
    EXPECT_EQ(link->answers[1].tokens.size(), 8u);
    engine_->CloseLink(link.get());
    Steps(1);
  }
  SequenceRequest Heir(const std::string& name, int32_t tokens) {
    SequenceRequest request = request_;
    request.id = 2;
    request.name = name;
    request.take_over = tokens;
    return request;
  }

  SequenceRequest request_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(EngineOrphans, GoOnForWhoTakesThemOver) {
  const Collector::Answer whole = Whole();
  for (const int32_t told : {1, 5, 8}) {
    SCOPED_TRACE(told);
    LeaveAnOrphan("name");
    EXPECT_THAT(engine_->orphans(), ElementsAre("name"));
    const auto link = std::make_shared<Collector>();
    ASSERT_TRUE(engine_->Submit(link, Heir("name", told)).ok());
    const uint64_t before = engine_->stats().generated_tokens;
    RunAll();
    const auto count = static_cast<ptrdiff_t>(told);
    const Collector::Answer& rest = link->answers[2];
    EXPECT_EQ(link->replayed[2],
              std::vector<TokenId>(whole.tokens.begin(), whole.tokens.begin() + count));
    EXPECT_EQ(rest.tokens, std::vector<TokenId>(whole.tokens.begin() + count, whole.tokens.end()));
    EXPECT_EQ(Collector::Answer::Flat(rest.logprobs),
              Collector::Answer::Flat({whole.logprobs.begin() + count, whole.logprobs.end()}));
    EXPECT_EQ(engine_->stats().generated_tokens - before, static_cast<uint64_t>(20 - told));
    EXPECT_THAT(engine_->orphans(), IsEmpty());
    EXPECT_EQ(engine_->stats().planner.running, 0);
    EXPECT_EQ(engine_->stats().planner.blocks_used, 0);
  }
  EXPECT_EQ(engine_->stats().orphans_taken_over, 3u);
}

TEST_F(EngineOrphans, AreToldOnceWhereTheirHeirsWaitForAnExpert) {
  const Collector::Answer whole = Whole();
  LeaveAnOrphan("name");
  GiveAll(*engine_, "elsewhere", 1);
  const auto link = std::make_shared<Collector>();
  ASSERT_TRUE(engine_->Submit(link, Heir("name", 5)).ok());
  Steps(3);
  EXPECT_THAT(engine_->stats().lacks, HasSubstr("no live owner for expert"));
  GiveAll(*engine_, "here", 2);
  RunAll();
  EXPECT_EQ(engine_->stats().steps_redone, 3u);
  EXPECT_EQ(engine_->stats().lacks, "");
  EXPECT_EQ(link->replayed[2],
            std::vector<TokenId>(whole.tokens.begin(), whole.tokens.begin() + 5));
  EXPECT_EQ(link->answers[2].tokens,
            std::vector<TokenId>(whole.tokens.begin() + 5, whole.tokens.end()));
}

TEST_F(EngineOrphans, AreNotSteppedAndEndWhenTheirTimeIsOver) {
  LeaveAnOrphan("name");
  const uint64_t tokens = engine_->stats().generated_tokens;
  Steps(5, kNow + std::chrono::milliseconds(4999));
  EXPECT_EQ(engine_->stats().generated_tokens, tokens);
  EXPECT_GT(engine_->stats().planner.blocks_used, 0);
  Steps(2, kNow + std::chrono::seconds(5));
  EXPECT_THAT(engine_->orphans(), IsEmpty());
  EXPECT_EQ(engine_->stats().planner.blocks_used, 0);
}

TEST_F(EngineOrphans, AreLeftAloneByWhoAsksForSomethingElse) {
  const Collector::Answer whole = Whole();
  LeaveAnOrphan("name");
  const auto link = std::make_shared<Collector>();
  SequenceRequest other = Heir("name", 8);
  other.seed = 10;
  SequenceRequest more = Heir("name", 9);  // than it has
  more.id = 3;
  SequenceRequest unknown = Heir("nobody", 3);
  unknown.id = 4;
  for (const SequenceRequest& request : {other, more, unknown}) {
    ASSERT_TRUE(engine_->Submit(link, request).ok());
  }
  RunAll();
  EXPECT_THAT(link->replayed, IsEmpty());
  EXPECT_NE(link->answers[2].tokens, whole.tokens);
  EXPECT_EQ(link->answers[3].tokens, whole.tokens) << "it begins anew";
  EXPECT_EQ(link->answers[4].tokens, whole.tokens);
  EXPECT_THAT(engine_->orphans(), ElementsAre("name"));
}

TEST_F(EngineOrphans, AreNotKeptWithoutANameNorByAnEngineThatDrains) {
  LeaveAnOrphan("");
  EXPECT_EQ(engine_->stats().planner.blocks_used, 0);
  LeaveAnOrphan("name");
  engine_->Drain();
  EXPECT_FALSE(engine_->drained());
  Steps(2);
  EXPECT_TRUE(engine_->drained());
}

// The next router may lie where the last one did, and it counts from 1 too.
TEST_F(EngineOrphans, DoNotHoldTheNumberTheyHad) {
  const auto link = std::make_shared<Collector>();
  SequenceRequest request = request_;
  request.id = 1;
  request.name = "name";
  for (int round = 0; round < 2; ++round) {
    EXPECT_TRUE(engine_->Submit(link, request).ok());
    Steps(2);
    engine_->CloseLink(link.get());
    Steps(1);
    request.name = "other";
  }
  EXPECT_THAT(engine_->orphans(), ElementsAre("name", "other"));
}

}  // namespace
}  // namespace conclave::worker

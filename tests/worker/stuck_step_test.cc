// Steps that lack an expert, taken by hand: each sequence waits for as long as it may, and says why
// it ends.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>

#include "scheduler/check.h"
#include "tests/worker/testing/collector.h"
#include "tests/worker/testing/give_all.h"
#include "tests/worker/testing/tiny_checkpoint.h"
#include "worker/engine.h"

namespace conclave::worker {
namespace {

using scheduler::Micros;
using testing::Collector;
using ::testing::HasSubstr;

constexpr Micros kNow{1'000'000};
constexpr Micros kWait{500};

// All experts are with a worker that is not there.
class StuckStep : public ::testing::Test {
 protected:
  StuckStep() {
    const testing::TempDir dir;
    testing::WriteTinyOlmoe(dir.path(), 7, {.vocab = 20, .eos = -1, .tokenizer = false});
    auto model = Model::Load(dir.path());
    CONCLAVE_CHECK(model.ok());
    const Engine::Options options = {
        .start_thread = false, .experts = {.id = "here"}, .expert_wait = kWait};
    auto device = MakeCpuDevice(CpuDeviceOptionsFor((*model)->spec, options));
    CONCLAVE_CHECK(device.ok());
    auto engine = Engine::Create(options, *model, std::move(*device));
    CONCLAVE_CHECK(engine.ok());
    engine_ = std::move(*engine);
    Place("elsewhere");
  }

  void Place(const std::string& worker) { testing::GiveAll(*engine_, worker, ++epoch_); }
  void Submit(uint64_t id, std::optional<Micros> deadline = {}) {
    SequenceRequest request;
    request.id = id;
    request.prompt = {3, 1, 4};
    request.max_tokens = 2;
    request.deadline = deadline;
    EXPECT_TRUE(engine_->Submit(link_, request).ok());
  }
  bool Ended(uint64_t id) { return link_->answers[id].end.has_value(); }
  void ExpectLacked(uint64_t id) {
    ASSERT_TRUE(Ended(id));
    const SequenceEnd& end = *link_->answers[id].end;
    EXPECT_TRUE(absl::IsUnavailable(end.status)) << end.status;
    EXPECT_THAT(std::string(end.status.message()), HasSubstr("no live owner for expert"));
    EXPECT_TRUE(end.lacks_expert);
  }

  std::unique_ptr<Engine> engine_;
  std::shared_ptr<Collector> link_ = std::make_shared<Collector>();
  scheduler::Epoch epoch_ = 0;
};

TEST_F(StuckStep, EndsWhatHasWaitedAsLongAsItMayAndNothingElse) {
  Submit(1);
  engine_->Step(kNow);
  EXPECT_THAT(engine_->stats().lacks, HasSubstr("no live owner for expert"));
  Submit(2);
  engine_->Step(kNow + Micros(1));
  engine_->Step(kNow + kWait - Micros(1));
  EXPECT_FALSE(Ended(1));
  engine_->Step(kNow + kWait);
  ExpectLacked(1);
  EXPECT_FALSE(Ended(2));
  engine_->Step(kNow + kWait + Micros(1));
  ExpectLacked(2);
}

TEST_F(StuckStep, LeavesNoWaitToWhoComesLater) {
  Submit(1, kNow + Micros(10));
  engine_->Step(kNow);
  engine_->Step(kNow + Micros(10));
  ExpectLacked(1);
  EXPECT_EQ(engine_->stats().lacks, "") << "nobody waits";
  Submit(2);
  engine_->Step(kNow + 2 * kWait);
  EXPECT_FALSE(Ended(2));
}

TEST_F(StuckStep, BeginsAnotherWaitOnceTheExpertWasThere) {
  Submit(1);
  engine_->Step(kNow);
  Place("here");
  engine_->Step(kNow + Micros(1));  // the prompt, and a token
  EXPECT_EQ(engine_->stats().lacks, "");
  Place("elsewhere");
  engine_->Step(kNow + kWait);
  EXPECT_FALSE(Ended(1));
  Place("here");
  engine_->Step(kNow + 2 * kWait - Micros(1));
  ASSERT_TRUE(Ended(1));
  EXPECT_TRUE(link_->answers[1].end->status.ok());
  EXPECT_FALSE(link_->answers[1].end->lacks_expert);
}

TEST_F(StuckStep, BeginsAnotherWaitForWhoWasPausedWhenTheExpertWasThere) {
  Submit(1);
  engine_->Step(kNow);
  engine_->SetPaused(link_.get(), 1, true);
  Submit(2);
  Place("here");
  engine_->Step(kNow + Micros(1));
  EXPECT_EQ(link_->answers[2].tokens.size(), 1u);
  EXPECT_TRUE(link_->answers[1].tokens.empty());
  engine_->SetPaused(link_.get(), 1, false);
  Place("elsewhere");
  engine_->Step(kNow + kWait);
  EXPECT_FALSE(Ended(1)) << "its first wait was over when the expert came";
  engine_->Step(kNow + 2 * kWait);
  ExpectLacked(1);
}

}  // namespace
}  // namespace conclave::worker

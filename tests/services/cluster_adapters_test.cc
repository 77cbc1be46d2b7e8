// The scheduler's adapters with virtual time and no network: what operators ask, what workers and
// routers report, what views then tell, and what a restart finds.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>

#include "services/cluster_service.h"
#include "tests/services/testing/stepped_cluster_service.h"

namespace conclave::services {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using End = absl::StatusOr<v1::AdapterOperation>;

// A scheduler among workers "a", "b" and a router, who beat every time anything happens and do at
// once what views tell.
class ClusterAdaptersTest : public testing::SteppedCluster {
 protected:
  explicit ClusterAdaptersTest(int32_t workers = 2) : SteppedCluster(workers) {
    for (const char* id : {"a", "b"}) Start(id);
    router_.mutable_router()->set_address("127.0.0.1:4000");
    directories_["/law"] = Found("1a");
    directories_["/code"] = Found("2b");
    Rounds(8);
    now_ += options_.adapters.listen;
  }

  static v1::AdapterChecked Found(const std::string& digest) {
    v1::AdapterChecked checked;
    checked.set_digest(digest);
    checked.add_replaced(1);
    checked.add_replaced(3);
    checked.set_bytes(100);
    return checked;
  }

  void Beat() override {
    for (const auto& [id, beat] : beats_) EXPECT_EQ(service_->Hear(beat, now_), absl::OkStatus());
    EXPECT_EQ(service_->Hear(router_, now_), absl::OkStatus());
  }
  void Follow(const v1::ClusterView& view) override {
    router_.set_view(view.version());
    for (auto& [id, beat] : beats_) {
      beat.set_view(view.version());
      beat.clear_checked();
      if (view.has_check()) {
        *beat.mutable_checked() = directories_[view.check().source()];
        beat.mutable_checked()->set_check(view.check().check());
      }
      beat.mutable_placement()->Clear();
      const uint64_t plan = view.prepared().plan();
      if (refuses_ && plan != 0) {
        beat.mutable_placement()->set_refused(plan);
        beat.mutable_placement()->set_code(8);
        beat.mutable_placement()->set_why("no memory");
      } else {
        beat.mutable_placement()->set_acknowledged(plan);
      }
      beat.mutable_worker()->set_epoch(view.placement().epoch());
    }
  }

  absl::StatusOr<std::string> Add(const std::string& name, const std::string& source,
                                  const std::string& id = "") {
    v1::AddAdapterRequest request;
    request.set_name(name);
    request.set_source(source);
    request.set_operation_id(id);
    return service_->Add(request, [this](const End& end) { ends_.push_back(end); });
  }
  absl::StatusOr<std::string> Remove(const std::string& name) {
    v1::RemoveAdapterRequest request;
    request.set_name(name);
    return service_->Remove(request, [this](const End& end) { ends_.push_back(end); });
  }
  std::vector<std::string> Told() const {
    std::vector<std::string> told;
    for (const v1::Adapter& adapter : service_->view()->adapters()) {
      const bool active = adapter.state() == v1::ADAPTER_STATE_ACTIVE;
      told.push_back(adapter.name() + (active ? "=" : "-") + adapter.digest());
    }
    return told;
  }

  v1::HeartbeatRequest router_;
  std::map<std::string, v1::AdapterChecked> directories_;
  bool refuses_ = false;  // workers prepare nothing
  std::vector<End> ends_;
};

TEST_F(ClusterAdaptersTest, AnswersWhenTheAdapterIsToldToAll) {
  ASSERT_TRUE(Add("law", "/law").ok());
  Round();
  EXPECT_EQ(service_->view()->check().source(), "/law");
  EXPECT_THAT(Told(), ElementsAre());
  Rounds(6);
  EXPECT_THAT(Told(), ElementsAre("law=1a"));
  EXPECT_FALSE(service_->view()->has_check());
  ASSERT_EQ(ends_.size(), 1u);
  ASSERT_TRUE(ends_[0].ok()) << ends_[0].status();
  EXPECT_EQ(ends_[0]->digest(), "1a");
  EXPECT_EQ(ends_[0]->stage(), v1::ADAPTER_STAGE_DONE);
  const v1::Adapter& adapter = service_->view()->adapters(0);
  EXPECT_EQ(adapter.source(), "/law");
  EXPECT_EQ(adapter.experts(), 2u);
  EXPECT_EQ(adapter.bytes(), 100u);
  ASSERT_EQ(service_->view()->placement().adapters_size(), 1);
  EXPECT_EQ(service_->view()->placement().adapters(0).first(), 4u);
}

TEST_F(ClusterAdaptersTest, AnswersWithWhatAWorkerFound) {
  v1::AdapterChecked& bad = directories_["/bad"];
  bad.set_code(3);
  bad.set_message("model.safetensors: tensor x is transposed");
  ASSERT_TRUE(Add("law", "/bad").ok());
  Rounds(4);
  ASSERT_EQ(ends_.size(), 1u);
  EXPECT_EQ(ends_[0].status(),
            absl::InvalidArgumentError("adapter law: worker a: model.safetensors: tensor x is "
                                       "transposed"));
  EXPECT_EQ(service_->view()->placement().epoch(), 1u);
  EXPECT_EQ(service_->stats().adapters.failed, 1u);
}

TEST_F(ClusterAdaptersTest, AnswersWithWhyAWorkerCannotHoldIt) {
  refuses_ = true;
  ASSERT_TRUE(Add("law", "/law").ok());
  Rounds(6);
  ASSERT_EQ(ends_.size(), 1u);
  EXPECT_EQ(ends_[0].status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(ends_[0].status().message()),
              HasSubstr("adapter law: worker a cannot: no memory"));
}

TEST_F(ClusterAdaptersTest, AReportThatIsNoneEndsTheOperation) {
  directories_["/law"].set_digest("not hex");
  ASSERT_TRUE(Add("law", "/law").ok());
  Rounds(4);
  ASSERT_EQ(ends_.size(), 1u);
  EXPECT_EQ(ends_[0].status().code(), absl::StatusCode::kInternal);
}

TEST_F(ClusterAdaptersTest, AnAdapterOfMoreExpertsThanThereAreIsNotPlaced) {
  directories_["/law"].add_replaced(8);  // 4 base experts, 1 layer: 0 to 4, as shared ones go
  ASSERT_TRUE(Add("law", "/law").ok());
  Rounds(6);
  ASSERT_EQ(ends_.size(), 1u);
  EXPECT_FALSE(ends_[0].ok());
  EXPECT_THAT(Told(), ElementsAre());
}

TEST_F(ClusterAdaptersTest, ReplacesAndRemovesUnderTraffic) {
  Add("law", "/law").IgnoreError();
  Rounds(8);
  router_.add_in_use("1a");
  directories_["/law"] = Found("3c");
  Add("law", "/law").IgnoreError();
  Rounds(8);
  EXPECT_THAT(Told(), ElementsAre("law=3c", "law-1a"));
  ASSERT_EQ(ends_.size(), 2u);
  EXPECT_EQ(ends_[1]->replaced(), "1a");
  router_.clear_in_use();
  Rounds(8);
  EXPECT_THAT(Told(), ElementsAre("law=3c"));
  ASSERT_TRUE(Remove("law").ok());
  Rounds(1);
  EXPECT_THAT(Told(), ElementsAre("law-3c"));
  Rounds(10);
  EXPECT_THAT(Told(), ElementsAre());
  ASSERT_EQ(ends_.size(), 3u);
  EXPECT_EQ(ends_[2]->bytes_freed(), 100u);
  EXPECT_EQ(service_->stats().adapters.bytes_freed, 200u);
  EXPECT_EQ(Remove("law").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(ClusterAdaptersTest, AnOperatorsPlacementKeepsAdapters) {
  Add("law", "/law").IgnoreError();
  Rounds(8);
  const Plan plan{.workers = 2, .layers = 1, .experts = 4, .owners = {{1}, {1}, {0}, {0}}};
  ASSERT_TRUE(service_
                  ->Place(
                      plan, [](const auto&) {}, now_)
                  .ok());
  Rounds(6);
  EXPECT_THAT(service_->view()->placement().owners(), ElementsAre(1, 1, 0, 0));
  EXPECT_EQ(service_->view()->placement().adapters_size(), 1);
  EXPECT_THAT(Told(), ElementsAre("law=1a"));
}

TEST_F(ClusterAdaptersTest, AColdStartKeepsAdapters) {
  Add("law", "/law").IgnoreError();
  Rounds(8);
  Restart();
  for (const char* id : {"a", "b"}) Start(id);
  Rounds(10);
  EXPECT_EQ(service_->view()->placement().adapters_size(), 1);
  EXPECT_THAT(Told(), ElementsAre("law=1a"));
  Add("code", "/code").IgnoreError();
  Rounds(8);
  EXPECT_THAT(Told(), ElementsAre("code=2b", "law=1a"));
}

TEST_F(ClusterAdaptersTest, AnotherModelKeepsNone) {
  Add("law", "/law").IgnoreError();
  Rounds(8);
  Restart();
  for (const char* id : {"a", "b"}) {
    Start(id);
    beats_[id].mutable_worker()->mutable_model()->set_experts(8);
  }
  Rounds(10);
  EXPECT_EQ(service_->view()->placement().owners_size(), 8);
  EXPECT_EQ(service_->view()->placement().adapters_size(), 0);
  EXPECT_THAT(Told(), ElementsAre());
}

TEST_F(ClusterAdaptersTest, ACrashLeavesAllOrNothingAndTheNextGoesOn) {
  for (int rounds = 0; rounds < 8; ++rounds) {
    const std::string digest = std::string("c") + std::to_string(rounds);
    directories_["/law"] = Found(digest);
    const auto id = Add("law", "/law", "operation-" + digest);
    ASSERT_TRUE(id.ok());
    Rounds(rounds);
    Restart();
    for (int i = 0; i < 4; ++i) {
      Round(milliseconds(300));
      const auto seen = service_->view();
      for (const v1::Adapter& told : seen->adapters()) {
        if (told.state() != v1::ADAPTER_STATE_ACTIVE) continue;
        const auto& placed = seen->placement().adapters();
        EXPECT_TRUE(std::any_of(placed.begin(), placed.end(), [&](const auto& adapter) {
          return adapter.digest() == told.digest();
        })) << "what is named is placed";
      }
    }
    ASSERT_TRUE(Add("law", "/law", "operation-" + digest).ok()) << "asked again";
    ends_.clear();
    for (int i = 0; i < 20; ++i) Round(milliseconds(500));
    ASSERT_EQ(ends_.size(), 1u) << "restarted after " << rounds << " rounds";
    ASSERT_TRUE(ends_[0].ok()) << ends_[0].status();
    EXPECT_THAT(Told(), ElementsAre("law=" + digest));
  }
}

TEST_F(ClusterAdaptersTest, WhatCannotBeSavedIsNotAnswered) {
  Restart({"scheduler.save=error"});
  for (int i = 0; i < 10; ++i) Round();
  Add("law", "/law").IgnoreError();
  Rounds(10);
  EXPECT_TRUE(ends_.empty());
  EXPECT_THAT(Told(), ElementsAre());
}

TEST_F(ClusterAdaptersTest, CallersAreToldWhenItGoes) {
  Add("law", "/law").IgnoreError();
  service_->CloseWatches();
  ASSERT_EQ(ends_.size(), 1u);
  EXPECT_EQ(ends_[0].status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Add("law", "/law").status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(ClusterAdaptersTest, HasNoMoreCallersThanItsLimit) {
  options_.max_callers = 2;
  Restart();
  Rounds(1);
  EXPECT_TRUE(Add("law", "/law").ok());
  EXPECT_TRUE(Add("law", "/law").ok()) << "the same";
  EXPECT_EQ(Add("law", "/law").status().code(), absl::StatusCode::kResourceExhausted);
  Rounds(8);
  EXPECT_EQ(ends_.size(), 2u);
}

TEST_F(ClusterAdaptersTest, RefusesBeatsWithMoreVersionsInUseThanThereCanBe) {
  v1::HeartbeatRequest beat = beats_["a"];
  for (int i = 0; i < 1024; ++i) beat.add_in_use("1a");
  EXPECT_TRUE(service_->Hear(beat, now_).ok());
  beat.add_in_use("1a");
  EXPECT_EQ(service_->Hear(beat, now_).code(), absl::StatusCode::kInvalidArgument);
  beat.clear_in_use();
  beat.add_in_use(std::string(129, 'a'));
  EXPECT_EQ(service_->Hear(beat, now_).code(), absl::StatusCode::kInvalidArgument);
  v1::HeartbeatRequest router = router_;
  router.add_in_use("");
  EXPECT_EQ(service_->Hear(router, now_).code(), absl::StatusCode::kInvalidArgument);
  router.clear_in_use();
  router.add_waiting("");
  EXPECT_EQ(service_->Hear(router, now_).code(), absl::StatusCode::kInvalidArgument);
  router.clear_waiting();
  for (int i = 0; i < 1025; ++i) router.add_waiting("1a");
  EXPECT_EQ(service_->Hear(router, now_).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ClusterAdaptersTest, TellsWhatAWorkerLacksAndWhyAndTakesItToDisk) {
  ASSERT_TRUE(Add("law", "/law").ok());
  ASSERT_TRUE(Add("code", "/code").ok());
  Rounds(12);
  v1::AdapterLack& lack = *beats_["b"].add_lacks();
  lack.set_digest("1a");
  lack.set_why("/law: damaged");
  Round();
  const v1::Adapter law = service_->view()->adapters(1);
  EXPECT_EQ(law.name(), "law");
  EXPECT_TRUE(law.on_disk() && law.lacking());
  EXPECT_EQ(law.problem(), "worker b lacks its experts: /law: damaged");
  EXPECT_FALSE(service_->view()->adapters(0).on_disk());
  Rounds(8);
  EXPECT_EQ(service_->view()->placement().adapters_size(), 1);
  EXPECT_FALSE(service_->view()->adapters(1).lacking()) << "it is gone";
  EXPECT_EQ(service_->view()->adapters(1).problem(), law.problem());
}

TEST_F(ClusterAdaptersTest, RefusesBeatsThatLackMoreThanThereCanBe) {
  v1::HeartbeatRequest beat = beats_["a"];
  for (int i = 0; i < 256; ++i) beat.add_lacks()->set_digest("1a");
  EXPECT_EQ(service_->Hear(beat, now_), absl::OkStatus());
  beat.add_lacks()->set_digest("1a");
  EXPECT_EQ(service_->Hear(beat, now_).code(), absl::StatusCode::kInvalidArgument);
  beat.clear_lacks();
  v1::AdapterLack& lack = *beat.add_lacks();
  EXPECT_EQ(service_->Hear(beat, now_).code(), absl::StatusCode::kInvalidArgument);
  lack.set_digest(std::string(128, 'a'));
  lack.set_why(std::string(2048, 'a'));
  EXPECT_EQ(service_->Hear(beat, now_), absl::OkStatus());
  lack.set_why(std::string(2049, 'a'));
  EXPECT_EQ(service_->Hear(beat, now_).code(), absl::StatusCode::kInvalidArgument);
  lack.clear_why();
  lack.set_digest(std::string(129, 'a'));
  EXPECT_EQ(service_->Hear(beat, now_).code(), absl::StatusCode::kInvalidArgument);
}

// Who is told that an adapter is served may ask for it through any router at once.
TEST_F(ClusterAdaptersTest, AnswersWhenAllRoutersThatServeKnowTheAdapter) {
  v1::HeartbeatRequest slow = router_;
  slow.mutable_router()->set_address("127.0.0.1:4001");
  const auto rounds = [&](int count) {
    for (int i = 0; i < count; ++i) {
      EXPECT_EQ(service_->Hear(slow, now_), absl::OkStatus());
      Round();
    }
  };
  slow.set_view(service_->view()->version());
  ASSERT_TRUE(Add("law", "/law").ok());
  rounds(12);
  EXPECT_THAT(Told(), ElementsAre("law=1a"));
  EXPECT_THAT(ends_, ElementsAre()) << "it follows an older view";
  slow.set_view(service_->view()->version());
  rounds(2);
  EXPECT_EQ(ends_.size(), 1u);

  ASSERT_TRUE(Add("code", "/code").ok());
  rounds(12);
  EXPECT_EQ(ends_.size(), 1u);
  Round(options_.adapters.follow);
  Round();
  EXPECT_EQ(ends_.size(), 2u) << "it had its time";

  ASSERT_TRUE(Add("more", "/code").ok());
  Rounds(10);
  Round(options_.routers.dead_after);
  Round();
  EXPECT_EQ(ends_.size(), 3u) << "it is dead";
}

class UnplacedAdaptersTest : public ClusterAdaptersTest {
 protected:
  UnplacedAdaptersTest() : ClusterAdaptersTest(0) {}
};

TEST_F(UnplacedAdaptersTest, TheFirstAdapterBringsAPlacementInWhichAllHaveTheBase) {
  EXPECT_FALSE(service_->view()->has_placement());
  ASSERT_TRUE(Add("law", "/law").ok());
  Rounds(8);
  EXPECT_THAT(Told(), ElementsAre("law=1a"));
  EXPECT_THAT(service_->view()->placement().copies(), ElementsAre(2, 2, 2, 2));
  EXPECT_THAT(service_->view()->placement().adapters(0).owners(), ElementsAre(0, 1));
}

TEST_F(UnplacedAdaptersTest, NothingIsBegunBeforeAWorkerHasJoined) {
  beats_.clear();
  service_.reset();
  std::filesystem::remove(directory_.File("scheduler.db"));
  Restart();
  EXPECT_EQ(Add("law", "/law").status().code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace conclave::services

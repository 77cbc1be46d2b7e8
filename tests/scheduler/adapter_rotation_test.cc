#include "scheduler/adapter_rotation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/scheduler/testing/adapter_catalogue_world.h"

namespace conclave::scheduler {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::HasSubstr;

// Each adapter has two experts of 50 bytes, one for each of the two workers: two fit.
class AdapterRotationTest : public AdapterCatalogueTest {
 protected:
  AdapterRotationTest() {
    options_.limits.names = 16;
    options_.rotation = {.bytes = 100, .turn = seconds(2), .again = seconds(1)};
    for (const char* const digest : {"1a", "2b", "3c", "4d", "5e", "6f"})
      Put(std::string("/") + digest, digest);
    Restart();
    now_ += options_.listen;
  }

  void Add(const std::string& digest) {
    catalogue_->Add("", "n" + digest, "/" + digest);
    Run(8);
    ASSERT_EQ(Active("n" + digest), digest);
  }
  void AddAll(std::initializer_list<const char*> digests) {
    for (const char* const digest : digests) Add(digest);
  }
  // Rounds in which no worker ever has too much.
  void Run(int rounds, Micros each = milliseconds(100)) {
    for (int i = 0; i < rounds; ++i) {
      Round(each);
      for (const uint64_t bytes : AdapterBytes(*change_->current(), catalogue_->Save().versions))
        ASSERT_LE(bytes, options_.rotation.bytes);
    }
  }
  bool OnDisk(const std::string& digest) const {
    return catalogue_->Save().versions.at(digest).on_disk;
  }
  // Of each version's requests some run, or all wait.
  void Uses(std::vector<std::string> running, std::vector<std::string> waiting = {}) {
    AdapterCatalogue::Report& report = routers_["r"];
    report.in_use = std::move(running);
    report.in_use.insert(report.in_use.end(), waiting.begin(), waiting.end());
    report.waiting = std::move(waiting);
  }
};

TEST_F(AdapterRotationTest, WhatDoesNotFitIsActiveOnDisk) {
  AddAll({"1a", "2b", "3c"});
  EXPECT_TRUE(Placed("1a") && Placed("2b"));
  EXPECT_TRUE(OnDisk("3c") && !Placed("3c"));
  EXPECT_EQ(catalogue_->stats().added, 3u);
  EXPECT_EQ(catalogue_->stats().to_disk, 0u) << "it never was in memory";
}

TEST_F(AdapterRotationTest, WhatCannotFitAloneIsRefusedWithWhatItNeeds) {
  Put("/large", "77", 202);
  const AdapterAnswer opened = catalogue_->Add("", "large", "/large");
  Run(8);
  EXPECT_EQ(Of(opened).error, AdapterError::kFull);
  EXPECT_EQ(Of(opened).message,
            "its experts take 101 bytes on worker a, those of all adapters may take 100 "
            "(--adapter-bytes)");
  Put("/fits", "78", 200);
  catalogue_->Add("", "fits", "/fits");
  Run(8);
  EXPECT_TRUE(Placed("78"));
}

TEST_F(AdapterRotationTest, SharedExpertsCountOnEveryWorker) {
  Placement placement{.workers = {"a", "b"}, .owners = {{0}, {0}, {1}, {1}}};
  placement = WithAdapter(placement, {.digest = "1a", .replaced = {1, 2, 4}});
  const AdapterRotation::Versions versions = {
      {"1a", {.replaced = {1, 2, 4}, .bytes = 130, .shared_bytes = 30}}};
  EXPECT_EQ(AdapterBytes(placement, versions), (std::vector<uint64_t>{80, 80}));
  EXPECT_TRUE(AdapterRotation({.bytes = 80}).Fits(placement, versions));
  EXPECT_FALSE(AdapterRotation({.bytes = 79}).Fits(placement, versions));
}

TEST_F(AdapterRotationTest, ARequestBringsItBackInPlaceOfWhoWasIdleLongest) {
  AddAll({"1a", "2b", "3c"});
  Uses({"1a"});
  Run(1, options_.rotation.turn);
  Uses({});
  Run(1);
  Uses({}, {"3c"});
  Run(12);
  EXPECT_TRUE(Placed("3c") && !OnDisk("3c"));
  EXPECT_TRUE(Placed("1a")) << "it was used last";
  EXPECT_TRUE(OnDisk("2b") && !Placed("2b"));
  EXPECT_EQ(catalogue_->stats().to_memory, 1u);
  EXPECT_EQ(catalogue_->stats().to_disk, 1u);
  EXPECT_EQ(Active("n2b"), "2b") << "that it is on disk changes no name";
}

TEST_F(AdapterRotationTest, NobodyLeavesBeforeItsTurnIsOver) {
  AddAll({"1a", "2b", "3c"});
  Run(1, options_.rotation.turn);
  Uses({}, {"3c"});
  Run(12);
  ASSERT_TRUE(Placed("3c"));
  const bool first_left = !Placed("1a");
  const std::string left = first_left ? "1a" : "2b", stayed = first_left ? "2b" : "1a";
  Uses({stayed, "3c"}, {left});
  Run(8);
  EXPECT_TRUE(OnDisk(stayed)) << "its turn was over long ago";
  EXPECT_FALSE(OnDisk("3c")) << "its turn has just begun";
}

TEST_F(AdapterRotationTest, WhatRunsKeepsItInMemoryUntilItHasEnded) {
  AddAll({"1a", "2b", "3c"});
  Run(1, options_.rotation.turn);
  Uses({"1a", "2b"}, {"3c"});
  reports_["b"].in_use = {"1a"};
  Run(10);
  ASSERT_TRUE(OnDisk("1a"));
  EXPECT_TRUE(Placed("1a")) << "a request runs";
  EXPECT_FALSE(OnDisk("2b")) << "one is enough";
  Uses({"2b"}, {"3c", "1a"});
  Run(5);
  EXPECT_TRUE(Placed("1a")) << "a worker has not ended it";
  reports_["b"].in_use = {};
  Run(12);
  EXPECT_FALSE(Placed("1a"));
  EXPECT_TRUE(Placed("3c"));
}

TEST_F(AdapterRotationTest, OneThatRunsForLongIsLeftAloneAndAnotherMakesRoom) {
  AddAll({"1a", "2b", "3c"});
  Run(1, options_.rotation.turn);
  Uses({"1a", "2b"}, {"3c"});
  Run(5);
  ASSERT_TRUE(OnDisk("1a")) << "it is to leave, and runs on and on";
  Run(1, options_.rotation.turn);
  Run(2);
  EXPECT_TRUE(Placed("1a") && !OnDisk("1a"));
  ASSERT_TRUE(OnDisk("2b"));
  Uses({"1a"}, {"3c", "2b"});
  Run(12);
  EXPECT_TRUE(Placed("3c") && !OnDisk("3c"));
}

// Of another size each, so that who makes room is not enough, or more than that.
TEST_F(AdapterRotationTest, NobodyIsToldToLeaveAndToStayAgainAndAgain) {
  Put("/small", "51", 20);
  Put("/large", "52", 160);
  Put("/next", "53", 120);
  for (const char* const name : {"small", "large", "next"}) {
    catalogue_->Add("", name, std::string("/") + name);
    Run(8);
  }
  ASSERT_TRUE(Placed("51") && Placed("52") && OnDisk("53"));
  Run(1, options_.rotation.turn);
  Uses({"51", "52"}, {"53"});
  for (int i = 0; i < 200; ++i) Run(1, milliseconds(50));  // neither ever ends
  EXPECT_LE(catalogue_->stats().to_disk, 8u) << "once a turn for each, in ten seconds";
}

TEST_F(AdapterRotationTest, OneThatNeedNotLeaveAnyMoreStays) {
  AddAll({"1a", "2b", "3c"});
  Run(1, options_.rotation.turn);
  Uses({"1a", "2b"}, {"3c"});
  Run(3);
  ASSERT_TRUE(OnDisk("1a"));
  Uses({"1a", "2b"});  // who wanted the third has gone
  Run(3);
  EXPECT_TRUE(Placed("1a") && !OnDisk("1a"));
}

TEST_F(AdapterRotationTest, WhatQueuesForAWorkerIsNotIdle) {
  AddAll({"1a", "2b", "3c"});
  Run(1, options_.rotation.turn);
  Uses({"1a"});  // held by a request that no worker has yet
  Run(2);
  Uses({"1a"}, {"3c"});
  Run(12);
  EXPECT_TRUE(Placed("1a") && Placed("3c")) << "the other one is idle";
}

TEST_F(AdapterRotationTest, ARouterThatIsSilentForLongDoesNotKeepItInMemory) {
  AddAll({"1a", "2b", "3c"});
  routers_["s"] = {.at = now_, .view = view_, .in_use = {"1a", "2b"}};
  silent_ = deaf_ = {"s"};
  Run(1, options_.rotation.turn);
  Uses({}, {"3c"});
  Run(10);
  EXPECT_FALSE(Placed("3c"));
  Round(options_.silent);
  Run(12);
  EXPECT_TRUE(Placed("3c"));
}

TEST_F(AdapterRotationTest, ARouterThatHasNotHeardThatItLeavesMayBeginRequests) {
  AddAll({"1a", "2b", "3c"});
  Run(1, options_.rotation.turn);
  Uses({}, {"3c"});
  deaf_ = {"r"};
  Run(10);
  EXPECT_TRUE(OnDisk("1a") && Placed("1a"));
  deaf_.clear();
  Run(12);
  EXPECT_FALSE(Placed("1a"));
}

TEST_F(AdapterRotationTest, MemoryIsTakenOnlyWhenItWasGivenBack) {
  AddAll({"1a", "2b", "3c"});
  Run(1, options_.rotation.turn);
  Uses({}, {"3c"});
  while (Placed("1a")) Run(1);
  deaf_ = {"b"};  // it holds what it held
  Run(20);
  EXPECT_FALSE(Placed("3c") || change_->next().has_value());
  deaf_.clear();
  Run(8);
  EXPECT_TRUE(Placed("3c"));
}

TEST_F(AdapterRotationTest, NoneStarvesHoweverManyAreBusy) {
  AddAll({"1a", "2b", "3c", "4d", "5e", "6f"});
  std::map<std::string, Micros> last;  // in memory
  Micros longest{};
  for (int i = 0; i < 1200; ++i) {
    std::vector<std::string> running, waiting;
    for (const auto& [digest, version] : catalogue_->Save().versions) {
      (version.on_disk ? waiting : running).push_back(digest);
      if (!version.on_disk) last[digest] = now_;
      if (last.contains(digest)) longest = std::max(longest, now_ - last[digest]);
    }
    Uses(running, waiting);
    Run(1);
  }
  EXPECT_EQ(last.size(), 6u);
  // Room for 2 of 6, and a second to leave and to come.
  EXPECT_LE(longest, 3 * (options_.rotation.turn + seconds(1)));
  EXPECT_GE(catalogue_->stats().to_memory, 60u);
}

TEST_F(AdapterRotationTest, AVersionThatWasReplacedOnDiskStillAnswersWhoWaitsForIt) {
  AddAll({"1a", "2b", "3c"});
  Uses({"1a", "2b"}, {"3c"});
  catalogue_->Add("", "n3c", "/4d");
  Run(8);
  ASSERT_EQ(Active("n3c"), "4d");
  EXPECT_TRUE(catalogue_->Save().draining.contains({"n3c", "3c"})) << "a request has begun with it";
  Uses({"2b"}, {"3c"});
  Run(12);
  ASSERT_TRUE(Placed("3c") && !OnDisk("3c"));
  Uses({"2b"});
  Run(12);
  EXPECT_FALSE(catalogue_->Save().versions.contains("3c")) << "nobody holds it, it is gone";
}

TEST_F(AdapterRotationTest, OneThatWasReplacedOnDiskAndThatNobodyHoldsIsFreed) {
  AddAll({"1a", "2b", "3c"});
  const AdapterAnswer removal = catalogue_->Remove("", "n3c");
  Uses({"3c"});
  Run(12);
  EXPECT_EQ(Of(removal).stage, AdapterStage::kDraining) << "a request holds it";
  Uses({});
  Run(12);
  EXPECT_EQ(Of(removal).stage, AdapterStage::kDone);
  EXPECT_FALSE(catalogue_->Save().versions.contains("3c"));
}

TEST_F(AdapterRotationTest, WhyOneCannotComeBackIsSaidAndItIsTriedAgain) {
  AddAll({"1a", "2b", "3c"});
  Run(1, options_.rotation.turn);
  Uses({}, {"3c"});
  while (Placed("1a")) Run(1);
  refuses_ = {"b"};
  members_["b"].code = static_cast<int32_t>(AdapterError::kNotNow);
  members_["b"].why = "/3c has become version 99";
  Run(20);
  EXPECT_TRUE(OnDisk("3c"));
  EXPECT_THAT(catalogue_->WhyNot("3c"), HasSubstr("/3c has become version 99"));
  EXPECT_EQ(Active("n3c"), "3c");
  refuses_.clear();
  Run(1, options_.rotation.again_longest);
  Run(8);
  EXPECT_FALSE(OnDisk("3c"));
  EXPECT_EQ(catalogue_->WhyNot("3c"), "");
}

TEST_F(AdapterRotationTest, OneThatCannotComeBackIsTriedMoreAndMoreRarely) {
  AddAll({"1a", "2b", "3c"});
  Run(1, options_.rotation.turn);
  Uses({}, {"3c"});
  while (Placed("1a")) Run(1);
  refuses_ = {"b"};
  const uint64_t before = change_->stats().proposed;
  for (int i = 0; i < 600; ++i) Round();
  EXPECT_GE(change_->stats().proposed, before + 4);
  EXPECT_LE(change_->stats().proposed, before + 8) << "a minute: after 1, 2, 4, 8, ... s";
}

TEST_F(AdapterRotationTest, OneThatFitsNoMoreDelaysNobody) {
  Put("/large", "77", 200);
  catalogue_->Add("", "large", "/large");
  Run(8);
  AddAll({"1a"});
  ASSERT_TRUE(Placed("77") && OnDisk("1a"));
  Uses({}, {"1a"});
  Run(1, options_.rotation.turn);
  Run(12);
  ASSERT_TRUE(OnDisk("77") && Placed("1a"));
  options_.rotation.bytes = 90;  // as the next scheduler is told
  Restart();
  Uses({}, {"77"});
  Run(1);
  Run(1, options_.rotation.turn);
  Run(12);
  EXPECT_THAT(catalogue_->WhyNot("77"), HasSubstr("may take 90"));
  EXPECT_TRUE(Placed("1a")) << "nobody leaves for what cannot come";
}

TEST_F(AdapterRotationTest, ACrashForgetsNobodyWhereverItHappens) {
  AddAll({"1a", "2b", "3c"});
  for (int crash_after = 0; crash_after < 14; ++crash_after) {
    Run(1, options_.rotation.turn);
    const bool back = OnDisk("3c");
    const std::string wanted = back ? "3c" : (OnDisk("1a") ? "1a" : "2b");
    Uses({}, {wanted});
    Run(crash_after);
    Restart();
    Run(1, options_.listen);
    Run(30);
    EXPECT_FALSE(OnDisk(wanted)) << wanted << " after " << crash_after;
    EXPECT_EQ(catalogue_->Rows().size(), 3u);
    Uses({}, {});
  }
}

TEST_F(AdapterRotationTest, WhoTakesOverFromTheDeadGetsBelowItsLimitAgain) {
  AddAll({"1a", "2b"});
  Run(1, options_.rotation.turn);
  members_["b"].alive = false;
  Round();
  Round();
  ASSERT_EQ(AdapterBytes(*change_->current(), catalogue_->Save().versions),
            (std::vector<uint64_t>{200}))
      << "nothing is lost";
  for (int i = 0; i < 12; ++i) Round();
  EXPECT_EQ(AdapterBytes(*change_->current(), catalogue_->Save().versions),
            (std::vector<uint64_t>{100}));
  EXPECT_EQ(OnDisk("1a") + OnDisk("2b"), 1);
}

TEST_F(AdapterRotationTest, WithoutALimitWhatIsOnDiskComesBackOnDemandAndStays) {
  AddAll({"1a", "2b", "3c"});
  options_.rotation.bytes = 0;
  Restart();
  Round(options_.listen);
  Uses({}, {"3c"});
  Rounds(8);
  EXPECT_TRUE(Placed("1a") && Placed("2b") && Placed("3c"));
}

TEST_F(AdapterRotationTest, WhatLeavesIsKeptByWhoAddsItOnceMore) {
  AddAll({"1a", "2b", "3c"});
  Run(1, options_.rotation.turn);
  Uses({"1a", "2b"}, {"3c"});
  Run(3);
  ASSERT_TRUE(OnDisk("1a") && Placed("1a"));
  const AdapterAnswer again = catalogue_->Add("", "another", "/1a");
  ASSERT_EQ(again.problem, "");
  for (int i = 0; i < 8 && Active("another").empty(); ++i) {
    Run(1);
    EXPECT_TRUE(Placed("1a"));
  }
  EXPECT_EQ(Active("another"), "1a");
}

}  // namespace
}  // namespace conclave::scheduler

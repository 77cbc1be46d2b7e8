// Stories of an adapter whose directory is damaged while it is served, and of the death that shows
// it: whoever has to take over its experts cannot read them. It alone is lost, by name, and comes
// back with its directory.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/cluster/ask_status.h"
#include "tests/cluster/fake_cluster.h"
#include "tests/cluster/whole_router.h"
#include "tests/testing/wait_for.h"
#include "tests/worker/testing/tiny_adapter.h"

namespace conclave::services::testing {
namespace {

using conclave::testing::WaitFor;
using ::testing::AllOf;
using ::testing::HasSubstr;
using namespace std::chrono_literals;
using worker::testing::TinyAdapterOptions;

constexpr uint64_t kSeeds = 4;

FakeCluster::Options Quick() {
  FakeCluster::Options options = QuickAdapters(3);
  options.scheduling.service.adapters.rotation.again = 50ms;
  options.scheduling.service.adapters.rotation.again_longest = 200ms;
  return options;
}

// Three workers, adapters "law" and "code" and what they and the base answer.
class AdapterLacksTest : public ::testing::Test {
 protected:
  AdapterLacksTest() : cluster_(Quick()) {
    Frontend::Options options;
    options.adapter_wait = 1s;
    router_ = StartRouter(cluster_, cluster_.model(), options);
    stub_ = StubOf(*router_);
    Add("law");
    Add("code");
    EXPECT_TRUE(WaitFor([&] { return Ask("code", 1).status.ok(); }, "the last to answer"));
    for (const char* const name : {"base", "law", "code"}) {
      for (uint64_t seed = 0; seed < kSeeds; ++seed) known_[{name, seed}] = Ask(name, seed);
    }
  }

  std::string File(const std::string& name) {
    return directory_.File(name) + "/model-00001-of-000001.safetensors";
  }
  std::string Kept(const std::string& name) { return directory_.File(name + ".kept"); }

  void Add(const std::string& name) {
    std::filesystem::create_directory(directory_.File(name));
    worker::testing::WriteAdapter(
        worker::testing::MakeTinyAdapter(
            cluster_.model(), static_cast<uint64_t>(name[0]),
            {.which = TinyAdapterOptions::Which::kAll, .shared = name == "law"}),
        directory_.File(name));
    EXPECT_TRUE(WaitFor([&] { return AddAdapter(cluster_, name, directory_.File(name)).ok(); },
                        "the adapter to be added"));
  }
  void Damage(const std::string& name) {
    std::filesystem::copy_file(File(name), Kept(name));
    std::filesystem::resize_file(File(name), 100);
  }
  void Mend(const std::string& name) { std::filesystem::rename(Kept(name), File(name)); }

  Answer Ask(const std::string& name, uint64_t seed) {
    v1::GenerateRequest request = SeededRequest(seed, 10);
    request.set_adapter(name);
    return Generate(*stub_, request);
  }
  v1::Adapter Row(const std::string& name) {
    const v1::StatusResponse status = AskStatus(cluster_.scheduler_address());
    for (const v1::Adapter& adapter : status.adapters()) {
      if (adapter.name() == name) return adapter;
    }
    return {};
  }
  void ExpectAnswers(const std::vector<std::string>& names) {
    for (const std::string& name : names) {
      for (uint64_t seed = 0; seed < kSeeds; ++seed) {
        SCOPED_TRACE(name + " " + std::to_string(seed));
        const Answer answer = Ask(name, seed);
        EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
        EXPECT_EQ(answer, known_.at({name, seed}));
      }
    }
  }
  void ExpectRefused(const std::string& name) {
    const Answer answer = Ask(name, 1);
    EXPECT_EQ(answer.status.error_code(), grpc::UNAVAILABLE);
    EXPECT_THAT(answer.status.error_message(),
                AllOf(HasSubstr("adapter '" + name + "'"), HasSubstr("worker worker-"),
                      HasSubstr(directory_.File(name))));
  }
  void ExpectComesBack(const std::string& name) {
    EXPECT_TRUE(WaitFor([&] { return Ask(name, 0).status.ok(); }, name + " to be served again"));
    EXPECT_FALSE(Row(name).on_disk());
    EXPECT_EQ(Row(name).problem(), "");
  }

  FakeCluster cluster_;
  worker::testing::TempDir directory_;
  std::unique_ptr<RouterNode> router_;
  std::unique_ptr<v1::Inference::Stub> stub_;
  std::map<std::pair<std::string, uint64_t>, Answer> known_;
};

TEST_F(AdapterLacksTest, ADeathThatFindsItDamagedTakesItAloneUntilItIsMended) {
  Damage("law");
  cluster_.KillWorker(2);
  ASSERT_TRUE(WaitFor([&] { return Row("law").problem() != ""; }, "the scheduler to know"));
  EXPECT_TRUE(Row("law").on_disk());
  EXPECT_THAT(Row("law").problem(), HasSubstr(directory_.File("law")));
  EXPECT_EQ(Row("code").problem(), "");
  ExpectAnswers({"base", "code"});
  ExpectRefused("law");
  ExpectAnswers({"base", "code"});
  Mend("law");
  ExpectComesBack("law");
  ExpectAnswers({"base", "law", "code"});
}

TEST_F(AdapterLacksTest, WhatRunsGoesOnBitForBitButForTheDamagedOne) {
  std::map<std::pair<std::string, uint64_t>, Answer> heard;
  for (const auto& [what, answer] : known_) heard[what];
  Damage("law");
  std::vector<std::thread> clients;
  for (auto& [what, answer] : heard) {
    clients.emplace_back([&, what = what, out = &answer] { *out = Ask(what.first, what.second); });
  }
  cluster_.KillWorker(2);
  for (std::thread& client : clients) client.join();
  for (const auto& [what, answer] : heard) {
    SCOPED_TRACE(what.first + " " + std::to_string(what.second));
    if (what.first == "law" && !answer.status.ok()) {
      EXPECT_EQ(answer.status.error_code(), grpc::UNAVAILABLE);
      EXPECT_THAT(answer.status.error_message(), HasSubstr("adapter"));
    } else {
      EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
      EXPECT_EQ(answer, known_.at(what));
    }
  }
}

TEST_F(AdapterLacksTest, TwoOfThemDoNotHoldEachOtherUp) {
  Damage("law");
  Damage("code");
  cluster_.KillWorker(2);
  for (const char* const name : {"law", "code"}) {
    ASSERT_TRUE(WaitFor([&] { return Row(name).problem() != ""; }, "the scheduler to know"));
  }
  ExpectAnswers({"base"});
  ExpectRefused("law");
  ExpectRefused("code");
  Mend("law");
  ExpectComesBack("law");
  ExpectRefused("code");
  ExpectAnswers({"base", "law"});
}

TEST_F(AdapterLacksTest, AnOperatorWhoMendsItAndAddsItAgainNeedNotWaitForARequest) {
  Damage("law");
  cluster_.KillWorker(2);
  ASSERT_TRUE(WaitFor([&] { return Row("law").problem() != ""; }, "the scheduler to know"));
  const auto added = AddAdapter(cluster_, "law", directory_.File("law"));
  EXPECT_THAT(std::string(added.status().message()), HasSubstr(directory_.File("law")));
  Mend("law");
  ASSERT_TRUE(WaitFor([&] { return AddAdapter(cluster_, "law", directory_.File("law")).ok(); },
                      "the adapter to be added"));
  EXPECT_FALSE(Row("law").on_disk());
  ExpectAnswers({"base", "law", "code"});
}

}  // namespace
}  // namespace conclave::services::testing

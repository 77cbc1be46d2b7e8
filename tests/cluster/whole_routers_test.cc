// What a cluster says of its routers: any of them names all, as they are and for a while as they
// were.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <map>
#include <memory>
#include <string>

#include "scheduler/check.h"
#include "services/router_node.h"
#include "tests/cluster/ask_status.h"
#include "tests/cluster/fake_cluster.h"
#include "tests/testing/wait_for.h"

namespace conclave::services::testing {
namespace {

using conclave::testing::WaitFor;
using namespace std::chrono_literals;
using States = std::map<std::string, v1::RouterState>;  // by address

FakeCluster::Options Quick() {
  FakeCluster::Options options;
  options.scheduling.service.tick = 10ms;
  options.scheduling.service.routers.dead_after = 300ms;
  return options;
}

class WholeRouters : public ::testing::Test {
 protected:
  explicit WholeRouters(const FakeCluster::Options& options = Quick()) : cluster_(options) {}

  std::unique_ptr<RouterNode> Start() {
    RouterNode::Options options;
    options.model = cluster_.model();
    options.scheduler = cluster_.scheduler_address();
    options.heartbeat.period = 20ms;
    auto router = RouterNode::Start(options);
    CONCLAVE_CHECK(router.ok());
    return *std::move(router);
  }

  static States Routers(const std::string& server) {
    States states;
    const v1::StatusResponse response = AskStatus(server);
    for (const v1::RouterStatus& router : response.routers())
      states[router.address()] = router.state();
    return states;
  }
  static ::testing::AssertionResult WaitForRouters(const std::string& server,
                                                   const States& states) {
    return WaitFor([&] { return Routers(server) == states; }, "the routers to be listed so");
  }

  FakeCluster cluster_;
};

TEST_F(WholeRouters, AreListedByEachOfThemAndByTheScheduler) {
  const auto a = Start(), b = Start();
  const States both = {{a->address(), v1::ROUTER_STATE_SERVING},
                       {b->address(), v1::ROUTER_STATE_SERVING}};
  EXPECT_TRUE(WaitForRouters(a->address(), both));
  EXPECT_TRUE(WaitForRouters(b->address(), both));
  EXPECT_TRUE(WaitForRouters(cluster_.scheduler_address(), both));
  const v1::StatusResponse response = AskStatus(a->address());
  for (const v1::RouterStatus& router : response.routers()) {
    const RouterNode& node = router.address() == a->address() ? *a : *b;
    EXPECT_EQ(router.metrics_address(), node.metrics_address());
    EXPECT_EQ(router.pid(), getpid());
  }
}

TEST_F(WholeRouters, AreShownDeadWhenTheyFallSilent) {
  const auto a = Start();
  auto b = Start();
  const std::string gone = b->address();
  EXPECT_TRUE(WaitForRouters(
      a->address(), {{a->address(), v1::ROUTER_STATE_SERVING}, {gone, v1::ROUTER_STATE_SERVING}}));
  b.reset();
  EXPECT_TRUE(WaitForRouters(
      a->address(), {{a->address(), v1::ROUTER_STATE_SERVING}, {gone, v1::ROUTER_STATE_DEAD}}));
}

TEST_F(WholeRouters, AreGoneOnceTheyHaveDrained) {
  const auto a = Start();
  auto b = Start();
  const std::string leaving = b->address();
  ASSERT_TRUE(b->Drain(10s).ok());
  EXPECT_TRUE(WaitForRouters(a->address(), {{a->address(), v1::ROUTER_STATE_SERVING},
                                            {leaving, v1::ROUTER_STATE_DRAINING}}));
  b.reset();
  EXPECT_TRUE(WaitForRouters(a->address(), {{a->address(), v1::ROUTER_STATE_SERVING}}));
}

TEST_F(WholeRouters, KnowOnlyThemselvesWithoutTheSchedulerAndAllWhenItIsBack) {
  const auto a = Start(), b = Start();
  const States both = {{a->address(), v1::ROUTER_STATE_SERVING},
                       {b->address(), v1::ROUTER_STATE_SERVING}};
  ASSERT_TRUE(WaitForRouters(a->address(), both));
  cluster_.KillScheduler();
  EXPECT_EQ(Routers(a->address()), States({{a->address(), v1::ROUTER_STATE_SERVING}}));
  cluster_.StartScheduler();
  EXPECT_TRUE(WaitForRouters(a->address(), both));
}

class WholeRoutersOfFew : public WholeRouters {
 protected:
  static FakeCluster::Options One() {
    FakeCluster::Options options = Quick();
    options.scheduling.service.routers = {.dead_after = 1min, .max_routers = 1};
    return options;
  }
  WholeRoutersOfFew() : WholeRouters(One()) {}
};

TEST_F(WholeRoutersOfFew, AreStillServedByThoseBeyondTheLimitWhichListThemselves) {
  const auto listed = Start();
  ASSERT_TRUE(WaitForRouters(cluster_.scheduler_address(),
                             {{listed->address(), v1::ROUTER_STATE_SERVING}}));
  const auto other = Start();
  EXPECT_EQ(other->heartbeat()->Step().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(WaitForRouters(other->address(), {{listed->address(), v1::ROUTER_STATE_SERVING},
                                                {other->address(), v1::ROUTER_STATE_SERVING}}));
  EXPECT_EQ(Routers(listed->address()).size(), 1U);
}

}  // namespace
}  // namespace conclave::services::testing

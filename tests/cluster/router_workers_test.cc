// How a router deals with its workers, and with a scheduler that comes and goes.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "services/cluster_watch.h"
#include "tests/cluster/test_router.h"

namespace conclave::testing {
namespace {

using ::testing::HasSubstr;
using namespace std::chrono_literals;

TEST(Router, SpreadsRequestsOverWorkers) {
  FakeWorker first({.id = "a", .manual = true}), second({.id = "b", .manual = true});
  TestRouter router({&first, &second});
  std::vector<std::thread> clients;
  for (int i = 0; i < 8; ++i) {
    clients.emplace_back([&] { EXPECT_TRUE(router.Generate(TextRequest("x", 4)).status.ok()); });
  }
  const auto half = [](const auto& counts) { return counts.live == 4; };
  EXPECT_TRUE(first.WaitFor(half));
  EXPECT_TRUE(second.WaitFor(half));
  first.SetManual(false);
  second.SetManual(false);
  for (std::thread& client : clients) client.join();
}

TEST(Router, DrainsByFinishingWhatRuns) {
  FakeWorker worker({.manual = true});
  TestRouter router({&worker});
  std::thread running([&] {
    const Stream stream = router.Generate(TextRequest("hello", 50));
    EXPECT_TRUE(stream.status.ok());
    EXPECT_EQ(stream.text, HashedText("hello", 1, 50));
  });
  ASSERT_TRUE(worker.WaitFor([](const auto& counts) { return counts.live == 1; }));
  router.frontend().Drain();
  router.WaitReady(false);
  EXPECT_EQ(router.Generate(TextRequest("x", 1)).status.error_code(), grpc::UNAVAILABLE);
  EXPECT_FALSE(router.frontend().WaitIdle(0ms));
  worker.SetManual(false);
  running.join();
  EXPECT_TRUE(router.frontend().WaitIdle(10s));
}

TEST(Router, SaysSoWithoutAWorker) {
  TestRouter router({});
  const Stream stream = router.Generate(TextRequest("x", 1));
  EXPECT_EQ(stream.status.error_code(), grpc::UNAVAILABLE);
  EXPECT_THAT(stream.status.error_message(), HasSubstr("no worker is ready"));
}

TEST(Router, MovesWhatHadNotBegunToAnotherWorker) {
  FakeWorker first({.id = "a", .manual = true}), second({.id = "b", .manual = true});
  TestRouter router({&first, &second});
  std::vector<std::thread> clients;
  for (int i = 0; i < 6; ++i) {
    clients.emplace_back(
        [&] { EXPECT_EQ(router.Generate(TextRequest("x", 5)).text, HashedText("x", 1, 5)); });
  }
  ASSERT_TRUE(first.WaitFor([](const auto& counts) { return counts.live == 3; }));
  ASSERT_TRUE(second.WaitFor([](const auto& counts) { return counts.live == 3; }));
  first.Crash();
  ASSERT_TRUE(second.WaitFor([](const auto& counts) { return counts.live == 6; }));
  second.SetManual(false);
  for (std::thread& client : clients) client.join();
}

TEST(Router, GivesADrainingWorkerNothingNew) {
  FakeWorker first({.id = "a"}), second({.id = "b"});
  TestRouter router({&first, &second});
  first.Drain();
  EXPECT_TRUE(WaitFor([&] { return router.Metric("conclave_router_workers_ready") == 1; },
                      "the router to hear of it"));
  for (int i = 0; i < 20; ++i) {
    EXPECT_TRUE(router.Generate(TextRequest("x", 2)).status.ok());
  }
  EXPECT_EQ(first.counts().submits, 0u);
  EXPECT_EQ(second.counts().submits, 20u);
}

// A scheduler that says one thing and can be shut.
class FakeScheduler : public v1::Cluster::CallbackService {
 public:
  explicit FakeScheduler(v1::ClusterView view) : view_(std::move(view)) {
    auto server = services::Server::Start({}, services::Credentials(),
                                          {{v1::Cluster::service_full_name(), this}});
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  void Shut() { server_.reset(); }
  std::string address() const { return server_->address().ToString(); }

  grpc::ServerWriteReactor<v1::ClusterView>* Watch(grpc::CallbackServerContext*,
                                                   const v1::WatchRequest*) override {
    class Watcher : public grpc::ServerWriteReactor<v1::ClusterView> {
     public:
      explicit Watcher(const v1::ClusterView& view) : view_(view) { StartWrite(&view_); }
      void OnCancel() override { Finish(grpc::Status::CANCELLED); }
      void OnDone() override { delete this; }

     private:
      const v1::ClusterView view_;
    };
    return new Watcher(view_);
  }
  grpc::ServerUnaryReactor* Status(grpc::CallbackServerContext* context, const v1::StatusRequest*,
                                   v1::StatusResponse* response) override {
    response->set_epoch(view_.epoch());
    response->mutable_scheduler()->set_pid(4711);
    *response->mutable_workers() = view_.workers();
    auto* const reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

 private:
  const v1::ClusterView view_;
  std::unique_ptr<services::Server> server_;
};

TEST(Router, ServesOnAndAnswersFromItsViewWithoutTheScheduler) {
  FakeWorker worker;
  v1::ClusterView view;
  view.set_epoch(7);
  v1::WorkerInfo* const info = view.add_workers();
  info->set_id("worker-1");
  info->set_address(worker.address());
  info->set_state(v1::WORKER_STATE_READY);
  FakeScheduler scheduler(view);
  TestRouter router({}, {}, scheduler.address());
  services::ClusterWatch watch(
      {}, services::MakeChannel(scheduler.address(), {}),
      [&](const v1::ClusterView& seen) { router.frontend().SetView(seen); });
  router.WaitReady(true);
  EXPECT_TRUE(router.Generate(TextRequest("x", 3)).status.ok());

  const auto stub = v1::Cluster::NewStub(router.NewChannel());
  const auto status = [&] {
    v1::StatusResponse response;
    grpc::ClientContext context;
    EXPECT_TRUE(stub->Status(&context, {}, &response).ok());
    return response;
  };
  EXPECT_EQ(status().scheduler().pid(), 4711);
  EXPECT_NE(status().router().pid(), 0);

  scheduler.Shut();
  ASSERT_TRUE(WaitFor([&] { return !watch.connected(); }, "the watch to end"));
  EXPECT_EQ(router.Generate(TextRequest("x", 3)).text, HashedText("x", 1, 3));
  const v1::StatusResponse alone = status();
  EXPECT_FALSE(alone.has_scheduler());
  EXPECT_EQ(alone.epoch(), 7u);
  ASSERT_EQ(alone.workers_size(), 1);
  EXPECT_EQ(alone.workers(0).id(), "worker-1");
  EXPECT_EQ(alone.workers(0).model().name(), "tiny");
}

// One that the scheduler has not heard from, and that says nothing to the router either.
TEST(Router, GivesUpAWorkerThatIsDeadAndSilent) {
  FakeWorker stuck({.manual = true});
  FakeWorker other;
  TestRouter router({}, {.homes = {.silence = 1ms}});
  v1::ClusterView view;
  v1::WorkerInfo* const info = view.add_workers();
  info->set_address(stuck.address());
  info->set_state(v1::WORKER_STATE_READY);
  router.frontend().SetView(view);
  router.WaitReady(true);
  std::thread client(
      [&] { EXPECT_EQ(router.Generate(TextRequest("x", 3)).text, HashedText("x", 1, 3)); });
  ASSERT_TRUE(stuck.WaitFor([](const auto& counts) { return counts.live == 1; }));

  info->set_state(v1::WORKER_STATE_SUSPECT);
  router.frontend().SetView(view);
  router.WaitReady(false);
  EXPECT_EQ(router.Generate(TextRequest("y", 3)).status.error_code(), grpc::UNAVAILABLE);

  v1::WorkerInfo* const healthy = view.add_workers();
  healthy->set_address(other.address());
  healthy->set_state(v1::WORKER_STATE_READY);
  router.frontend().SetView(view);
  router.WaitReady(true);
  view.mutable_workers(0)->set_state(v1::WORKER_STATE_DEAD);
  router.frontend().SetView(view);
  client.join();
  EXPECT_TRUE(stuck.WaitFor([](const auto& counts) { return counts.live == 0; }));
}

TEST(Router, KeepsAWorkerTheViewForgotAsLongAsItsLinkHolds) {
  FakeWorker worker;
  TestRouter router({});
  v1::ClusterView view;
  view.add_workers()->set_address(worker.address());
  router.frontend().SetView(view);
  router.WaitReady(true);
  router.frontend().SetView({});
  EXPECT_TRUE(router.Generate(TextRequest("x", 3)).status.ok());
  worker.Crash();
  router.WaitReady(false);
}

}  // namespace
}  // namespace conclave::testing

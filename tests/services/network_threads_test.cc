#include "services/network_threads.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "conclave/v1/cluster.grpc.pb.h"
#include "services/channel.h"
#include "services/server.h"
#include "tests/testing/wait_for.h"

namespace conclave::services {
namespace {

using conclave::testing::WaitFor;

// Answers Status, and knows on which threads.
class Cluster : public v1::Cluster::CallbackService {
 public:
  grpc::ServerUnaryReactor* Status(grpc::CallbackServerContext* context, const v1::StatusRequest*,
                                   v1::StatusResponse*) override {
    {
      const std::lock_guard lock(mutex_);
      threads_.insert(std::this_thread::get_id());
    }
    auto* const reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
  size_t threads() const {
    const std::lock_guard lock(mutex_);
    return threads_.size();
  }

 private:
  mutable std::mutex mutex_;
  std::set<std::thread::id> threads_;
};

// Calls at once over connections of their own; whether all were answered.
bool CallFromMany(const Server& server) {
  std::vector<std::thread> callers;
  std::atomic<int> answered = 0;
  for (int i = 0; i < 8; ++i) {
    callers.emplace_back([&] {
      const auto stub =
          v1::Cluster::NewStub(MakeChannel(server.address().ToString(), Credentials()));
      bool all = true;
      for (int call = 0; call < 50; ++call) {
        grpc::ClientContext context;
        context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
        v1::StatusResponse response;
        const grpc::Status status = stub->Status(&context, {}, &response);
        EXPECT_TRUE(status.ok()) << "call " << call << ": " << status.error_message();
        all = status.ok() && all;
      }
      answered += all;
    });
  }
  for (std::thread& caller : callers) caller.join();
  return answered == 8;
}

TEST(NetworkThreads, OneCarriesOutAllCalls) {
  const auto limit = NetworkThreads::Limit(1);
  ASSERT_TRUE(limit.ok()) << limit.status();
  EXPECT_GE((*limit)->held(), 1);
  Cluster cluster;
  auto server = Server::Start({}, Credentials(), {{v1::Cluster::service_full_name(), &cluster}});
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_TRUE(CallFromMany(**server));
  EXPECT_EQ(cluster.threads(), 1u);
}

TEST(NetworkThreads, AllGoOnOnceTheLimitEnds) {
  auto limit = NetworkThreads::Limit(1);
  ASSERT_TRUE(limit.ok()) << limit.status();
  Cluster cluster;
  auto server = Server::Start({}, Credentials(), {{v1::Cluster::service_full_name(), &cluster}});
  ASSERT_TRUE(server.ok()) << server.status();
  ASSERT_TRUE(CallFromMany(**server));
  limit->reset();
  EXPECT_TRUE(WaitFor([&] { return CallFromMany(**server) && cluster.threads() > 1; },
                      "another thread to carry out a call"));
}

TEST(NetworkThreads, AsManyAsThereAreIsNoLimit) {
  const auto limit = NetworkThreads::Limit(16);
  ASSERT_TRUE(limit.ok()) << limit.status();
  EXPECT_EQ((*limit)->held(), 0);
}

TEST(NetworkThreads, AllWorkWhereNoneWouldBeLeft) {
  const auto limit = NetworkThreads::Limit(0, std::chrono::milliseconds(200));
  EXPECT_EQ(limit.status().code(), absl::StatusCode::kUnavailable);
  Cluster cluster;
  auto server = Server::Start({}, Credentials(), {{v1::Cluster::service_full_name(), &cluster}});
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_TRUE(WaitFor([&] { return CallFromMany(**server) && cluster.threads() > 1; },
                      "another thread to carry out a call"));
}

}  // namespace
}  // namespace conclave::services

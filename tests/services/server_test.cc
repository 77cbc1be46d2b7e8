#include "services/server.h"

#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>

#include "conclave/v1/cluster.grpc.pb.h"
#include "services/authorize.h"
#include "services/channel.h"
#include "services/grpc_status.h"

namespace conclave::services {
namespace {

// Answers Status with what the hook says, or with RESOURCE_EXHAUSTED and a pushback once `full`.
class FakeCluster : public v1::Cluster::CallbackService {
 public:
  explicit FakeCluster(Authorize authorize) : authorize_(std::move(authorize)) {}
  grpc::ServerUnaryReactor* Status(grpc::CallbackServerContext* context, const v1::StatusRequest*,
                                   v1::StatusResponse* response) override {
    auto* const reactor = context->DefaultReactor();
    const auto tenant = authorize_("/conclave.v1.Cluster/Status", PeerOf(*context));
    if (full) SetRetryPushback(*context, std::chrono::milliseconds(250));
    if (tenant.ok()) response->mutable_router()->set_address(*tenant);
    reactor->Finish(full ? grpc::Status(grpc::RESOURCE_EXHAUSTED, "full")
                         : ToGrpc(tenant.status()));
    return reactor;
  }
  bool full = false;

 private:
  Authorize authorize_;
};

grpc::Status CallStatus(grpc::ClientContext& context, const Server& server,
                        v1::StatusResponse& response) {
  const auto stub = v1::Cluster::NewStub(MakeChannel(server.address().ToString(), Credentials()));
  return stub->Status(&context, {}, &response);
}

// grpc.health.v1.Health/Check without its generated stub. The answer's one field is an enum: 8,
// then 1 for SERVING.
std::string Health(const Server& server, const std::string& service) {
  grpc::GenericStub stub(MakeChannel(server.address().ToString(), Credentials()));
  const std::string message = "\n" + std::string(1, static_cast<char>(service.size())) + service;
  grpc::Slice slice(service.empty() ? std::string() : message);
  grpc::ByteBuffer request(&slice, 1);
  grpc::ByteBuffer response;
  grpc::ClientContext context;
  std::mutex mutex;
  std::condition_variable done;
  std::optional<grpc::Status> status;
  stub.UnaryCall(&context, "/grpc.health.v1.Health/Check", {}, &request, &response,
                 [&](grpc::Status s) {
                   const std::lock_guard lock(mutex);
                   status = s;
                   done.notify_one();
                 });
  std::unique_lock lock(mutex);
  done.wait(lock, [&] { return status.has_value(); });
  if (!status->ok()) return status->error_message();
  std::vector<grpc::Slice> slices;
  EXPECT_TRUE(response.Dump(&slices).ok());
  return slices.at(0).begin()[1] == 1 ? "SERVING" : "NOT_SERVING";
}

class ServerTest : public ::testing::Test {
 protected:
  ServerTest() : service_(SingleTenant(Credentials())) {
    auto server = Server::Start({}, Credentials(), {{v1::Cluster::service_full_name(), &service_}});
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = std::move(*server);
  }
  FakeCluster service_;
  std::unique_ptr<Server> server_;
};

TEST_F(ServerTest, TakesAPeerOnTheLoopbackForTheDefaultTenant) {
  grpc::ClientContext context;
  v1::StatusResponse response;
  ASSERT_TRUE(CallStatus(context, *server_, response).ok());
  EXPECT_EQ(response.router().address(), "default");
  EXPECT_EQ(RetryPushback(context), std::nullopt);
}

TEST_F(ServerTest, TellsARefusedClientWhenToComeBack) {
  service_.full = true;
  grpc::ClientContext context;
  v1::StatusResponse response;
  EXPECT_EQ(CallStatus(context, *server_, response).error_code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_EQ(RetryPushback(context), std::chrono::milliseconds(250));
}

TEST_F(ServerTest, FlipsHealthPerService) {
  EXPECT_EQ(Health(*server_, ""), "SERVING");
  EXPECT_EQ(Health(*server_, "conclave.v1.Cluster"), "SERVING");
  EXPECT_EQ(Health(*server_, "conclave.v1.Nothing").find("SERVING"), std::string::npos);
  server_->SetServing("conclave.v1.Cluster", false);
  EXPECT_EQ(Health(*server_, "conclave.v1.Cluster"), "NOT_SERVING");
  EXPECT_EQ(Health(*server_, ""), "SERVING");
  server_->SetServing(false);
  EXPECT_EQ(Health(*server_, ""), "NOT_SERVING");
}

TEST_F(ServerTest, RefusesAPortInUse) {
  EXPECT_EQ(
      Server::Start({.listen = server_->address().ToString()}, Credentials(), {}).status().code(),
      absl::StatusCode::kUnavailable);
}

TEST(Server, ListensToOthersOnlyWhenToldTo) {
  EXPECT_EQ(Server::Start({.listen = "0.0.0.0:0"}, Credentials(), {}).status().code(),
            absl::StatusCode::kFailedPrecondition);
  const auto insecure = Credentials::Load({.insecure = true});
  ASSERT_TRUE(insecure.ok());
  auto server = Server::Start({.listen = "0.0.0.0:0"}, *insecure, {});
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_EQ(AdvertisedAddress("", **server).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(*AdvertisedAddress("me:0", **server),
            "me:" + std::to_string((*server)->address().port));
  EXPECT_EQ(*AdvertisedAddress("me:5", **server), "me:5");
}

TEST(Authorize, KeepsStrangersOutOfAPlainServer) {
  const Authorize authorize = SingleTenant(Credentials());
  EXPECT_EQ(authorize("/m", {.address = "ipv4:10.0.0.1:5", .loopback = false}).status().code(),
            absl::StatusCode::kUnauthenticated);
}

}  // namespace
}  // namespace conclave::services

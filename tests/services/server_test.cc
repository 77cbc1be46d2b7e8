#include "services/server.h"

#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "conclave/v1/cluster.grpc.pb.h"
#include "services/authorize.h"
#include "services/channel.h"
#include "services/grpc_status.h"
#include "tests/services/testing/half_sent_calls.h"
#include "tests/testing/wait_for.h"

namespace conclave::services {
namespace {

using conclave::testing::WaitFor;
using testing::HalfSentCalls;
using ::testing::HasSubstr;

constexpr char kStatus[] = "/conclave.v1.Cluster/Status";

// Answers Status with what the hook says, or with RESOURCE_EXHAUSTED and a pushback once `full`.
class FakeCluster : public v1::Cluster::CallbackService {
 public:
  explicit FakeCluster(Authorize authorize) : authorize_(std::move(authorize)) {}
  grpc::ServerUnaryReactor* Status(grpc::CallbackServerContext* context, const v1::StatusRequest*,
                                   v1::StatusResponse* response) override {
    auto* const reactor = context->DefaultReactor();
    const auto tenant = authorize_(kStatus, PeerOf(*context));
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

// A unary call of bytes, and the bytes of its answer.
std::pair<grpc::Status, std::string> CallRaw(grpc::GenericStub& stub, const std::string& method,
                                             const grpc::Slice& message) {
  grpc::ByteBuffer request(&message, 1);
  grpc::ByteBuffer response;
  grpc::ClientContext context;
  std::mutex mutex;
  std::condition_variable done;
  std::optional<grpc::Status> status;
  stub.UnaryCall(&context, method, {}, &request, &response, [&](grpc::Status s) {
    const std::lock_guard lock(mutex);
    status = s;
    done.notify_one();
  });
  std::unique_lock lock(mutex);
  done.wait(lock, [&] { return status.has_value(); });
  std::string bytes;
  std::vector<grpc::Slice> slices;
  if (status->ok()) {
    EXPECT_TRUE(response.Dump(&slices).ok());
  }
  for (const grpc::Slice& slice : slices) bytes.append(slice.begin(), slice.end());
  return {*status, bytes};
}

// grpc.health.v1.Health/Check without its generated stub. The answer's one field is an enum: 8,
// then 1 for SERVING.
std::string Health(const Server& server, const std::string& service) {
  grpc::GenericStub stub(MakeChannel(server.address().ToString(), Credentials()));
  const std::string message = "\n" + std::string(1, static_cast<char>(service.size())) + service;
  const auto [status, bytes] = CallRaw(stub, "/grpc.health.v1.Health/Check",
                                       grpc::Slice(service.empty() ? std::string() : message));
  if (!status.ok()) return status.error_message();
  return bytes.at(1) == 1 ? "SERVING" : "NOT_SERVING";
}

class ServerTest : public ::testing::Test {
 protected:
  ServerTest() : service_(SingleTenant(Credentials())) { Start({}); }

  void Start(const Server::Options& options) {
    server_.reset();
    auto server =
        Server::Start(options, Credentials(), {{v1::Cluster::service_full_name(), &service_}});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  // A call of an honest client may be ended too while there is too much; it then asks again.
  void ExpectServes() {
    const auto served = [this] {
      grpc::ClientContext context;
      v1::StatusResponse response;
      return CallStatus(context, *server_, response).ok();
    };
    EXPECT_TRUE(WaitFor(served, "an honest call to be served"));
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

// One call whose message claims to be far longer than any may be. gRPC looks at the length when the
// message is whole, so that the limit of a message alone lets all of it in.
TEST_F(ServerTest, CutsAMessageThatWouldNotFitWhatMayArriveAtAll) {
  Start({.incoming_bytes = 8 << 20});
  HalfSentCalls client(server_->address());
  client.Open(kStatus, 200 << 20);
  EXPECT_TRUE(WaitFor(
      [&] {
        client.Step();
        return client.ended_by_server() == 1;
      },
      "the call to be ended"));
  EXPECT_LT(client.sent_bytes(), (200 << 20) - 1);
  ExpectServes();
}

// Each message may be as long as it claims; all of them together may not.
TEST_F(ServerTest, EndsHalfSentCallsUntilTheRestFitsWhatMayArrive) {
  constexpr int kCalls = 32;
  constexpr int kMessageBytes = 1 << 20;
  constexpr int kFit = 8;
  Start({.incoming_bytes = kFit * kMessageBytes});
  HalfSentCalls client(server_->address());
  for (int i = 0; i < kCalls; ++i) client.Open(kStatus, kMessageBytes);
  EXPECT_TRUE(WaitFor(
      [&] {
        client.Step();
        return kCalls - client.ended_by_server() <= kFit;
      },
      "all but what fits to be ended"));
  ExpectServes();
}

TEST_F(ServerTest, RefusesAMessageOverItsLimitBySize) {
  Start({.receive_bytes = 1000});
  grpc::GenericStub stub(MakeChannel(server_->address().ToString(), Credentials()));
  const grpc::Slice slice(std::string(1001, '\0'));
  const grpc::Status status = CallRaw(stub, kStatus, slice).first;
  EXPECT_EQ(status.error_code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("1001"));
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

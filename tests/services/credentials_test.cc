// Who can talk to whom, over real connections.

#include "services/credentials.h"

#include <grpcpp/client_context.h>
#include <gtest/gtest.h>

#include "conclave/v1/cluster.grpc.pb.h"
#include "services/authorize.h"
#include "services/channel.h"
#include "services/server.h"
#include "tests/services/testing/certificates.h"
#include "tests/worker/testing/tiny_checkpoint.h"

namespace conclave::services {
namespace {

using testing::PemPair;
using testing::TestAuthority;
using worker::testing::TempDir;
using worker::testing::WriteFileOrDie;

// Remembers who asked.
class Listener : public v1::Cluster::CallbackService {
 public:
  grpc::ServerUnaryReactor* Status(grpc::CallbackServerContext* context, const v1::StatusRequest*,
                                   v1::StatusResponse*) override {
    peer = PeerOf(*context);
    grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
  Peer peer;
};

class CredentialsTest : public ::testing::Test {
 protected:
  Credentials Load(const std::string& name, const PemPair* own, const TestAuthority* trusted) {
    Credentials::Options options;
    if (own != nullptr) {
      options.tls_cert = directory_.File(name + ".crt");
      options.tls_key = directory_.File(name + ".key");
      WriteFileOrDie(options.tls_cert, own->certificate);
      WriteFileOrDie(options.tls_key, own->key);
    }
    if (trusted != nullptr) {
      options.tls_ca = directory_.File(name + ".ca");
      WriteFileOrDie(options.tls_ca, trusted->certificate());
    }
    auto credentials = Credentials::Load(options);
    EXPECT_TRUE(credentials.ok()) << credentials.status();
    return *credentials;
  }

  void Serve(const Credentials& credentials, const std::string& listen = "127.0.0.1:0") {
    auto server = Server::Start({.listen = listen}, credentials,
                                {{v1::Cluster::service_full_name(), &listener_}});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  grpc::StatusCode Call(const Credentials& credentials) {
    const std::string address = "127.0.0.1:" + std::to_string(server_->address().port);
    const auto stub = v1::Cluster::NewStub(MakeChannel(address, credentials));
    grpc::ClientContext context;
    v1::StatusResponse response;
    return stub->Status(&context, {}, &response).error_code();
  }

  TempDir directory_;
  TestAuthority ours_, theirs_;
  const PemPair server_pair_ = ours_.Issue("server");
  const PemPair client_pair_ = ours_.Issue("client");
  const PemPair stranger_pair_ = theirs_.Issue("client");
  Listener listener_;
  std::unique_ptr<Server> server_;
};

TEST_F(CredentialsTest, LetInWhoHasACertificateOfOurs) {
  Serve(Load("server", &server_pair_, &ours_));
  EXPECT_EQ(Call(Load("client", &client_pair_, &ours_)), grpc::OK);
  EXPECT_EQ(listener_.peer.identities, std::vector<std::string>{"127.0.0.1"});
  EXPECT_TRUE(listener_.peer.loopback);
}

TEST_F(CredentialsTest, KeepOutWhoHasNone) {
  Serve(Load("server", &server_pair_, &ours_));
  EXPECT_EQ(Call(Credentials()), grpc::UNAVAILABLE);
  EXPECT_EQ(Call(Load("anonymous", nullptr, &ours_)), grpc::UNAVAILABLE);
  EXPECT_EQ(Call(Load("stranger", &stranger_pair_, &ours_)), grpc::UNAVAILABLE);
}

TEST_F(CredentialsTest, DoNotTalkToAServerOfSomebodyElse) {
  Serve(Load("server", &server_pair_, &ours_));
  EXPECT_EQ(Call(Load("client", &client_pair_, &theirs_)), grpc::UNAVAILABLE);
}

TEST_F(CredentialsTest, AskClientsForNothingWithoutACa) {
  Serve(Load("server", &server_pair_, nullptr), "0.0.0.0:0");
  EXPECT_EQ(Call(Load("client", nullptr, &ours_)), grpc::OK);
  EXPECT_TRUE(listener_.peer.identities.empty());
}

TEST_F(CredentialsTest, WantCertificateAndKeyTogether) {
  EXPECT_EQ(Credentials::Load({.tls_cert = "x"}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(
      Credentials::Load({.tls_cert = "/nonexistent", .tls_key = "/nonexistent"}).status().code(),
      absl::StatusCode::kNotFound);
  WriteFileOrDie(directory_.File("empty"), "");
  EXPECT_EQ(Credentials::Load({.tls_ca = directory_.File("empty")}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace conclave::services

#include "services/server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/server_builder.h>

#include <mutex>
#include <utility>

#include "absl/strings/str_format.h"
#include "worker/status.h"

namespace conclave::services {
namespace {

// Both are switches of the whole process, to be set before its first server.
void EnableHealthAndReflection() {
  static std::once_flag once;
  std::call_once(once, [] {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  });
}

int Milliseconds(std::chrono::milliseconds time) { return static_cast<int>(time.count()); }

void SetLimits(const Server::Options& options, grpc::ServerBuilder& builder) {
  grpc::ResourceQuota quota("server");
  quota.Resize(static_cast<size_t>(options.incoming_bytes));
  builder.SetResourceQuota(quota);
  builder.SetMaxReceiveMessageSize(options.receive_bytes);
  builder.SetMaxSendMessageSize(options.send_bytes);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, options.metadata_bytes);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.streams_per_connection);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, Milliseconds(options.keepalive));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, Milliseconds(options.keepalive_wait));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                             Milliseconds(options.min_ping_gap));
  // Two processes on one port would share its connections at random; the second is to fail instead.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const Options& options,
                                                      const Credentials& credentials,
                                                      const std::vector<Face>& faces) {
  CONCLAVE_ASSIGN_OR_RETURN(Address address, Address::Parse(options.listen));
  CONCLAVE_RETURN_IF_ERROR(credentials.MayListen(address));
  EnableHealthAndReflection();
  grpc::ServerBuilder builder;
  SetLimits(options, builder);
  const std::string listen =
      address.host.empty() ? absl::StrFormat("[::]:%d", address.port) : address.ToString();
  int port = 0;
  builder.AddListeningPort(listen, credentials.ForServer(), &port);
  for (const Face& face : faces) builder.RegisterService(face.service);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || port == 0) {
    return absl::UnavailableError(absl::StrFormat(
        "cannot listen on %s: in use, or not an address of this machine", options.listen));
  }
  address.port = port;
  for (const Face& face : faces)
    server->GetHealthCheckService()->SetServingStatus(face.name, options.serving);
  std::unique_ptr<Server> made(new Server(std::move(server), std::move(address)));
  made->SetServing(options.serving);
  return made;
}

Server::Server(std::unique_ptr<grpc::Server> server, Address address)
    : server_(std::move(server)), address_(std::move(address)) {}

Server::~Server() { Shutdown(std::chrono::milliseconds(0)); }

void Server::SetServing(bool serving) {
  server_->GetHealthCheckService()->SetServingStatus(serving);
}

void Server::SetServing(const std::string& service, bool serving) {
  server_->GetHealthCheckService()->SetServingStatus(service, serving);
}

void Server::Shutdown(std::chrono::milliseconds grace) {
  SetServing(false);
  server_->Shutdown(std::chrono::system_clock::now() + grace);
  server_->Wait();
}

absl::StatusOr<std::string> AdvertisedAddress(const std::string& advertise, const Server& server) {
  if (!advertise.empty()) {
    CONCLAVE_ASSIGN_OR_RETURN(const Address address, Address::Parse(advertise));
    if (address.wildcard())
      return absl::FailedPreconditionError("--advertise: name a host others can reach");
    return address.port != 0
               ? address.ToString()
               : Address{.host = address.host, .port = server.address().port}.ToString();
  }
  if (server.address().wildcard()) {
    return absl::FailedPreconditionError(
        "listening on every interface: say with --advertise which one to tell others");
  }
  return server.address().ToString();
}

}  // namespace conclave::services

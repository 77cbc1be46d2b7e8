#pragma once
// A listening gRPC server with what every server of ours has: standard health per service,
// reflection, limits on messages, metadata, streams and pings, one way to secure it. Any thread.

#include <grpcpp/server.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "services/address.h"
#include "services/credentials.h"

namespace conclave::services {

class Server {
 public:
  struct Options {
    std::string listen = "127.0.0.1:0";  // port 0: any free one
    int32_t receive_bytes = 4 << 20;     // of one message, decompressed; seen when it is whole
    // What all connections together hold of messages that are not whole or not yet taken. Above it
    // gRPC ends calls (RESOURCE_EXHAUSTED, whoever's) until it fits again: the last resort against
    // clients that begin messages and do not end them. It catches up when they pause, so the peak
    // may be higher.
    int64_t incoming_bytes = int64_t{256} << 20;
    int32_t send_bytes = 64 << 20;                     // of one message
    int32_t metadata_bytes = 16 << 10;                 // of one call
    int32_t streams_per_connection = 1024;             // calls at once
    std::chrono::milliseconds keepalive{20'000};       // a silent connection is pinged after this
    std::chrono::milliseconds keepalive_wait{10'000};  // and closed after this without an answer
    std::chrono::milliseconds min_ping_gap{5'000};     // clients that ping more often are sent away
    bool serving = true;                               // health at the start
  };
  struct Face {
    std::string name;        // v1::Worker::service_full_name()
    grpc::Service* service;  // outlives the server
  };

  // INVALID_ARGUMENT (address), FAILED_PRECONDITION (credentials), UNAVAILABLE (address in use or
  // not ours).
  static absl::StatusOr<std::unique_ptr<Server>> Start(const Options& options,
                                                       const Credentials& credentials,
                                                       const std::vector<Face>& faces);
  ~Server();  // Shutdown without grace

  // Where it listens, with the real port.
  const Address& address() const { return address_; }

  // What health checks are told: for every service and the server itself, or for one service.
  void SetServing(bool serving);
  void SetServing(const std::string& service, bool serving);

  // Health to NOT_SERVING, connections told to go away, running calls get `grace` to end and are
  // then cancelled. Returns when all have.
  void Shutdown(std::chrono::milliseconds grace);

 private:
  Server(std::unique_ptr<grpc::Server> server, Address address);

  std::unique_ptr<grpc::Server> server_;
  Address address_;
};

// What to tell others: `advertise` if given, else where it listens. FAILED_PRECONDITION if that is
// every interface.
absl::StatusOr<std::string> AdvertisedAddress(const std::string& advertise, const Server& server);

}  // namespace conclave::services

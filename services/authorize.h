#pragma once
// Who may call what. Every RPC's handler asks before it does anything else. Any thread.

#include <grpcpp/server_context.h>

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "services/credentials.h"

namespace conclave::services {

struct Peer {
  std::string address;                  // as gRPC writes it: "ipv4:127.0.0.1:4711"
  bool loopback = false;                // comes from this machine
  std::vector<std::string> identities;  // names in its verified certificate; empty without one
};
Peer PeerOf(const grpc::ServerContextBase& context);

// The tenant on whose behalf `method` ("/conclave.v1.Worker/Serve") runs, or UNAUTHENTICATED or
// PERMISSION_DENIED.
using Authorize =
    std::function<absl::StatusOr<std::string>(const std::string& method, const Peer& peer)>;

// One tenant, "default": everybody on this machine; with TLS or --insecure whoever could connect.
Authorize SingleTenant(const Credentials& credentials);

}  // namespace conclave::services

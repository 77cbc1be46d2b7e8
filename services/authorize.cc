#include "services/authorize.h"

#include "absl/strings/str_format.h"

namespace conclave::services {
namespace {

bool IsLoopback(const std::string& address) {
  return address.rfind("ipv4:127.", 0) == 0 || address.rfind("ipv6:[::1]", 0) == 0 ||
         address.rfind("ipv6:%5B::1%5D", 0) == 0 || address.rfind("ipv6:[::ffff:127.", 0) == 0 ||
         address.rfind("ipv6:%5B::ffff:127.", 0) == 0 || address.rfind("unix:", 0) == 0;
}

}  // namespace

Peer PeerOf(const grpc::ServerContextBase& context) {
  Peer peer{.address = context.peer()};
  peer.loopback = IsLoopback(peer.address);
  const auto auth = context.auth_context();
  if (auth != nullptr && auth->IsPeerAuthenticated()) {
    for (const grpc::string_ref& name : auth->GetPeerIdentity())
      peer.identities.emplace_back(name.data(), name.size());
  }
  return peer;
}

Authorize SingleTenant(const Credentials& credentials) {
  const bool anybody = credentials.tls() || credentials.insecure();
  return [anybody](const std::string& method, const Peer& peer) -> absl::StatusOr<std::string> {
    if (anybody || peer.loopback) return std::string("default");
    return absl::UnauthenticatedError(absl::StrFormat("%s is only for this machine", method));
  };
}

}  // namespace conclave::services

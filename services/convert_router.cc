#include "services/convert_router.h"

#include <unordered_map>

#include "absl/strings/str_format.h"
#include "services/address.h"
#include "worker/status.h"

namespace conclave::services {
namespace {

using scheduler::RouterRoster;
using scheduler::RouterState;

constexpr size_t kMaxAddressBytes = 261;  // a DNS name, brackets, a colon, a port

v1::RouterState ToProto(RouterState state) {
  switch (state) {
    case RouterState::kServing:
      return v1::ROUTER_STATE_SERVING;
    case RouterState::kDraining:
      return v1::ROUTER_STATE_DRAINING;
    case RouterState::kDead:
      return v1::ROUTER_STATE_DEAD;
  }
  return v1::ROUTER_STATE_UNSPECIFIED;
}

}  // namespace

absl::StatusOr<RouterRoster::Router> ToRouter(const v1::RouterStatus& status) {
  if (status.address().size() > kMaxAddressBytes)
    return absl::InvalidArgumentError("router.address: it is too long for an address");
  CONCLAVE_ASSIGN_OR_RETURN(const Address address, Address::Parse(status.address()));
  if (address.port == 0 || address.wildcard()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("router.address: nobody can connect to %s", status.address()));
  }
  if (status.metrics_address().size() > kMaxAddressBytes)
    return absl::InvalidArgumentError("router.metrics_address: it is too long for an address");
  return RouterRoster::Router{
      .address = status.address(),
      .metrics_address = status.metrics_address(),
      .pid = status.pid(),
      .live_requests = status.live_requests(),
      .state = status.draining() ? RouterState::kDraining : RouterState::kServing};
}

v1::RouterStatus ToProto(const RouterRoster::Router& router) {
  v1::RouterStatus status;
  status.set_pid(router.pid);
  status.set_address(router.address);
  status.set_metrics_address(router.metrics_address);
  status.set_live_requests(router.live_requests);
  status.set_draining(router.state == RouterState::kDraining);
  status.set_state(ToProto(router.state));
  return status;
}

std::vector<router::AdapterView> AdaptersOf(const v1::ClusterView& view) {
  std::string parent;
  for (const v1::WorkerInfo& worker : view.workers()) {
    if (parent.empty()) parent = worker.model().name();
  }
  std::unordered_map<std::string, const v1::PlacedAdapter*> placed;  // by digest
  for (const v1::PlacedAdapter& adapter : view.placement().adapters())
    placed[adapter.digest()] = &adapter;
  std::vector<router::AdapterView> adapters;
  for (const v1::Adapter& adapter : view.adapters()) {
    const bool active = adapter.state() == v1::ADAPTER_STATE_ACTIVE;
    adapters.push_back({.name = adapter.name(),
                        .digest = adapter.digest(),
                        .parent = parent,
                        .state = active ? router::AdapterView::State::kActive
                                        : router::AdapterView::State::kDraining,
                        .on_disk = adapter.on_disk(),
                        .problem = adapter.problem()});
    const auto found = placed.find(adapter.digest());
    adapters.back().placed = found != placed.end() && !adapter.lacking();
    const auto& replaced = found != placed.end() ? found->second->replaced() : adapter.replaced();
    adapters.back().replaced = {replaced.begin(), replaced.end()};
  }
  return adapters;
}

const char* NameOf(RouterState state) {
  switch (state) {
    case RouterState::kServing:
      return "serving";
    case RouterState::kDraining:
      return "draining";
    case RouterState::kDead:
      return "dead";
  }
  return "unknown";
}

}  // namespace conclave::services

#pragma once
// What a router says of itself, what is said of it, and the adapters it is told of: cluster.proto
// to plain structs and back. Pure functions; any thread.

#include <vector>

#include "absl/status/statusor.h"
#include "conclave/v1/cluster.pb.h"
#include "router/adapter_names.h"
#include "scheduler/router_roster.h"

namespace conclave::services {

// A router's beat. INVALID_ARGUMENT, naming the field: nobody can connect there, or it is too long.
absl::StatusOr<scheduler::RouterRoster::Router> ToRouter(const v1::RouterStatus& status);

v1::RouterStatus ToProto(const scheduler::RouterRoster::Router& router);

const char* NameOf(scheduler::RouterState state);

// As a view names them.
std::vector<router::AdapterView> AdaptersOf(const v1::ClusterView& view);

}  // namespace conclave::services

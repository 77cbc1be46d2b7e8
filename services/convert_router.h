#pragma once
// What a router says of itself, and what is said of it: cluster.proto to plain structs and back.
// Pure functions; any thread.

#include "absl/status/statusor.h"
#include "conclave/v1/cluster.pb.h"
#include "scheduler/router_roster.h"

namespace conclave::services {

// A router's beat. INVALID_ARGUMENT, naming the field: nobody can connect there, or it is too long.
absl::StatusOr<scheduler::RouterRoster::Router> ToRouter(const v1::RouterStatus& status);

v1::RouterStatus ToProto(const scheduler::RouterRoster::Router& router);

const char* NameOf(scheduler::RouterState state);

}  // namespace conclave::services

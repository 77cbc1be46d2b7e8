#pragma once
// Which workers can be of one cluster: what a beat must look like, and that all compute one model
// in one numerics, in steps of one size, and can exchange rows. Pure functions; any thread.

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "conclave/v1/cluster.pb.h"
#include "scheduler/membership.h"

namespace conclave::services {

// Of a worker's beat. INVALID_ARGUMENT: it makes no sense.
absl::Status ValidateBeat(const v1::HeartbeatRequest& beat);
// Of a worker's or a router's: what it says of adapters in use.
absl::Status ValidateUse(const v1::HeartbeatRequest& beat);

// A cluster computes one model in one numerics, or its answers would depend on who gives them. What
// that model is, the workers say that are heard. One that is silent, or that was there before this
// scheduler started, may be gone for good or come back at any moment: it keeps another model out,
// but only until it is heard or its time is over. FAILED_PRECONDITION: `joins` cannot be of this
// cluster; UNAVAILABLE: not as long as a worker that is silent right now may come back.
absl::Status MayJoin(const v1::WorkerInfo& joins,
                     const std::vector<scheduler::Membership::Worker>& workers,
                     const std::map<std::string, v1::WorkerInfo>& infos);

}  // namespace conclave::services

#pragma once
// Between placements and their messages, and the file an operator writes one in. What comes in is
// checked here, limits before memory, and trusted after. Pure functions; any thread.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "conclave/v1/cluster.pb.h"
#include "scheduler/placement.h"

namespace conclave::services {

v1::Placement ToProto(const scheduler::Placement& placement);
// INVALID_ARGUMENT: it is none, by name of worker or expert, or above a limit.
absl::StatusOr<scheduler::Placement> FromProto(const v1::Placement& placement,
                                               const scheduler::PlacementLimits& limits = {});

// What an operator asks for: workers by number, as it is not known yet who they are.
struct Plan {
  int32_t workers = 0;
  int32_t layers = 0;                        // MoE layers
  int32_t experts = 0;                       // of a layer
  std::vector<std::vector<int32_t>> owners;  // [layers * experts] ascending, each below workers
};

struct PlanLimits {
  size_t bytes = size_t{16} << 20;  // of JSON
  scheduler::PlacementLimits placement;
};

// Plan JSON: {"workers":N,"layers":L,"experts":E,"placement":[[[worker,...] per expert] per
// layer]}, other keys being the planner's remarks. `name` stands in messages. INVALID_ARGUMENT:
// naming layer and expert where one is wrong.
absl::StatusOr<Plan> ParsePlan(std::string_view json, const std::string& name,
                               const PlanLimits& limits = {});
// The same of a file. NOT_FOUND if there is none.
absl::StatusOr<Plan> ReadPlan(const std::string& path, const PlanLimits& limits = {});

v1::ApplyRequest ToProto(const Plan& plan);
absl::StatusOr<Plan> FromProto(const v1::ApplyRequest& request,
                               const scheduler::PlacementLimits& limits = {});

// INVALID_ARGUMENT if the plan is not for this model or number of workers; else the placement, the
// plan's worker i being workers[i].
absl::StatusOr<scheduler::Placement> Resolve(const Plan& plan,
                                             const std::vector<std::string>& workers,
                                             const v1::ModelInfo& model);

// Which expert is where by a view: of its placement or, if it has none, every expert on every
// worker that is not dead and needs none. INVALID_ARGUMENT: a layer without experts; UNAVAILABLE:
// no worker has said what the model is.
absl::Status FillResidency(const v1::ClusterView& view, const v1::ResidencyRequest& request,
                           v1::ResidencyResponse* response);

}  // namespace conclave::services

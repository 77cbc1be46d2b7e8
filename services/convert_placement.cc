#include "services/convert_placement.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "worker/model/json.h"
#include "worker/status.h"

namespace conclave::services {
namespace {

using nlohmann::json;
using scheduler::Placement;
using scheduler::PlacementLimits;
using Owners = std::vector<std::vector<int32_t>>;

// [experts] owners to `copies` and `owners` of a message.
template <typename Message>
void Flatten(const Owners& from, size_t begin, size_t end, Message* message) {
  const auto first = from.begin() + static_cast<std::ptrdiff_t>(begin);
  const auto last = from.begin() + static_cast<std::ptrdiff_t>(end);
  const bool single =
      std::all_of(first, last, [](const auto& owners) { return owners.size() == 1; });
  for (auto expert = first; expert != last; ++expert) {
    if (!single) message->add_copies(static_cast<uint32_t>(expert->size()));
    for (const int32_t owner : *expert) message->add_owners(static_cast<uint32_t>(owner));
  }
}

template <typename Message>
absl::StatusOr<Owners> Unflatten(const Message& message, const PlacementLimits& limits) {
  const auto all = static_cast<size_t>(message.owners_size());
  const bool single = message.copies().empty();
  const auto experts = single ? all : static_cast<size_t>(message.copies_size());
  if (experts > limits.experts) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%d experts, the limit is %d", experts, limits.experts));
  }
  if (all > limits.copies) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%d copies of experts, the limit is %d", all, limits.copies));
  }
  Owners result(experts);
  size_t next = 0;
  for (size_t expert = 0; expert < experts; ++expert) {
    const size_t copies = single ? 1 : message.copies(static_cast<int>(expert));
    if (copies > all - next) {
      return absl::InvalidArgumentError(
          absl::StrFormat("expert %d has %d copies, %d are left", expert, copies, all - next));
    }
    for (size_t i = 0; i < copies; ++i) {
      const uint32_t owner = message.owners(static_cast<int>(next++));
      if (owner >= limits.workers) {
        return absl::InvalidArgumentError(
            absl::StrFormat("expert %d is given to worker %d, the limit is %d workers", expert,
                            owner, limits.workers));
      }
      result[expert].push_back(static_cast<int32_t>(owner));
    }
  }
  if (next == all) return result;
  return absl::InvalidArgumentError(
      absl::StrFormat("%d owners are left over after the last expert", all - next));
}

v1::PlacedAdapter ToProto(const scheduler::PlacedAdapter& adapter) {
  v1::PlacedAdapter message;
  message.set_digest(adapter.digest);
  message.set_source(adapter.source);
  message.set_first(adapter.first);
  for (const scheduler::ExpertId replaced : adapter.replaced) message.add_replaced(replaced);
  Flatten(adapter.owners, 0, adapter.owners.size(), &message);
  return message;
}

// Limits before memory; whether it is one, ProblemOf says of the whole placement.
absl::StatusOr<scheduler::PlacedAdapter> FromProto(const v1::PlacedAdapter& message,
                                                   const PlacementLimits& limits) {
  if (static_cast<size_t>(message.replaced_size()) > limits.experts) {
    return absl::InvalidArgumentError(absl::StrFormat("%d experts of an adapter, the limit is %d",
                                                      message.replaced_size(), limits.experts));
  }
  CONCLAVE_ASSIGN_OR_RETURN(Owners owners, Unflatten(message, limits));
  return scheduler::PlacedAdapter{
      .digest = message.digest(),
      .source = message.source(),
      .first = message.first(),
      .replaced = {message.replaced().begin(), message.replaced().end()},
      .owners = std::move(owners)};
}

// A non-negative whole number under a key of a plan.
absl::StatusOr<int32_t> Count(const json& plan, const std::string& name, const char* key,
                              size_t limit) {
  const auto found = plan.find(key);
  if (found == plan.end())
    return absl::InvalidArgumentError(absl::StrFormat("%s: \"%s\" is missing", name, key));
  if (!found->is_number_unsigned()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: \"%s\" is not a whole number", name, key));
  }
  const auto value = found->get<uint64_t>();
  if (value == 0 || value > limit) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: \"%s\" is %d, it must be 1 to %d", name, key, value, limit));
  }
  return static_cast<int32_t>(value);
}

absl::StatusOr<std::vector<int32_t>> OwnersOf(const json& value, int32_t workers) {
  if (!value.is_array()) return absl::InvalidArgumentError("is not a list of workers");
  std::vector<int32_t> owners;
  for (const json& worker : value) {
    if (!worker.is_number_unsigned() || worker.get<uint64_t>() >= static_cast<uint64_t>(workers)) {
      return absl::InvalidArgumentError(
          absl::StrFormat("names worker %s, the plan has workers 0 to %d",
                          worker::Printable(worker.dump()), workers - 1));
    }
    owners.push_back(worker.get<int32_t>());
  }
  std::sort(owners.begin(), owners.end());
  if (owners.empty()) return absl::InvalidArgumentError("has no owner");
  const auto twice = std::adjacent_find(owners.begin(), owners.end());
  if (twice == owners.end()) return owners;
  return absl::InvalidArgumentError(absl::StrFormat("names worker %d twice", *twice));
}

absl::Status TakeLayer(const json& layer, int32_t at, const std::string& name,
                       const PlacementLimits& limits, size_t* copies, Plan* plan) {
  if (!layer.is_array() || layer.size() != static_cast<size_t>(plan->experts)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: layer %d does not list the owners of %d experts", name, at, plan->experts));
  }
  for (int32_t expert = 0; expert < plan->experts; ++expert) {
    absl::StatusOr<std::vector<int32_t>> owners =
        OwnersOf(layer[static_cast<size_t>(expert)], plan->workers);
    if (!owners.ok()) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "%s: layer %d, expert %d %s", name, at, expert, std::string(owners.status().message())));
    }
    *copies += owners->size();
    if (*copies > limits.copies) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: layer %d, expert %d is above the limit of %d copies of experts",
                          name, at, expert, limits.copies));
    }
    plan->owners.push_back(*std::move(owners));
  }
  return absl::OkStatus();
}

absl::StatusOr<Plan> PlanOf(const json& document, const std::string& name,
                            const PlacementLimits& limits) {
  if (!document.is_object())
    return absl::InvalidArgumentError(absl::StrFormat("%s: a plan is a JSON object", name));
  Plan plan;
  CONCLAVE_ASSIGN_OR_RETURN(plan.workers, Count(document, name, "workers", limits.workers));
  CONCLAVE_ASSIGN_OR_RETURN(plan.layers, Count(document, name, "layers", limits.experts));
  CONCLAVE_ASSIGN_OR_RETURN(plan.experts, Count(document, name, "experts",
                                                limits.experts / static_cast<size_t>(plan.layers)));
  const auto placement = document.find("placement");
  if (placement == document.end())
    return absl::InvalidArgumentError(absl::StrFormat("%s: \"placement\" is missing", name));
  if (!placement->is_array() || placement->size() != static_cast<size_t>(plan.layers)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: \"placement\" is not a list of %d layers", name, plan.layers));
  }
  size_t copies = 0;
  for (int32_t layer = 0; layer < plan.layers; ++layer) {
    CONCLAVE_RETURN_IF_ERROR(
        TakeLayer((*placement)[static_cast<size_t>(layer)], layer, name, limits, &copies, &plan));
  }
  return plan;
}

// Of all workers in a view the first that says what the model is; null: none does.
const v1::ModelInfo* ModelOf(const v1::ClusterView& view) {
  for (const v1::WorkerInfo& worker : view.workers()) {
    if (worker.model().experts() > 0) return &worker.model();
  }
  return nullptr;
}

}  // namespace

v1::Placement ToProto(const Placement& placement) {
  v1::Placement message;
  message.set_epoch(placement.epoch);
  message.set_plan(placement.plan);
  for (const std::string& worker : placement.workers) message.add_workers(worker);
  Flatten(placement.owners, 0, placement.owners.size(), &message);
  for (const scheduler::PlacedAdapter& adapter : placement.adapters)
    *message.add_adapters() = ToProto(adapter);
  return message;
}

absl::StatusOr<Placement> FromProto(const v1::Placement& message, const PlacementLimits& limits) {
  if (message.epoch() == 0) return absl::InvalidArgumentError("placement.epoch: must not be 0");
  if (message.plan() == 0) return absl::InvalidArgumentError("placement.plan: must not be 0");
  if (static_cast<size_t>(message.workers_size()) > limits.workers) {
    return absl::InvalidArgumentError(absl::StrFormat("placement: %d workers, the limit is %d",
                                                      message.workers_size(), limits.workers));
  }
  absl::StatusOr<Owners> owners = Unflatten(message, limits);
  if (!owners.ok()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("placement: %s", std::string(owners.status().message())));
  }
  Placement placement{.epoch = message.epoch(),
                      .plan = message.plan(),
                      .workers = {message.workers().begin(), message.workers().end()},
                      .owners = *std::move(owners)};
  if (static_cast<size_t>(message.adapters_size()) > limits.adapters) {
    return absl::InvalidArgumentError(
        absl::StrFormat("placement: %d versions of adapters, the limit is %d",
                        message.adapters_size(), limits.adapters));
  }
  for (const v1::PlacedAdapter& adapter : message.adapters()) {
    absl::StatusOr<scheduler::PlacedAdapter> placed = FromProto(adapter, limits);
    if (!placed.ok()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("placement: %s", std::string(placed.status().message())));
    }
    placement.adapters.push_back(*std::move(placed));
  }
  const std::string problem = scheduler::ProblemOf(placement, limits);
  if (problem.empty()) return placement;
  return absl::InvalidArgumentError(absl::StrFormat("placement: %s", worker::Printable(problem)));
}

absl::StatusOr<Plan> ParsePlan(std::string_view bytes, const std::string& name,
                               const PlanLimits& limits) {
  CONCLAVE_ASSIGN_OR_RETURN(const json document,
                            worker::ParseJson(bytes, name, {.bytes = limits.bytes, .depth = 8}));
  return PlanOf(document, name, limits.placement);
}

absl::StatusOr<Plan> ReadPlan(const std::string& path, const PlanLimits& limits) {
  CONCLAVE_ASSIGN_OR_RETURN(const json document,
                            worker::ReadJsonFile(path, {.bytes = limits.bytes, .depth = 8}));
  return PlanOf(document, path, limits.placement);
}

v1::ApplyRequest ToProto(const Plan& plan) {
  v1::ApplyRequest request;
  request.set_workers(static_cast<uint32_t>(plan.workers));
  request.set_layers(static_cast<uint32_t>(plan.layers));
  request.set_experts(static_cast<uint32_t>(plan.experts));
  Flatten(plan.owners, 0, plan.owners.size(), &request);
  return request;
}

absl::StatusOr<Plan> FromProto(const v1::ApplyRequest& request, const PlacementLimits& limits) {
  if (request.workers() == 0 || request.workers() > limits.workers) {
    return absl::InvalidArgumentError(
        absl::StrFormat("workers: is %d, it must be 1 to %d", request.workers(), limits.workers));
  }
  absl::StatusOr<Owners> owners = Unflatten(request, limits);
  if (!owners.ok()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("owners: %s", std::string(owners.status().message())));
  }
  if (uint64_t{request.layers()} * request.experts() != owners->size()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("owners: of %d experts, where %d layers have %d each", owners->size(),
                        request.layers(), request.experts()));
  }
  const Placement shape{.workers = std::vector<std::string>(request.workers()),
                        .owners = *std::move(owners)};
  for (size_t expert = 0; expert < shape.owners.size(); ++expert) {
    const std::vector<int32_t>& of = shape.owners[expert];
    const bool ascends =
        std::adjacent_find(of.begin(), of.end(), std::greater_equal<>()) == of.end();
    if (of.empty() || !ascends || of.back() >= static_cast<int32_t>(request.workers())) {
      return absl::InvalidArgumentError(
          absl::StrFormat("owners: of expert %d are [%s]; they must be one or more of 0 to %d, "
                          "ascending",
                          expert, absl::StrJoin(of, ", "), request.workers() - 1));
    }
  }
  return Plan{.workers = static_cast<int32_t>(request.workers()),
              .layers = static_cast<int32_t>(request.layers()),
              .experts = static_cast<int32_t>(request.experts()),
              .owners = shape.owners};
}

absl::StatusOr<Placement> Resolve(const Plan& plan, const std::vector<std::string>& workers,
                                  const v1::ModelInfo& model) {
  if (plan.layers != static_cast<int32_t>(model.moe_layers()) ||
      plan.experts != static_cast<int32_t>(model.experts())) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the plan is for %d layers of %d experts, %s has %d of %d", plan.layers,
                        plan.experts, model.name(), model.moe_layers(), model.experts()));
  }
  if (static_cast<size_t>(plan.workers) != workers.size()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the plan is for %d workers, alive are %d (%s)", plan.workers,
                        workers.size(), absl::StrJoin(workers, ", ")));
  }
  return Placement{.workers = workers, .owners = plan.owners};
}

absl::Status FillResidency(const v1::ClusterView& view, const v1::ResidencyRequest& request,
                           v1::ResidencyResponse* response) {
  const v1::ModelInfo* const model = ModelOf(view);
  if (model == nullptr) return absl::UnavailableError("no worker has joined yet");
  const size_t slots = model->experts();
  Placement placement;
  if (view.has_placement()) {
    CONCLAVE_ASSIGN_OR_RETURN(placement, FromProto(view.placement()));
  } else {
    std::vector<std::string> alive;
    for (const v1::WorkerInfo& worker : view.workers()) {
      if (worker.state() != v1::WORKER_STATE_DEAD && !worker.placed()) alive.push_back(worker.id());
    }
    if (alive.empty()) return absl::UnavailableError("no worker has any expert yet");
    placement = scheduler::Everywhere(std::move(alive), slots * model->moe_layers());
  }
  response->set_epoch(placement.epoch);
  for (const std::string& worker : placement.workers) response->add_workers(worker);
  for (int i = 0; i < model->moe_layer_indices_size(); ++i) {
    const uint32_t layer = model->moe_layer_indices(i);
    const size_t begin = static_cast<size_t>(i) * slots;
    if (request.has_layer() && request.layer() != layer) continue;
    if (begin + slots > placement.owners.size()) break;
    v1::ResidentLayer* const resident = response->add_layers();
    resident->set_layer(layer);
    Flatten(placement.owners, begin, begin + slots, resident);
  }
  if (!request.has_layer() || response->layers_size() > 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("layer: %d has no experts; those that do are %s", request.layer(),
                      absl::StrJoin(model->moe_layer_indices(), ", ")));
}

}  // namespace conclave::services

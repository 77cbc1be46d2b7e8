// conclave residency and apply: where experts are, and where they are to be.

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "services/cli/client.h"
#include "services/cli/command.h"
#include "services/cli/input.h"
#include "services/cli/json.h"
#include "services/cli/terminal.h"
#include "services/convert_placement.h"
#include "worker/status.h"

namespace conclave::services::cli {
namespace {

// A layer's owners by name, [experts]. Indexes beyond what the message has are left out.
std::vector<std::vector<std::string>> OwnersOf(const v1::ResidencyResponse& residency,
                                               const v1::ResidentLayer& layer) {
  const int experts = layer.copies().empty() ? layer.owners_size() : layer.copies_size();
  std::vector<std::vector<std::string>> owners(static_cast<size_t>(experts));
  int next = 0;
  for (int expert = 0; expert < experts; ++expert) {
    const uint32_t copies = layer.copies().empty() ? 1 : layer.copies(expert);
    for (uint32_t i = 0; i < copies && next < layer.owners_size(); ++i, ++next) {
      const auto owner = static_cast<int64_t>(layer.owners(next));
      if (owner < residency.workers_size())
        owners[static_cast<size_t>(expert)].push_back(residency.workers(static_cast<int>(owner)));
    }
  }
  return owners;
}

Json ToJson(const v1::ResidencyResponse& residency) {
  Json layers = Json::array();
  for (const v1::ResidentLayer& layer : residency.layers())
    layers.push_back({{"layer", layer.layer()}, {"experts", OwnersOf(residency, layer)}});
  return {
      {"epoch", residency.epoch()},
      {"workers", std::vector<std::string>(residency.workers().begin(), residency.workers().end())},
      {"layers", std::move(layers)}};
}

// Runs of experts with the same owners, "0-15 worker-0, 16-31 worker-1 worker-2".
std::string Runs(const std::vector<std::vector<std::string>>& owners) {
  std::vector<std::string> runs;
  for (size_t begin = 0, end = 0; begin < owners.size(); begin = end) {
    while (end < owners.size() && owners[end] == owners[begin]) ++end;
    const std::string range =
        end - begin == 1 ? absl::StrFormat("%d", begin) : absl::StrFormat("%d-%d", begin, end - 1);
    runs.push_back(range + " " + absl::StrJoin(owners[begin], " "));
  }
  return absl::StrJoin(runs, ", ");
}

std::string ToTable(const v1::ResidencyResponse& residency) {
  std::string text = absl::StrFormat("epoch      %d%s\n", residency.epoch(),
                                     residency.epoch() == 0 ? ", every worker has all" : "");
  for (const v1::ResidentLayer& layer : residency.layers()) {
    absl::StrAppendFormat(&text, "layer %-4d %s\n", layer.layer(),
                          Runs(OwnersOf(residency, layer)));
  }
  return text;
}

absl::Status ShowResidency(Client& client, int32_t layer, bool json, Io& io) {
  v1::ResidencyRequest request;
  if (layer >= 0) request.set_layer(static_cast<uint32_t>(layer));
  v1::ResidencyResponse response;
  Client::Call call(client);
  const grpc::Status status = client.cluster().Residency(call.context(), request, &response);
  CONCLAVE_RETURN_IF_ERROR(Client::StatusOf(status, *call.context()));
  if (json) {
    Print(ToJson(response), io);
  } else {
    io.out << Printable(ToTable(response));
  }
  return absl::OkStatus();
}

absl::StatusOr<Plan> ReadPlanOrStdin(const std::string& path) {
  if (path != "-") return ReadPlan(path);
  CONCLAVE_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, PlanLimits().bytes));
  return ParsePlan(text, "stdin");
}

absl::Status Apply(Client& client, const Plan& plan, bool json, Io& io) {
  v1::ApplyResponse response;
  Client::Call call(client);
  const grpc::Status status = client.cluster().Apply(call.context(), ToProto(plan), &response);
  CONCLAVE_RETURN_IF_ERROR(Client::StatusOf(status, *call.context()));
  if (json) {
    Print({{"plan", response.plan()}, {"epoch", response.epoch()}}, io);
  } else {
    io.out << absl::StrFormat("epoch %d\n", response.epoch());
  }
  return absl::OkStatus();
}

}  // namespace

int RunResidency(const Arguments& arguments, Io& io) {
  const std::string name = "residency";
  Client::Options options = {.timeout = 30};
  int32_t layer = -1;
  Flags flags("conclave " + name, "Which expert is on which workers.");
  flags.AddOptional(
      {"layer", &layer, "L", "of the model, from 0; without it all that have experts", 0, 1 << 20});
  Client::AddFlags(flags, options);
  if (const auto code = Parse(name, flags, arguments, io)) return *code;
  const auto client = Client::Make(options);
  if (!client.ok()) return UsageError(name, client.status(), io);
  return (*client)->Finish(name, ShowResidency(**client, layer, options.json, io), io);
}

int RunApply(const Arguments& arguments, Io& io) {
  const std::string name = "apply";
  Client::Options options = {.timeout = 120};
  std::vector<std::string> files;
  Flags flags(
      "conclave " + name,
      "Sets a placement of experts while requests run, and waits until all workers serve "
      "by it.\nPLAN.json is {\"workers\":N,\"layers\":L,\"experts\":E,\"placement\":[[[worker,...] "
      "per expert] per layer]};\nother keys are remarks. - is stdin. Worker i of the plan is "
      "the i-th of those that are alive, by name.");
  flags.AddPositional(&files, 1, "PLAN.json");
  Client::AddFlags(flags, options);
  if (const auto code = Parse(name, flags, arguments, io)) return *code;
  if (files.empty()) return UsageError(name, absl::InvalidArgumentError("name a PLAN.json"), io);
  const auto plan = ReadPlanOrStdin(files[0]);
  if (!plan.ok()) return UsageError(name, plan.status(), io);
  const auto client = Client::Make(options);
  if (!client.ok()) return UsageError(name, client.status(), io);
  return (*client)->Finish(name, Apply(**client, *plan, options.json, io), io);
}

}  // namespace conclave::services::cli

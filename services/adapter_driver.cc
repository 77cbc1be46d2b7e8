#include "services/adapter_driver.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "services/convert_adapters.h"
#include "services/log.h"

namespace conclave::services {
namespace {

using scheduler::AdapterCatalogue;
using scheduler::AdapterError;
using scheduler::AdapterOperation;
using scheduler::AdapterRegister;
using scheduler::AdapterRow;
using scheduler::AdapterStage;
using scheduler::Micros;

absl::Status ToStatus(AdapterError error, const std::string& message) {
  return absl::Status(static_cast<absl::StatusCode>(error), message);
}

// Of a digest, for people.
std::string Short(const std::string& digest) { return digest.substr(0, 12); }

void LogEnd(const AdapterOperation& operation) {
  if (operation.stage == AdapterStage::kFailed) {
    LogWarning("adapter %s: operation %s failed: %s", operation.name, operation.id,
               operation.message);
  } else if (operation.removes) {
    LogInfo("adapter %s is removed, and %d bytes with it", operation.name, operation.bytes_freed);
  } else if (operation.replaced.empty()) {
    LogInfo("adapter %s is version %s, %d bytes", operation.name, Short(operation.digest),
            operation.bytes);
  } else {
    LogInfo("adapter %s is version %s, %d bytes; %s drains", operation.name,
            Short(operation.digest), operation.bytes, Short(operation.replaced));
  }
}

}  // namespace

AdapterDriver::AdapterDriver(const Options& options, const AdapterRegister& stored, Micros now)
    : options_(options), catalogue_(options, stored, now), now_(now) {}

bool AdapterDriver::Hear(const v1::HeartbeatRequest& beat, Micros now) {
  const bool router = beat.has_router();
  Heard& heard = router ? routers_[beat.router().address()] : workers_[beat.worker().id()];
  AdapterCatalogue::Report report{.at = now,
                                  .view = beat.view(),
                                  .in_use = {beat.in_use().begin(), beat.in_use().end()},
                                  .waiting = {beat.waiting().begin(), beat.waiting().end()}};
  for (const v1::AdapterLack& lack : beat.lacks()) report.lacks[lack.digest()] = lack.why();
  if (!router && beat.has_checked()) {
    report.check = beat.checked().check();
    report.found = FromProto(beat.checked());
  }
  const uint64_t incarnation = router ? 0 : beat.worker().incarnation();
  const AdapterCatalogue::Report& before = heard.report;
  const bool news = heard.incarnation != incarnation || before.check != report.check ||
                    before.view != report.view || before.in_use != report.in_use ||
                    before.waiting != report.waiting || before.lacks != report.lacks;
  heard = {.incarnation = incarnation, .report = std::move(report)};
  return news;
}

absl::StatusOr<std::string> AdapterDriver::Add(const v1::AddAdapterRequest& request) {
  return Begun(catalogue_.Add(request.operation_id(), request.name(), request.source()));
}

absl::StatusOr<std::string> AdapterDriver::Remove(const v1::RemoveAdapterRequest& request) {
  return Begun(catalogue_.Remove(request.operation_id(), request.name()));
}

absl::StatusOr<std::string> AdapterDriver::Begun(const scheduler::AdapterAnswer& opened) {
  if (opened.error == AdapterError::kNone) return opened.id;
  return ToStatus(opened.error, opened.problem);
}

std::optional<absl::StatusOr<v1::AdapterOperation>> AdapterDriver::EndOf(
    const std::string& operation) const {
  const AdapterOperation* const found = catalogue_.Find(operation);
  if (found == nullptr) {
    return absl::AbortedError(
        absl::StrFormat("operation %s on adapters is over and forgotten", operation));
  }
  if (IsOpen(found->stage)) return std::nullopt;
  if (found->stage == AdapterStage::kFailed) {
    return ToStatus(found->error, absl::StrFormat("adapter %s: %s", found->name, found->message));
  }
  if (!IsFollowed(operation)) return std::nullopt;
  return ToProto(*found);
}

bool AdapterDriver::IsFollowed(const std::string& operation) const {
  const auto ended = ended_.find(operation);
  if (ended == ended_.end() || now_ - ended->second.at >= options_.follow) return true;
  return std::all_of(routers_.begin(), routers_.end(), [&](const auto& router) {
    return !router.second.serves || router.second.report.view >= ended->second.view;
  });
}

bool AdapterDriver::Step(const Workers& workers, const Routers& routers, const v1::ModelInfo* model,
                         uint64_t version, PlacementDriver& placement, Micros now) {
  std::vector<AdapterCatalogue::Worker> all;
  std::map<std::string, Heard> heard;
  for (const scheduler::Membership::Worker& worker : workers) {
    const auto found = workers_.find(worker.id);
    if (found != workers_.end()) heard[worker.id] = std::move(found->second);
  }
  workers_ = std::move(heard);
  for (const scheduler::Membership::Worker& worker : workers) {
    const auto found = workers_.find(worker.id);
    const bool present = found != workers_.end() && found->second.incarnation == worker.incarnation;
    all.push_back({.id = worker.id,
                   .alive = worker.state != scheduler::WorkerState::kDead,
                   .leaving = worker.state == scheduler::WorkerState::kDraining,
                   .report = present ? &found->second.report : nullptr});
  }
  std::vector<AdapterCatalogue::Router> listed;
  for (const scheduler::RouterRoster::Router& router : routers) {
    const auto found = routers_.find(router.address);
    if (found == routers_.end()) continue;
    found->second.serves = router.state == scheduler::RouterState::kServing;
    listed.push_back({.address = router.address, .report = &found->second.report});
  }
  std::erase_if(routers_, [&](const auto& router) {
    return std::none_of(listed.begin(), listed.end(),
                        [&](const auto& one) { return one.address == router.first; });
  });

  const AdapterCatalogue::Known known{
      .view = version, .workers = all, .routers = listed, .placement = placement.change()};
  const std::vector<AdapterOperation> before = catalogue_.Save().operations;
  bool changed = catalogue_.Step(known, now);
  if (const auto wish = catalogue_.Next(known, now)) {
    catalogue_.Proposed(*wish, placement.Propose(*wish, workers, model, now), now);
    changed = true;
  }
  now_ = now;
  if (changed) NoteEnds(before, version, now);
  return changed;
}

void AdapterDriver::NoteEnds(const std::vector<AdapterOperation>& before, uint64_t version,
                             Micros now) {
  for (const AdapterOperation& was : before) {
    const AdapterOperation* const found = catalogue_.Find(was.id);
    if (found == nullptr || !IsOpen(was.stage) || IsOpen(found->stage)) continue;
    LogEnd(*found);
    if (!found->removes) ended_[found->id] = {.view = version + 1, .at = now};
  }
  std::erase_if(ended_, [&](const auto& one) { return catalogue_.Find(one.first) == nullptr; });
}

void AdapterDriver::Fill(v1::ClusterView* view) const {
  AddRows(view->mutable_adapters());
  if (const AdapterOperation* const checking = catalogue_.Checking()) {
    view->mutable_check()->set_check(checking->check);
    view->mutable_check()->set_source(checking->source);
  }
}

void AdapterDriver::AddRows(google::protobuf::RepeatedPtrField<v1::Adapter>* adapters) const {
  for (const AdapterRow& row : catalogue_.Rows()) {
    *adapters->Add() = ToProto(row);
    if (row.version.on_disk) {
      adapters->rbegin()->set_problem(catalogue_.WhyNot(row.digest));
      adapters->rbegin()->set_lacking(catalogue_.IsLacked(row.digest));
    }
  }
}

v1::AdapterCatalogue AdapterDriver::Describe() const {
  v1::AdapterCatalogue catalogue;
  AddRows(catalogue.mutable_adapters());
  for (const AdapterOperation& operation : catalogue_.Save().operations)
    *catalogue.add_operations() = ToProto(operation);
  return catalogue;
}

}  // namespace conclave::services

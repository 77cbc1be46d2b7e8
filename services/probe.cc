#include "services/probe.h"

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <set>
#include <string>

#include "conclave/v1/cluster.grpc.pb.h"

namespace conclave::services {
namespace {

constexpr std::chrono::milliseconds kProbeDeadline(1000);

std::chrono::system_clock::time_point Deadline() {
  return std::chrono::system_clock::now() + kProbeDeadline;
}

std::optional<v1::StatusResponse> StatusOf(v1::Cluster::Stub& router) {
  grpc::ClientContext context;
  context.set_deadline(Deadline());
  v1::StatusResponse response;
  if (!router.Status(&context, {}, &response).ok()) return std::nullopt;
  return response;
}

}  // namespace

// The standard health check of the whole server. Its two messages are too small to need their
// proto: an empty request, and field 1 = SERVING (1) in the answer.
bool IsServing(const std::shared_ptr<grpc::Channel>& router) {
  grpc::GenericStub stub(router);
  grpc::ClientContext context;
  context.set_deadline(Deadline());
  grpc::CompletionQueue queue;
  const grpc::Slice nothing;
  const auto call = stub.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check",
                                          grpc::ByteBuffer(&nothing, 1), &queue);
  grpc::ByteBuffer response;
  grpc::Status status;
  call->StartCall();
  call->Finish(&response, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  queue.Next(&tag, &ok);
  grpc::Slice bytes;
  if (!status.ok() || !response.DumpToSingleSlice(&bytes).ok()) return false;
  return std::string(bytes.begin(), bytes.end()) == std::string("\x08\x01");
}

bool SeesAll(const std::shared_ptr<grpc::Channel>& router, int32_t workers, int32_t routers) {
  const auto response = StatusOf(*v1::Cluster::NewStub(router));
  if (!response) return false;
  const auto in_state = [](const auto& all, auto state) {
    return std::count_if(all.begin(), all.end(),
                         [&](const auto& one) { return one.state() == state; });
  };
  return in_state(response->workers(), v1::WORKER_STATE_READY) >= workers &&
         in_state(response->routers(), v1::ROUTER_STATE_SERVING) >= routers;
}

bool OwnersServe(const std::shared_ptr<grpc::Channel>& router) {
  const auto stub = v1::Cluster::NewStub(router);
  grpc::ClientContext context;
  context.set_deadline(Deadline());
  v1::ResidencyResponse residency;
  if (!stub->Residency(&context, {}, &residency).ok()) return false;
  if (residency.epoch() == 0) return true;  // every worker has all
  const auto status = StatusOf(*stub);
  if (!status) return false;
  std::set<std::string> serving;
  for (const v1::WorkerInfo& worker : status->workers()) {
    if (worker.state() == v1::WORKER_STATE_READY && worker.epoch() == residency.epoch())
      serving.insert(worker.id());
  }
  const auto serves = [&](uint32_t owner) {
    return owner < static_cast<uint32_t>(residency.workers_size()) &&
           serving.contains(residency.workers(static_cast<int>(owner)));
  };
  for (const v1::ResidentLayer& layer : residency.layers()) {
    auto owner = layer.owners().begin();
    for (int expert = 0; owner != layer.owners().end(); ++expert) {
      const auto left = layer.owners().end() - owner;
      const auto copies = expert < layer.copies_size() ? int64_t{layer.copies(expert)} : 1;
      const auto next = owner + std::min<int64_t>(copies, left);
      if (std::none_of(owner, next, serves)) return false;
      owner = next;
    }
  }
  return true;
}

}  // namespace conclave::services

#include "services/probe.h"

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <string>

#include "conclave/v1/cluster.grpc.pb.h"

namespace conclave::services {
namespace {

constexpr std::chrono::milliseconds kProbeDeadline(1000);

}  // namespace

// The standard health check of the whole server. Its two messages are too small to need their
// proto: an empty request, and field 1 = SERVING (1) in the answer.
bool IsServing(const std::shared_ptr<grpc::Channel>& router) {
  grpc::GenericStub stub(router);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kProbeDeadline);
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
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kProbeDeadline);
  v1::StatusResponse response;
  if (!v1::Cluster::NewStub(router)->Status(&context, {}, &response).ok()) return false;
  const auto in_state = [](const auto& all, auto state) {
    return std::count_if(all.begin(), all.end(),
                         [&](const auto& one) { return one.state() == state; });
  };
  return in_state(response.workers(), v1::WORKER_STATE_READY) >= workers &&
         in_state(response.routers(), v1::ROUTER_STATE_SERVING) >= routers;
}

}  // namespace conclave::services

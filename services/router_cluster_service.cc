#include "services/router_cluster_service.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "services/convert_placement.h"
#include "services/grpc_status.h"

namespace conclave::services {

using AsyncStub = v1::Cluster::Stub::async_interface;

RouterClusterService::RouterClusterService(const Options& options, Frontend& frontend,
                                           const std::shared_ptr<grpc::Channel>& scheduler,
                                           Authorize authorize)
    : options_(options),
      frontend_(frontend),
      scheduler_(scheduler == nullptr ? nullptr : v1::Cluster::NewStub(scheduler)),
      authorize_(std::move(authorize)) {}

void RouterClusterService::SetAddresses(const std::string& address,
                                        const std::string& metrics_address) {
  options_.address = address;
  options_.metrics_address = metrics_address;
}

grpc::ServerUnaryReactor* RouterClusterService::Status(grpc::CallbackServerContext* context,
                                                       const v1::StatusRequest* request,
                                                       v1::StatusResponse* response) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  const auto allowed = authorize_("/conclave.v1.Cluster/Status", PeerOf(*context));
  if (!allowed.ok()) {
    reactor->Finish(ToGrpc(allowed.status()));
    return reactor;
  }
  if (scheduler_ == nullptr) {
    FillFromView(response);
    FillSelf(response);
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
  auto forwarded = std::make_shared<grpc::ClientContext>();
  forwarded->set_deadline(std::chrono::system_clock::now() + options_.timeout);
  scheduler_->async()->Status(
      forwarded.get(), request, response,
      [this, forwarded, reactor, response](const grpc::Status& status) mutable {
        forwarded.reset();  // its share of the channel goes before ours can
        if (!status.ok()) FillFromView(response);
        FillSelf(response);
        reactor->Finish(grpc::Status::OK);
      });
  return reactor;
}

// The client may have gone by the time it ends; a change goes on, as it must.
template <typename Request, typename Response>
grpc::ServerUnaryReactor* RouterClusterService::Forward(
    grpc::CallbackServerContext* context, const std::string& method,
    std::chrono::milliseconds timeout, const Request* request, Response* response,
    void (AsyncStub::*call)(grpc::ClientContext*, const Request*, Response*,
                            std::function<void(grpc::Status)>)) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  absl::Status status = authorize_("/conclave.v1.Cluster/" + method, PeerOf(*context)).status();
  if (status.ok() && scheduler_ == nullptr)
    status = absl::UnavailableError("this router has no scheduler, which changes the cluster");
  if (!status.ok()) {
    reactor->Finish(ToGrpc(status));
    return reactor;
  }
  auto forwarded = std::make_shared<grpc::ClientContext>();
  forwarded->set_deadline(
      std::min(context->deadline(), std::chrono::system_clock::now() + timeout));
  (scheduler_->async()->*call)(
      forwarded.get(), request, response, [forwarded, reactor](const grpc::Status& end) mutable {
        forwarded.reset();  // its share of the channel goes before ours can
        reactor->Finish(end);
      });
  return reactor;
}

grpc::ServerUnaryReactor* RouterClusterService::Apply(grpc::CallbackServerContext* context,
                                                      const v1::ApplyRequest* request,
                                                      v1::ApplyResponse* response) {
  return Forward(context, "Apply", options_.apply_timeout, request, response, &AsyncStub::Apply);
}

grpc::ServerUnaryReactor* RouterClusterService::AddAdapter(grpc::CallbackServerContext* context,
                                                           const v1::AddAdapterRequest* request,
                                                           v1::AdapterOperation* response) {
  return Forward(context, "AddAdapter", options_.apply_timeout, request, response,
                 &AsyncStub::AddAdapter);
}

grpc::ServerUnaryReactor* RouterClusterService::RemoveAdapter(
    grpc::CallbackServerContext* context, const v1::RemoveAdapterRequest* request,
    v1::AdapterOperation* response) {
  return Forward(context, "RemoveAdapter", options_.apply_timeout, request, response,
                 &AsyncStub::RemoveAdapter);
}

grpc::ServerUnaryReactor* RouterClusterService::ListAdapters(grpc::CallbackServerContext* context,
                                                             const v1::ListAdaptersRequest* request,
                                                             v1::AdapterCatalogue* response) {
  return Forward(context, "ListAdapters", options_.timeout, request, response,
                 &AsyncStub::ListAdapters);
}

grpc::ServerUnaryReactor* RouterClusterService::Residency(grpc::CallbackServerContext* context,
                                                          const v1::ResidencyRequest* request,
                                                          v1::ResidencyResponse* response) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  absl::Status status = authorize_("/conclave.v1.Cluster/Residency", PeerOf(*context)).status();
  if (status.ok()) status = FillResidency(frontend_.view(), *request, response);
  reactor->Finish(ToGrpc(status));
  return reactor;
}

void RouterClusterService::FillFromView(v1::StatusResponse* response) const {
  response->Clear();
  const v1::ClusterView view = frontend_.view();
  response->set_epoch(view.epoch());
  *response->mutable_workers() = view.workers();
  *response->mutable_adapters() = view.adapters();
}

// What the scheduler heard of this router is older.
void RouterClusterService::FillSelf(v1::StatusResponse* response) const {
  v1::RouterStatus& self = *response->mutable_router();
  Describe(&self);
  auto* const routers = response->mutable_routers();
  const auto known = std::find_if(routers->begin(), routers->end(), [&](const auto& router) {
    return router.address() == self.address();
  });
  (known == routers->end() ? *routers->Add() : *known) = self;
  std::sort(routers->begin(), routers->end(),
            [](const auto& a, const auto& b) { return a.address() < b.address(); });
}

void RouterClusterService::Describe(v1::RouterStatus* status) const {
  status->set_pid(getpid());
  status->set_address(options_.address);
  status->set_metrics_address(options_.metrics_address);
  status->set_live_requests(static_cast<uint32_t>(frontend_.stats().requests));
  status->set_draining(frontend_.draining());
  status->set_state(frontend_.draining() ? v1::ROUTER_STATE_DRAINING : v1::ROUTER_STATE_SERVING);
}

}  // namespace conclave::services

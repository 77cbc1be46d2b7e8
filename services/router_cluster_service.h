#pragma once
// conclave.v1.Cluster on the router's port: operators ask any router, which asks the scheduler and
// adds what it knows of itself. Without the scheduler it answers from its own view, and says so by
// leaving the scheduler out; a change of the cluster is then UNAVAILABLE.

#include <grpcpp/channel.h>

#include <memory>
#include <string>

#include "conclave/v1/cluster.grpc.pb.h"
#include "services/authorize.h"
#include "services/frontend.h"

namespace conclave::services {

class RouterClusterService final : public v1::Cluster::CallbackService {
 public:
  struct Options {
    std::chrono::milliseconds timeout{1000};  // for the scheduler's answer
    std::chrono::seconds apply_timeout{300};  // for a change of the placement or of adapters
    std::string address;                      // of this router, for others
    std::string metrics_address;
  };

  // scheduler: null when the router runs without one. The frontend outlives the server.
  RouterClusterService(const Options& options, Frontend& frontend,
                       const std::shared_ptr<grpc::Channel>& scheduler, Authorize authorize);

  // Known only once the server listens; before the first call.
  void SetAddresses(const std::string& address, const std::string& metrics_address);
  // What this router says of itself, as it is now.
  void Describe(v1::RouterStatus* status) const;

  grpc::ServerUnaryReactor* Status(grpc::CallbackServerContext* context,
                                   const v1::StatusRequest* request,
                                   v1::StatusResponse* response) override;
  grpc::ServerUnaryReactor* Apply(grpc::CallbackServerContext* context,
                                  const v1::ApplyRequest* request,
                                  v1::ApplyResponse* response) override;
  grpc::ServerUnaryReactor* AddAdapter(grpc::CallbackServerContext* context,
                                       const v1::AddAdapterRequest* request,
                                       v1::AdapterOperation* response) override;
  grpc::ServerUnaryReactor* RemoveAdapter(grpc::CallbackServerContext* context,
                                          const v1::RemoveAdapterRequest* request,
                                          v1::AdapterOperation* response) override;
  grpc::ServerUnaryReactor* ListAdapters(grpc::CallbackServerContext* context,
                                         const v1::ListAdaptersRequest* request,
                                         v1::AdapterCatalogue* response) override;
  grpc::ServerUnaryReactor* Residency(grpc::CallbackServerContext* context,
                                      const v1::ResidencyRequest* request,
                                      v1::ResidencyResponse* response) override;

 private:
  // Has the scheduler answer a call that only it can.
  template <typename Request, typename Response>
  grpc::ServerUnaryReactor* Forward(grpc::CallbackServerContext* context, const std::string& method,
                                    std::chrono::milliseconds timeout, const Request* request,
                                    Response* response,
                                    void (v1::Cluster::Stub::async_interface::*call)(
                                        grpc::ClientContext*, const Request*, Response*,
                                        std::function<void(grpc::Status)>));
  void FillFromView(v1::StatusResponse* response) const;
  void FillSelf(v1::StatusResponse* response) const;

  Options options_;
  Frontend& frontend_;
  const std::unique_ptr<v1::Cluster::Stub> scheduler_;
  const Authorize authorize_;
};

}  // namespace conclave::services

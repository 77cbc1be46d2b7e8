#pragma once
// One adapter that is to be served, as a command line names it, and the call that asks a cluster
// for it while its caller does something else.

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <future>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "conclave/v1/cluster.grpc.pb.h"

namespace conclave::services {

// Of NAME=DIR, DIR being meant from here. INVALID_ARGUMENT: it is none.
absl::StatusOr<v1::AddAdapterRequest> ParseAdapter(const std::string& text);

class AddAdapterCall {
 public:
  AddAdapterCall(const std::shared_ptr<grpc::Channel>& channel, v1::AddAdapterRequest request);
  ~AddAdapterCall();  // cancels it if it is not over

  bool done() const;
  absl::Status status();  // once it is done

 private:
  const v1::AddAdapterRequest request_;
  const std::unique_ptr<v1::Cluster::Stub> stub_;
  grpc::ClientContext context_;
  v1::AdapterOperation response_;
  std::promise<absl::Status> ended_;
  std::future<absl::Status> end_ = ended_.get_future();
};

}  // namespace conclave::services

#pragma once
// A command's connection to a router: where it is, how it is secured, how long a call may take, and
// that Ctrl-C (or SIGTERM) cancels the call that runs. Main thread, one call at a time.

#include <grpcpp/client_context.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "conclave/v1/cluster.grpc.pb.h"
#include "conclave/v1/inference.grpc.pb.h"
#include "services/cli/command.h"
#include "services/credentials.h"
#include "services/flags.h"
#include "services/shutdown.h"

namespace conclave::services::cli {

class Client {
 public:
  struct Options {
    std::string server;  // HOST:PORT; empty: CONCLAVE_SERVER
    double timeout = 0;  // seconds, of a call; 0: none
    Credentials::Options credentials;
    bool json = false;
  };
  static void AddFlags(Flags& flags, Options& options);

  // INVALID_ARGUMENT or NOT_FOUND; connects when first used.
  static absl::StatusOr<std::unique_ptr<Client>> Make(const Options& options);
  ~Client();

  v1::Inference::Stub& inference() { return *inference_; }
  v1::Cluster::Stub& cluster() { return *cluster_; }

  // The context of one call, with its deadline; cancelled from its start on once a signal has come.
  class Call {
   public:
    explicit Call(Client& client);
    ~Call();
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;
    grpc::ClientContext* context() { return &context_; }

   private:
    Client& client_;
    grpc::ClientContext context_;
  };

  // A router's refusal with the time after which it asks us to come back, if it named one.
  static absl::Status StatusOf(const grpc::Status& status, const grpc::ClientContext& context);

  // As cli::Finish, but an interrupted command ends with kInterrupted.
  int Finish(const std::string& command, const absl::Status& status, Io& io) const;

 private:
  Client(const std::string& server, const Credentials& credentials, double timeout);
  void CancelRunning();

  const double timeout_;
  std::unique_ptr<v1::Inference::Stub> inference_;
  std::unique_ptr<v1::Cluster::Stub> cluster_;

  Shutdown shutdown_;
  std::mutex mutex_;
  grpc::ClientContext* running_ = nullptr;  // under mutex_
  std::atomic<bool> interrupted_{false};
  std::atomic<bool> ending_{false};
  std::thread watcher_;  // waits for the signal
};

}  // namespace conclave::services::cli

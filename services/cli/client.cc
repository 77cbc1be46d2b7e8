#include "services/cli/client.h"

#include <chrono>
#include <cstdlib>

#include "absl/strings/str_format.h"
#include "services/address.h"
#include "services/channel.h"
#include "services/grpc_status.h"
#include "worker/status.h"

namespace conclave::services::cli {

void Client::AddFlags(Flags& flags, Options& options) {
  flags.Add({"server", &options.server, "HOST:PORT",
             "the router; without it the environment's CONCLAVE_SERVER"});
  flags.Add({"timeout", &options.timeout, "S", "deadline of a call; 0: none", 0, 86400});
  flags.Add({"json", &options.json, "", "print one JSON document"});
  Credentials::AddClientFlags(flags, options.credentials);
}

absl::StatusOr<std::unique_ptr<Client>> Client::Make(const Options& options) {
  std::string server = options.server;
  if (const char* const named = std::getenv("CONCLAVE_SERVER"); server.empty() && named) {
    server = named;
  }
  if (server.empty()) {
    return absl::InvalidArgumentError("--server is missing, and CONCLAVE_SERVER is not set");
  }
  CONCLAVE_ASSIGN_OR_RETURN(const Address address, Address::Parse(server));
  CONCLAVE_ASSIGN_OR_RETURN(const Credentials credentials, Credentials::Load(options.credentials));
  return std::unique_ptr<Client>(new Client(address.ToString(), credentials, options.timeout));
}

Client::Client(const std::string& server, const Credentials& credentials, double timeout)
    : timeout_(timeout) {
  const std::shared_ptr<grpc::Channel> channel = MakeChannel(server, credentials);
  inference_ = v1::Inference::NewStub(channel);
  cluster_ = v1::Cluster::NewStub(channel);
  watcher_ = std::thread([this] {
    shutdown_.Wait();
    if (!ending_) CancelRunning();
  });
}

Client::~Client() {
  ending_ = true;
  shutdown_.Request();
  watcher_.join();
}

void Client::CancelRunning() {
  const std::lock_guard lock(mutex_);
  interrupted_ = true;
  if (running_ != nullptr) running_->TryCancel();
}

Client::Call::Call(Client& client) : client_(client) {
  if (client.timeout_ > 0) {
    const std::chrono::duration<double> timeout(client.timeout_);
    context_.set_deadline(std::chrono::system_clock::now() +
                          std::chrono::duration_cast<std::chrono::microseconds>(timeout));
  }
  const std::lock_guard lock(client.mutex_);
  client.running_ = &context_;
  if (client.interrupted_) context_.TryCancel();
}

Client::Call::~Call() {
  const std::lock_guard lock(client_.mutex_);
  client_.running_ = nullptr;
}

absl::Status Client::StatusOf(const grpc::Status& status, const grpc::ClientContext& context) {
  const absl::Status plain = FromGrpc(status);
  const auto pushback = plain.ok() ? std::nullopt : RetryPushback(context);
  if (!pushback) return plain;
  return absl::Status(
      plain.code(), absl::StrFormat("%s (try again in %d ms)", plain.message(), pushback->count()));
}

int Client::Finish(const std::string& command, const absl::Status& status, Io& io) const {
  const int code = cli::Finish(command, status, io);
  return absl::IsCancelled(status) && interrupted_ ? kInterrupted : code;
}

}  // namespace conclave::services::cli

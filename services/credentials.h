#pragma once
// The one place that decides how a process's connections are secured: TLS from files, mutual when a
// CA is given, or plain. Plain is for the loopback; to listen elsewhere without TLS an operator has
// to say --insecure. Any thread.

#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "services/address.h"
#include "services/flags.h"

namespace conclave::services {

class Credentials {
 public:
  struct Options {
    std::string tls_cert;  // PEM file: this process's certificate chain
    std::string tls_key;   // PEM file: its key
    std::string tls_ca;    // PEM file: who signs the certificates of peers; a server then asks
                           // clients for theirs
    bool insecure = false;
  };
  // Of a process that listens, and of one that only connects.
  static void AddFlags(Flags& flags, Options& options);
  static void AddClientFlags(Flags& flags, Options& options);

  // Plain, for the loopback.
  Credentials() = default;
  // INVALID_ARGUMENT (a certificate without its key) or NOT_FOUND (a file).
  static absl::StatusOr<Credentials> Load(const Options& options);

  // FAILED_PRECONDITION when `listen` can be reached from outside and there is neither TLS nor
  // --insecure.
  absl::Status MayListen(const Address& listen) const;
  std::shared_ptr<grpc::ServerCredentials> ForServer() const;
  std::shared_ptr<grpc::ChannelCredentials> ForChannel() const;
  bool tls() const { return !cert_.empty() || !ca_.empty(); }
  bool insecure() const { return insecure_; }

 private:
  std::string cert_, key_, ca_;  // PEM; empty: none
  bool insecure_ = false;
};

}  // namespace conclave::services

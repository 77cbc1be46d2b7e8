#include "services/credentials.h"

#include <openssl/crypto.h>

#include <fstream>
#include <iterator>

#include "absl/strings/str_format.h"
#include "worker/status.h"

namespace conclave::services {
namespace {

constexpr size_t kMaxPemBytes = 1 << 20;

// gRPC ends what it has of connections on threads that a process does not wait for at its exit,
// where OpenSSL would free what they still use. So it leaves that to the kernel, which must be said
// before its first use.
[[maybe_unused]] const int no_cleanup = OPENSSL_init_crypto(OPENSSL_INIT_NO_ATEXIT, nullptr);

absl::StatusOr<std::string> ReadPem(const std::string& flag, const std::string& path) {
  if (path.empty()) return std::string();
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrFormat("--%s: cannot open \"%s\"", flag, path));
  std::string text(kMaxPemBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  if (text.empty() || text.size() > kMaxPemBytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("--%s: \"%s\" is empty or larger than %d bytes", flag, path, kMaxPemBytes));
  }
  return text;
}

}  // namespace

void Credentials::AddFlags(Flags& flags, Options& options) {
  flags.Add({"tls-cert", &options.tls_cert, "FILE", "certificate chain of this process, PEM"});
  flags.Add({"tls-key", &options.tls_key, "FILE", "its private key, PEM"});
  flags.Add({"tls-ca", &options.tls_ca, "FILE",
             "CA of the peers' certificates, PEM; servers then demand one"});
  flags.Add(
      {"insecure", &options.insecure, "", "allow listening without TLS where others can connect"});
}

void Credentials::AddClientFlags(Flags& flags, Options& options) {
  flags.Add({"tls-cert", &options.tls_cert, "FILE",
             "certificate chain to show a server that asks for one, PEM"});
  flags.Add({"tls-key", &options.tls_key, "FILE", "its private key, PEM"});
  flags.Add({"tls-ca", &options.tls_ca, "FILE",
             "CA of the server's certificate, PEM; with it connections are TLS"});
  flags.Add({"insecure", &options.insecure, "",
             "connect without TLS, as is done anyway unless --tls-ca or --tls-cert is given"});
}

absl::StatusOr<Credentials> Credentials::Load(const Options& options) {
  if (options.tls_cert.empty() != options.tls_key.empty()) {
    return absl::InvalidArgumentError("--tls-cert and --tls-key go together");
  }
  Credentials credentials;
  CONCLAVE_ASSIGN_OR_RETURN(credentials.cert_, ReadPem("tls-cert", options.tls_cert));
  CONCLAVE_ASSIGN_OR_RETURN(credentials.key_, ReadPem("tls-key", options.tls_key));
  CONCLAVE_ASSIGN_OR_RETURN(credentials.ca_, ReadPem("tls-ca", options.tls_ca));
  credentials.insecure_ = options.insecure;
  return credentials;
}

absl::Status Credentials::MayListen(const Address& listen) const {
  if (listen.loopback() || !cert_.empty() || insecure_) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrFormat(
      "%s can be reached from outside: give --tls-cert and --tls-key, or --insecure",
      listen.ToString()));
}

std::shared_ptr<grpc::ServerCredentials> Credentials::ForServer() const {
  if (cert_.empty()) return grpc::InsecureServerCredentials();
  grpc::SslServerCredentialsOptions options(
      ca_.empty() ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                  : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  options.pem_root_certs = ca_;
  options.pem_key_cert_pairs.push_back({key_, cert_});
  return grpc::SslServerCredentials(options);
}

std::shared_ptr<grpc::ChannelCredentials> Credentials::ForChannel() const {
  if (!tls()) return grpc::InsecureChannelCredentials();
  return grpc::SslCredentials(
      {.pem_root_certs = ca_, .pem_private_key = key_, .pem_cert_chain = cert_});
}

}  // namespace conclave::services

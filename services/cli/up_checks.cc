#include "services/cli/up_checks.h"

#include <concepts>
#include <utility>

#include "absl/strings/str_format.h"
#include "services/address.h"
#include "services/process.h"
#include "services/router_node.h"
#include "services/scheduler_node.h"
#include "services/worker_node.h"
#include "worker/status.h"

namespace conclave::services::cli {
namespace {

template <typename Node>
absl::StatusOr<typename Node::Options> Parse(const std::vector<std::string>& arguments) {
  typename Node::Options options;
  int64_t drain_ms = 0;
  Flags flags("", "");
  Node::AddFlags(flags, options);
  if constexpr (!std::same_as<Node, SchedulerNode>) AddDrainFlag(flags, drain_ms);
  CONCLAVE_RETURN_IF_ERROR(flags.Parse(arguments));
  if (flags.request() != Flags::Request::kRun)
    return absl::InvalidArgumentError("--help and --version start nothing");
  return options;
}

// The supervisor and its processes meet on the loopback, and it asks them in plain.
absl::Status RefuseTls(const Credentials::Options& options) {
  if (options.tls_cert.empty() && options.tls_key.empty() && options.tls_ca.empty())
    return absl::OkStatus();
  return absl::InvalidArgumentError(
      "the processes of `conclave up` have no TLS: start them by hand to give it to them");
}

template <typename Node>
absl::Status Check(const std::vector<std::string>& arguments) {
  CONCLAVE_ASSIGN_OR_RETURN(const typename Node::Options options, Parse<Node>(arguments));
  if constexpr (std::same_as<Node, WorkerNode>) {
    CONCLAVE_RETURN_IF_ERROR(WorkerNode::Check(options));
  }
  return RefuseTls(options.credentials);
}

template <typename Node>
absl::Status CheckOf(const std::string& process, const std::vector<std::string>& own,
                     const std::vector<std::string>& all) {
  const absl::Status status = Check<Node>(all);
  if (status.ok()) return status;
  const bool of_up = status.message() == Check<Node>(own).message();
  return absl::InvalidArgumentError(
      of_up ? std::string(status.message())
            : absl::StrFormat("--%s-flag: %s", process, std::string(status.message())));
}

}  // namespace

absl::Status CheckProcessFlags(const ProcessFlags& own, const ProcessFlags& all) {
  CONCLAVE_RETURN_IF_ERROR(CheckOf<WorkerNode>("worker", own.worker, all.worker));
  CONCLAVE_RETURN_IF_ERROR(CheckOf<RouterNode>("router", own.router, all.router));
  return CheckOf<SchedulerNode>("scheduler", own.scheduler, all.scheduler);
}

absl::Status CheckListens(const std::string& grpc, const std::string& metrics,
                          const std::vector<std::string>& router) {
  CONCLAVE_ASSIGN_OR_RETURN(const RouterNode::Options options, Parse<RouterNode>(router));
  for (const auto& [flag, text] : {std::pair("grpc", &grpc), std::pair("metrics", &metrics)}) {
    if (flag == std::string("metrics") && text->empty()) continue;  // nowhere
    const absl::StatusOr<Address> address = Address::Parse(*text);
    if (!address.ok()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("--%s: %s", flag, std::string(address.status().message())));
    }
    if (!address->loopback() && !options.credentials.insecure) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "--%s %s can be reached from outside, and `conclave up` has no TLS: give --insecure if "
          "nobody can reach it who must not, or start the processes by hand with --tls-cert and "
          "--tls-key",
          flag, *text));
    }
    if (flag == std::string("grpc") && address->wildcard() && options.advertise.empty()) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "--grpc %s is every interface: name one, or say with --router-flag=--advertise=HOST:0 "
          "which one to tell others",
          *text));
    }
  }
  return absl::OkStatus();
}

}  // namespace conclave::services::cli

// conclave-router: takes clients' requests and serves them from the cluster's workers. Prints one
// line when it listens; SIGTERM drains.

#include <cstdio>

#include "services/log.h"
#include "services/router_node.h"
#include "services/shutdown.h"

namespace {

using conclave::services::Flags;
using conclave::services::LogError;
using conclave::services::LogInfo;
using conclave::services::RouterNode;
using conclave::services::Shutdown;

int Fail(const absl::Status& status) {
  LogError("%s", std::string(status.message()));
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  RouterNode::Options options;
  int64_t drain_ms = 120'000;
  Flags flags("conclave-router", "Takes clients' requests and serves them from the workers.");
  RouterNode::AddFlags(flags, options);
  flags.Add({"drain-ms", &drain_ms, "MS", "longest time to finish what runs after SIGTERM", 0,
             86'400'000});
  if (const std::optional<int> exit_code = flags.ParseOrExit(argc, argv)) return *exit_code;

  conclave::services::StartLog("router", conclave::services::LogLevel::kInfo);
  conclave::services::CaptureGrpcLog();
  Shutdown shutdown;
  auto node = RouterNode::Start(options);
  if (!node.ok()) return Fail(node.status());
  std::printf("listening grpc=%s metrics=%s\n", (*node)->address().c_str(),
              (*node)->metrics_address().c_str());
  std::fflush(stdout);

  shutdown.Wait();
  LogInfo("draining");
  if (const absl::Status drained = (*node)->Drain(std::chrono::milliseconds(drain_ms));
      !drained.ok()) {
    return Fail(drained);
  }
  LogInfo("drained");
  return 0;
}

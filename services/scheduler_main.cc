// conclave-scheduler: keeps membership and the placement's epoch. Prints one line when ready;
// SIGTERM drains.

#include <cstdio>

#include "services/log.h"
#include "services/scheduler_node.h"
#include "services/shutdown.h"

int main(int argc, char** argv) {
  using conclave::services::Flags;
  using conclave::services::SchedulerNode;
  SchedulerNode::Options options;
  Flags flags("conclave-scheduler", "Keeps the cluster's membership and its placement.");
  SchedulerNode::AddFlags(flags, options);
  if (const std::optional<int> exit_code = flags.ParseOrExit(argc, argv)) return *exit_code;

  conclave::services::StartLog("scheduler", conclave::services::LogLevel::kInfo);
  conclave::services::CaptureGrpcLog();
  conclave::services::Shutdown shutdown;
  auto node = SchedulerNode::Start(options);
  if (!node.ok()) {
    conclave::services::LogError("%s", std::string(node.status().message()));
    return 1;
  }
  std::printf("listening grpc=%s metrics=%s\n", (*node)->address().c_str(),
              (*node)->metrics_address().c_str());
  std::fflush(stdout);

  shutdown.Wait();
  conclave::services::LogInfo("draining");
  (*node)->Drain(std::chrono::seconds(5));
  conclave::services::LogInfo("drained");
  return 0;
}

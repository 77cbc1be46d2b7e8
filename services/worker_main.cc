// conclave-worker: serves one model's sequences to routers. Prints one line when ready; SIGTERM
// drains.

#include <cstdio>

#include "services/log.h"
#include "services/shutdown.h"
#include "services/worker_node.h"

namespace {

using conclave::services::Flags;
using conclave::services::LogError;
using conclave::services::LogInfo;
using conclave::services::Shutdown;
using conclave::services::WorkerNode;

int Fail(const absl::Status& status) {
  LogError("%s", std::string(status.message()));
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  WorkerNode::Options options;
  int64_t drain_ms = 120'000;
  Flags flags("conclave-worker", "Serves a model's sequences to routers.");
  WorkerNode::AddFlags(flags, options);
  flags.Add({"drain-ms", &drain_ms, "MS", "longest time to finish what runs after SIGTERM", 0,
             86'400'000});
  if (const std::optional<int> exit_code = flags.ParseOrExit(argc, argv)) return *exit_code;

  conclave::services::StartLog("worker", conclave::services::LogLevel::kInfo);
  conclave::services::CaptureGrpcLog();
  Shutdown shutdown;
  std::atomic<bool> refused{false};
  auto node = WorkerNode::Start(options, [&](const absl::Status&) {
    refused = true;
    shutdown.Request();
  });
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
  return refused ? 1 : 0;
}

#pragma once
// What the mains of the three processes share: from a started node to the process's exit code.
// Main thread.

#include <chrono>
#include <cstdio>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/flags.h"
#include "services/log.h"
#include "services/shutdown.h"

namespace conclave::services {

inline void AddDrainFlag(Flags& flags, int64_t& drain_ms) {
  flags.Add({"drain-ms", &drain_ms, "MS", "longest time to finish what runs after SIGTERM", 0,
             86'400'000});
}

inline void StartProcessLog(const std::string& process) {
  StartLog(process, LogLevel::kInfo);
  CaptureGrpcLog();
}

// Made with a shutdown whose phase is starting. Prints where the node listens, waits for the
// shutdown and drains. 1 if the node has not started or has not drained within the bound, the
// reason being in the log.
template <typename Node>
int ServeUntilShutdown(absl::StatusOr<std::unique_ptr<Node>> node, Shutdown& shutdown,
                       std::chrono::milliseconds drain_bound) {
  const auto fail = [](const absl::Status& status) {
    LogError("%s", std::string(status.message()));
    return 1;
  };
  if (!node.ok()) return fail(node.status());
  shutdown.Started();
  std::printf("listening grpc=%s metrics=%s\n", (*node)->address().c_str(),
              (*node)->metrics_address().c_str());
  std::fflush(stdout);

  shutdown.Wait();
  LogInfo("draining");
  if (const absl::Status drained = (*node)->Drain(drain_bound); !drained.ok()) return fail(drained);
  LogInfo("drained");
  return 0;
}

}  // namespace conclave::services

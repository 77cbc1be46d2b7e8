// conclave-worker: serves one model's sequences to routers. Prints one line when ready; SIGTERM
// drains.

#include <atomic>

#include "services/process.h"
#include "services/worker_node.h"

int main(int argc, char** argv) {
  using namespace conclave::services;
  WorkerNode::Options options;
  int64_t drain_ms = 120'000;
  Flags flags("conclave-worker", "Serves a model's sequences to routers.");
  WorkerNode::AddFlags(flags, options);
  AddDrainFlag(flags, drain_ms);
  if (const std::optional<int> exit_code = flags.ParseOrExit(argc, argv)) return *exit_code;

  StartProcessLog("worker");
  Shutdown shutdown(Shutdown::Phase::kStarting);
  std::atomic<bool> refused{false};  // by the scheduler: another worker has this one's place
  auto node = WorkerNode::Start(options, [&](const absl::Status&) {
    refused = true;
    shutdown.Request();
  });
  const int exit_code =
      ServeUntilShutdown(std::move(node), shutdown, std::chrono::milliseconds(drain_ms));
  return refused ? 1 : exit_code;
}

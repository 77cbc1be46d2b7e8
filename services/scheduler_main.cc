// conclave-scheduler: keeps membership and the placement's epoch. Prints one line when ready;
// SIGTERM drains.

#include "services/process.h"
#include "services/scheduler_node.h"
#include "services/short_slice.h"

int main(int argc, char** argv) {
  using namespace conclave::services;
  SchedulerNode::Options options;
  Flags flags("conclave-scheduler", "Keeps the cluster's membership and its placement.");
  SchedulerNode::AddFlags(flags, options);
  if (const std::optional<int> exit_code = flags.ParseOrExit(argc, argv)) return *exit_code;

  StartProcessLog("scheduler");
  TakeShortSlices();
  Shutdown shutdown(Shutdown::Phase::kStarting);
  return ServeUntilShutdown(SchedulerNode::Start(options), shutdown, std::chrono::seconds(5));
}

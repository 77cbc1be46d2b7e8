// conclave-router: takes clients' requests and serves them from the cluster's workers. Prints one
// line when it listens; SIGTERM drains.

#include <malloc.h>

#include <algorithm>
#include <thread>

#include "services/network_threads.h"
#include "services/process.h"
#include "services/router_node.h"
#include "services/short_slice.h"

int main(int argc, char** argv) {
  using namespace conclave::services;
  RouterNode::Options options;
  int64_t drain_ms = 120'000;
  int32_t network_threads = 1;
  Flags flags("conclave-router", "Takes clients' requests and serves them from the workers.");
  RouterNode::AddFlags(flags, options);
  AddDrainFlag(flags, drain_ms);
  flags.Add({"network-threads", &network_threads, "N",
             "that carry out calls, of those that gRPC makes: half of the cores, 2 to 16", 1, 16});
  if (const std::optional<int> exit_code = flags.ParseOrExit(argc, argv)) return *exit_code;

  StartProcessLog("router");
  TakeShortSlices();
  // gRPC's many threads touch a little memory each, for short: arenas of their own would keep it.
  mallopt(M_ARENA_MAX, std::max(1, static_cast<int>(std::thread::hardware_concurrency())));
  Shutdown shutdown(Shutdown::Phase::kStarting);
  const auto threads = NetworkThreads::Limit(network_threads);
  if (!threads.ok()) LogWarning("%s", std::string(threads.status().message()));
  return ServeUntilShutdown(RouterNode::Start(options), shutdown,
                            std::chrono::milliseconds(drain_ms));
}

#pragma once
// What is wrong with the command line of `conclave up`, found before anything is started: else it
// would be said among the words of processes that end.

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace conclave::services::cli {

// Flags for the processes, as their command lines will have them.
struct ProcessFlags {
  std::vector<std::string> worker, router, scheduler;
};

// Whether a process would read `all`, and a worker take it. INVALID_ARGUMENT by the flag's name if
// not, and by that of the flag which passes it on verbatim unless it is one of `own`, which `up`
// has under the same name.
absl::Status CheckProcessFlags(const ProcessFlags& own, const ProcessFlags& all);

// INVALID_ARGUMENT by the flag's name: no address, or one that others can connect to although
// nobody said that they may. `router`: all flags of the routers.
absl::Status CheckListens(const std::string& grpc, const std::string& metrics,
                          const std::vector<std::string>& router);

}  // namespace conclave::services::cli

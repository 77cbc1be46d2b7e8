#pragma once
// Between what the scheduler knows of adapters and its messages, which are also what is stored.
// What comes in is checked here and trusted after. Pure functions; any thread.

#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "conclave/v1/cluster.pb.h"
#include "scheduler/adapter_register.h"
#include "scheduler/placement.h"

namespace conclave::services {

// stored: with what only the next scheduler needs.
v1::Adapter ToProto(const scheduler::AdapterRow& row, bool stored = false);
v1::AdapterOperation ToProto(const scheduler::AdapterOperation& operation, bool stored = false);

// What is stored. INVALID_ARGUMENT: by the name of what is none.
v1::AdapterCatalogue ToProto(const scheduler::AdapterRegister& stored);
absl::StatusOr<scheduler::AdapterRegister> FromProto(const v1::AdapterCatalogue& catalogue);

// What a worker's beat says of versions that it lacks: no more than kLacksMax of them.
inline constexpr int kLacksMax = 256;
void AddLacks(const std::map<std::string, std::string>& lacks, v1::HeartbeatRequest& beat);

v1::AdapterChecked ToProto(uint64_t check, const scheduler::FoundAdapter& found);
// A report that is none says so instead of what it reports.
scheduler::FoundAdapter FromProto(const v1::AdapterChecked& checked,
                                  const scheduler::PlacementLimits& limits = {});

}  // namespace conclave::services

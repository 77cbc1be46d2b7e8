#pragma once
// The adapters there are, the versions that drain, and what is being done with them: plain data,
// which a scheduler keeps on disk, and what can be told of it alone. Pure functions; any thread.

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "scheduler/adapter_operation.h"

namespace conclave::scheduler {

struct AdapterLimits {
  size_t names = 256;     // served, or about to be
  size_t versions = 512;  // likewise, those that drain included; at most what a placement may have
  size_t open = 32;       // operations
  size_t ended = 64;      // that are remembered
  size_t name = 64;       // bytes
  size_t source = 4096;
  size_t operation_id = 128;
  size_t message = 2048;
};

struct AdapterVersion {
  std::string source;
  std::vector<ExpertId> replaced;  // as PlacedAdapter's
  uint64_t bytes = 0;              // of its experts
  uint64_t shared_bytes = 0;       // of those that every worker holds
  bool on_disk = false;            // memory is not for it: it is not placed, or about to be no more
  bool operator==(const AdapterVersion&) const = default;
};

struct AdapterRegister {
  uint64_t last_number = 0;                                // given to operations and checks
  std::map<std::string, std::string> active;               // name to digest
  std::set<std::pair<std::string, std::string>> draining;  // name and digest
  std::map<std::string, AdapterVersion> versions;          // by digest: of both
  std::vector<AdapterOperation> operations;                // as they were begun; ended ones too
  bool operator==(const AdapterRegister&) const = default;
};

bool IsActive(const AdapterRegister& adapters, const std::string& digest);
const AdapterOperation* FindOperation(const AdapterRegister& adapters, std::string_view id);

struct AdapterRow {
  std::string name, digest;
  bool active = true;  // else it drains
  AdapterVersion version;
};
// By name, the active one first.
std::vector<AdapterRow> RowsOf(const AdapterRegister& adapters);

// What is said to who asks for an operation: the one that it is, or why it cannot be.
struct AdapterAnswer {
  std::string id;
  AdapterError error = AdapterError::kNone;
  std::string problem;
};
// The answer to an operation that was begun before (its id says so or, where it has none, an open
// one that is the same) or that cannot be begun. Nothing: it can.
std::optional<AdapterAnswer> AnswerOf(const AdapterRegister& adapters,
                                      const AdapterOperation& operation,
                                      const AdapterLimits& limits);

}  // namespace conclave::scheduler

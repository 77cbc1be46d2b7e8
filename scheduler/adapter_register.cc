#include "scheduler/adapter_register.h"

#include <algorithm>
#include <utility>

namespace conclave::scheduler {
namespace {

AdapterAnswer Refused(AdapterError error, std::string problem) {
  return {.error = error, .problem = std::move(problem)};
}

AdapterAnswer TooMany(size_t limit, const std::string& what) {
  return Refused(AdapterError::kFull, std::to_string(limit) + what + ", the limit");
}

// By content: an addition of the same source, or a removal, that is still open.
std::optional<AdapterAnswer> FindBegun(const AdapterRegister& adapters,
                                       const AdapterOperation& operation) {
  for (const AdapterOperation& begun : adapters.operations) {
    const bool same = begun.removes == operation.removes && begun.name == operation.name &&
                      begun.source == operation.source;
    if (!operation.id.empty() && begun.id == operation.id) {
      if (same) return AdapterAnswer{.id = begun.id};
      return Refused(AdapterError::kExists,
                     "operation_id: it is of another operation, on " + begun.name);
    }
    const bool undone = operation.removes && adapters.active.contains(operation.name);
    if (same && !undone && operation.id.empty() && IsOpen(begun.stage))
      return AdapterAnswer{.id = begun.id};
  }
  return std::nullopt;
}

// Of what is said; empty: nothing is wrong with it.
std::string ProblemOf(const AdapterOperation& operation, const AdapterLimits& limits) {
  if (operation.id.size() > limits.operation_id || operation.id.starts_with('#')) {
    return "operation_id: must not begin with '#' nor have more than " +
           std::to_string(limits.operation_id) + " bytes";
  }
  const std::string problem = ProblemOfAdapterName(operation.name, limits.name);
  if (!problem.empty()) return "name: " + problem;
  const std::string& source = operation.source;
  if (operation.removes || (source.starts_with('/') && source.size() <= limits.source &&
                            source.find('\0') == std::string::npos))
    return "";
  return "source: must be a directory's absolute path of at most " + std::to_string(limits.source) +
         " bytes";
}

AdapterAnswer JudgeAdd(const AdapterRegister& adapters, const AdapterOperation& operation,
                       const AdapterLimits& limits) {
  std::set<std::string> names = {operation.name};
  for (const auto& [name, digest] : adapters.active) names.insert(name);
  size_t versions = adapters.versions.size();
  for (const AdapterOperation& other : adapters.operations) {
    if (other.removes || !IsOpen(other.stage)) continue;
    names.insert(other.name);
    ++versions;
  }
  if (names.size() > limits.names) return TooMany(limits.names, " adapters are served");
  if (versions < limits.versions) return {};
  return TooMany(limits.versions, " versions of adapters are held, some of which may be draining");
}

AdapterAnswer Judge(const AdapterRegister& adapters, const AdapterOperation& operation,
                    const AdapterLimits& limits) {
  if (std::string problem = ProblemOf(operation, limits); !problem.empty())
    return Refused(AdapterError::kInvalid, std::move(problem));
  size_t open = 0;
  for (const AdapterOperation& other : adapters.operations) {
    if (!IsOpen(other.stage)) continue;
    ++open;
    if (other.name != operation.name || other.stage == AdapterStage::kDraining) continue;
    return Refused(AdapterError::kBusy, "operation " + other.id + " is changing adapter " +
                                            operation.name + ", ask again later");
  }
  if (open >= limits.open) return TooMany(limits.open, " operations on adapters are open");
  if (!operation.removes) return JudgeAdd(adapters, operation, limits);
  if (adapters.active.contains(operation.name)) return {};
  return Refused(AdapterError::kNotFound, "there is no adapter " + operation.name);
}

}  // namespace

bool IsActive(const AdapterRegister& adapters, const std::string& digest) {
  return std::any_of(adapters.active.begin(), adapters.active.end(),
                     [&](const auto& one) { return one.second == digest; });
}

const AdapterOperation* FindOperation(const AdapterRegister& adapters, std::string_view id) {
  for (const AdapterOperation& operation : adapters.operations) {
    if (operation.id == id) return &operation;
  }
  return nullptr;
}

std::optional<AdapterAnswer> AnswerOf(const AdapterRegister& adapters,
                                      const AdapterOperation& operation,
                                      const AdapterLimits& limits) {
  if (std::optional<AdapterAnswer> begun = FindBegun(adapters, operation)) return begun;
  AdapterAnswer refused = Judge(adapters, operation, limits);
  if (refused.error == AdapterError::kNone) return std::nullopt;
  return refused;
}

std::vector<AdapterRow> RowsOf(const AdapterRegister& adapters) {
  std::vector<AdapterRow> rows;
  const auto version = [&](const std::string& digest) {
    const auto found = adapters.versions.find(digest);
    return found == adapters.versions.end() ? AdapterVersion() : found->second;
  };
  for (const auto& [name, digest] : adapters.active)
    rows.push_back({.name = name, .digest = digest, .version = version(digest)});
  for (const auto& [name, digest] : adapters.draining)
    rows.push_back({.name = name, .digest = digest, .active = false, .version = version(digest)});
  std::stable_sort(rows.begin(), rows.end(),
                   [](const AdapterRow& a, const AdapterRow& b) { return a.name < b.name; });
  return rows;
}

}  // namespace conclave::scheduler

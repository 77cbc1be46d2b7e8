#include "services/convert_adapters.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "router/utf8.h"
#include "worker/status.h"

namespace conclave::services {
namespace {

using scheduler::AdapterError;
using scheduler::AdapterOperation;
using scheduler::AdapterRegister;
using scheduler::AdapterRow;
using scheduler::AdapterStage;
using scheduler::AdapterVersion;
using scheduler::ExpertId;
using scheduler::FoundAdapter;

constexpr int32_t kLastCode = 16;  // of gRPC's
constexpr size_t kMessageBytes = 2048;
constexpr size_t kLackBytes = 512;  // so that a beat has room for those of all versions

v1::AdapterStage ToProto(AdapterStage stage) {
  switch (stage) {
    case AdapterStage::kChecking:
      return v1::ADAPTER_STAGE_CHECKING;
    case AdapterStage::kPlacing:
      return v1::ADAPTER_STAGE_PLACING;
    case AdapterStage::kDraining:
      return v1::ADAPTER_STAGE_DRAINING;
    case AdapterStage::kDone:
      return v1::ADAPTER_STAGE_DONE;
    case AdapterStage::kFailed:
      return v1::ADAPTER_STAGE_FAILED;
  }
  return v1::ADAPTER_STAGE_UNSPECIFIED;
}

absl::StatusOr<AdapterStage> FromProto(v1::AdapterStage stage) {
  for (const AdapterStage known :
       {AdapterStage::kChecking, AdapterStage::kPlacing, AdapterStage::kDraining,
        AdapterStage::kDone, AdapterStage::kFailed}) {
    if (ToProto(known) == stage) return known;
  }
  return absl::InvalidArgumentError(absl::StrFormat("has the unknown stage %d", stage));
}

// Of a worker's, which names files: as a message may have it.
std::string Told(const std::string& message, size_t bytes) {
  const std::string text = message.substr(0, bytes);
  return router::IsUtf8(text) ? text : absl::CHexEscape(text);
}

bool IsDigest(const std::string& text, size_t limit) {
  return !text.empty() && text.size() <= limit && std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
  });
}

bool Ascending(const std::vector<ExpertId>& experts) {
  return std::adjacent_find(experts.begin(), experts.end(), std::greater_equal<>()) ==
         experts.end();
}

absl::StatusOr<AdapterOperation> FromProto(const v1::AdapterOperation& message) {
  CONCLAVE_ASSIGN_OR_RETURN(const AdapterStage stage, FromProto(message.stage()));
  AdapterOperation operation{
      .id = message.operation_id(),
      .removes = message.removes(),
      .name = message.name(),
      .source = message.source(),
      .stage = stage,
      .check = message.check(),
      .digest = message.digest(),
      .experts = {message.replaced_experts().begin(), message.replaced_experts().end()},
      .bytes = message.bytes(),
      .shared_bytes = message.shared_bytes(),
      .replaced = message.replaced(),
      .bytes_freed = message.bytes_freed(),
      .error = static_cast<AdapterError>(message.code()),
      .message = message.message()};
  if (operation.id.empty()) return absl::InvalidArgumentError("has no id");
  if (!Ascending(operation.experts))
    return absl::InvalidArgumentError("names its experts out of order or twice");
  if (operation.shared_bytes > operation.bytes)
    return absl::InvalidArgumentError("has more bytes of shared experts than of all");
  if (stage == AdapterStage::kPlacing && operation.experts.empty())
    return absl::InvalidArgumentError("places no experts");
  return operation;
}

absl::Status Take(const v1::Adapter& message, AdapterRegister* stored) {
  if (message.name().empty() || message.digest().empty())
    return absl::InvalidArgumentError("an adapter has no name or no version");
  AdapterVersion version{.source = message.source(),
                         .replaced = {message.replaced().begin(), message.replaced().end()},
                         .bytes = message.bytes(),
                         .shared_bytes = message.shared_bytes(),
                         .on_disk = message.on_disk()};
  if (!Ascending(version.replaced)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("adapter %s names its experts out of order or twice", message.name()));
  }
  if (version.shared_bytes > version.bytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("adapter %s has more bytes of shared experts than of all", message.name()));
  }
  stored->versions[message.digest()] = std::move(version);
  if (message.state() == v1::ADAPTER_STATE_DRAINING) {
    stored->draining.insert({message.name(), message.digest()});
    return absl::OkStatus();
  }
  if (stored->active.emplace(message.name(), message.digest()).second) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat("adapter %s has two versions", message.name()));
}

}  // namespace

v1::Adapter ToProto(const AdapterRow& row, bool stored) {
  v1::Adapter message;
  message.set_name(row.name);
  message.set_digest(row.digest);
  message.set_state(row.active ? v1::ADAPTER_STATE_ACTIVE : v1::ADAPTER_STATE_DRAINING);
  message.set_source(row.version.source);
  message.set_experts(static_cast<uint32_t>(row.version.replaced.size()));
  message.set_bytes(row.version.bytes);
  message.set_on_disk(row.version.on_disk);
  if (stored) message.set_shared_bytes(row.version.shared_bytes);
  if (!stored && !row.version.on_disk) return message;
  for (const ExpertId expert : row.version.replaced) message.add_replaced(expert);
  return message;
}

v1::AdapterOperation ToProto(const AdapterOperation& operation, bool stored) {
  v1::AdapterOperation message;
  message.set_operation_id(operation.id);
  message.set_name(operation.name);
  message.set_removes(operation.removes);
  message.set_source(operation.source);
  message.set_stage(ToProto(operation.stage));
  message.set_digest(operation.digest);
  message.set_replaced(operation.replaced);
  message.set_bytes(operation.bytes);
  message.set_bytes_freed(operation.bytes_freed);
  message.set_code(static_cast<int32_t>(operation.error));
  message.set_message(operation.message);
  if (!stored) return message;
  message.set_check(operation.check);
  message.set_shared_bytes(operation.shared_bytes);
  for (const ExpertId expert : operation.experts) message.add_replaced_experts(expert);
  return message;
}

v1::AdapterCatalogue ToProto(const AdapterRegister& stored) {
  v1::AdapterCatalogue message;
  for (const AdapterRow& row : RowsOf(stored))
    *message.add_adapters() = ToProto(row, /*stored=*/true);
  for (const AdapterOperation& operation : stored.operations)
    *message.add_operations() = ToProto(operation, /*stored=*/true);
  message.set_last_number(stored.last_number);
  return message;
}

absl::StatusOr<AdapterRegister> FromProto(const v1::AdapterCatalogue& catalogue) {
  AdapterRegister stored{.last_number = catalogue.last_number()};
  for (const v1::Adapter& adapter : catalogue.adapters())
    CONCLAVE_RETURN_IF_ERROR(Take(adapter, &stored));
  for (const v1::AdapterOperation& message : catalogue.operations()) {
    absl::StatusOr<AdapterOperation> operation = FromProto(message);
    if (!operation.ok()) {
      return absl::InvalidArgumentError(absl::StrFormat("operation \"%s\" on adapters %s",
                                                        message.operation_id(),
                                                        std::string(operation.status().message())));
    }
    stored.operations.push_back(*std::move(operation));
  }
  return stored;
}

void AddLacks(const std::map<std::string, std::string>& lacks, v1::HeartbeatRequest& beat) {
  for (const auto& [digest, why] : lacks) {
    if (beat.lacks_size() == kLacksMax) return;
    v1::AdapterLack& lack = *beat.add_lacks();
    lack.set_digest(digest);
    lack.set_why(Told(why, kLackBytes));
  }
}

v1::AdapterChecked ToProto(uint64_t check, const FoundAdapter& found) {
  v1::AdapterChecked message;
  message.set_check(check);
  message.set_digest(found.digest);
  for (const ExpertId expert : found.replaced) message.add_replaced(expert);
  message.set_bytes(found.bytes);
  message.set_shared_bytes(found.shared_bytes);
  message.set_code(static_cast<int32_t>(found.error));
  message.set_message(Told(found.message, kMessageBytes));
  return message;
}

FoundAdapter FromProto(const v1::AdapterChecked& checked,
                       const scheduler::PlacementLimits& limits) {
  const auto none = [](const std::string& why) {
    return FoundAdapter{.error = AdapterError::kInternal,
                        .message = "its report on the directory " + why};
  };
  if (checked.code() < 0 || checked.code() > kLastCode) return none("has an unknown code");
  if (checked.code() != 0) {
    return {.error = static_cast<AdapterError>(checked.code()),
            .message = checked.message().substr(0, kMessageBytes)};
  }
  if (!IsDigest(checked.digest(), limits.digest)) return none("has no digest");
  if (checked.replaced().empty()) return none("names no experts");
  if (static_cast<size_t>(checked.replaced_size()) > limits.experts)
    return none("names too many experts");
  if (checked.shared_bytes() > checked.bytes())
    return none("has more bytes of shared experts than of all");
  FoundAdapter found{.digest = checked.digest(),
                     .replaced = {checked.replaced().begin(), checked.replaced().end()},
                     .bytes = checked.bytes(),
                     .shared_bytes = checked.shared_bytes()};
  return Ascending(found.replaced) ? found : none("names experts out of order or twice");
}

}  // namespace conclave::services

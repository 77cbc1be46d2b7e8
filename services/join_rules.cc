#include "services/join_rules.h"

#include "absl/strings/str_format.h"
#include "services/address.h"
#include "services/convert_adapters.h"
#include "services/exchange/hello.h"
#include "services/exchange/peer_transport.h"
#include "services/identity.h"
#include "worker/status.h"

namespace conclave::services {
namespace {

using scheduler::Membership;
using scheduler::WorkerState;

constexpr size_t kMaxInfoBytes = 64 << 10;
constexpr size_t kMaxBeatBytes = 1 << 20;  // room for all peers lost, or an adapter of all experts
constexpr int kMaxInUse = 1024;            // versions of adapters
constexpr size_t kMaxDigestBytes = 128;
constexpr size_t kMaxWhyBytes = 2048;

// By the words of --exchange; who says none may take anything.
bool Reach(const std::string& one, const std::string& other) {
  const auto carrier = ParseCarrier(one), others = ParseCarrier(other);
  return !carrier.ok() || !others.ok() || GoTogether(*carrier, *others);
}

// Why the two cannot be of one cluster; empty if they can.
std::string Conflict(const v1::WorkerInfo& joins, const v1::WorkerInfo& member) {
  const v1::ModelInfo &ours = joins.model(), &theirs = member.model();
  if (ours.digest() != theirs.digest()) {
    return absl::StrFormat("worker %s serves %s (%s), worker %s serves %s (%s)", joins.id(),
                           ours.name(), ours.digest(), member.id(), theirs.name(), theirs.digest());
  }
  if (ours.numerics() != theirs.numerics()) {
    return absl::StrFormat("worker %s computes as %s, worker %s as %s; see %s", joins.id(),
                           ours.numerics(), member.id(), theirs.numerics(), kNumericsFlags);
  }
  if (joins.exchange_address().empty() || member.exchange_address().empty()) return "";
  // What one may send the other must take.
  const bool both_say = joins.step_tokens() > 0 && member.step_tokens() > 0;
  if (both_say && joins.step_tokens() != member.step_tokens()) {
    return absl::StrFormat("worker %s steps up to %d tokens, worker %s up to %d; see --step-tokens",
                           joins.id(), joins.step_tokens(), member.id(), member.step_tokens());
  }
  if (!Reach(joins.exchange(), member.exchange())) {
    return absl::StrFormat("worker %s exchanges rows by %s, worker %s by %s; see --exchange",
                           joins.id(), joins.exchange(), member.id(), member.exchange());
  }
  return "";
}

// What a worker's say on who may join is worth.
enum class Standing : uint8_t { kFirm, kUnsure, kNone };

Standing StandingOf(const Membership::Worker& worker) {
  switch (worker.state) {
    case WorkerState::kReady:
      return worker.heard ? Standing::kFirm : Standing::kUnsure;
    case WorkerState::kSuspect:  // one not heard since the scheduler started has had its time
      return worker.heard ? Standing::kUnsure : Standing::kNone;
    case WorkerState::kDraining:
    case WorkerState::kDead:
      break;
  }
  return Standing::kNone;
}

absl::Status ValidateLacks(const v1::HeartbeatRequest& beat) {
  if (beat.lacks_size() > kLacksMax) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "lacks: names %d versions of adapters, the limit is %d", beat.lacks_size(), kLacksMax));
  }
  for (const v1::AdapterLack& lack : beat.lacks()) {
    if (lack.digest().empty() || lack.digest().size() > kMaxDigestBytes ||
        lack.why().size() > kMaxWhyBytes)
      return absl::InvalidArgumentError("lacks: has what is no digest, or too long a reason");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ValidateUse(const v1::HeartbeatRequest& beat) {
  for (const auto& [name, digests] :
       {std::pair("in_use", &beat.in_use()), std::pair("waiting", &beat.waiting())}) {
    if (digests->size() > kMaxInUse) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "%s: names %d versions of adapters, the limit is %d", name, digests->size(), kMaxInUse));
    }
    for (const std::string& digest : *digests) {
      if (digest.empty() || digest.size() > kMaxDigestBytes)
        return absl::InvalidArgumentError(absl::StrFormat("%s: has what is no digest", name));
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateBeat(const v1::HeartbeatRequest& beat) {
  const v1::WorkerInfo& info = beat.worker();
  if (info.ByteSizeLong() > kMaxInfoBytes)
    return absl::InvalidArgumentError("worker: its description is too long");
  if (beat.ByteSizeLong() > kMaxBeatBytes)
    return absl::InvalidArgumentError("heartbeat: it is too long");
  CONCLAVE_RETURN_IF_ERROR(ValidateUse(beat));
  CONCLAVE_RETURN_IF_ERROR(ValidateLacks(beat));
  CONCLAVE_RETURN_IF_ERROR(ValidateId(info.id()));
  CONCLAVE_ASSIGN_OR_RETURN(const Address address, Address::Parse(info.address()));
  if (address.port == 0 || address.wildcard()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("worker.address: nobody can connect to %s", info.address()));
  }
  if (!info.exchange_address().empty())
    CONCLAVE_RETURN_IF_ERROR(Address::Parse(info.exchange_address()).status());
  if (!info.exchange().empty()) CONCLAVE_RETURN_IF_ERROR(ParseCarrier(info.exchange()).status());
  if (info.incarnation() == 0)
    return absl::InvalidArgumentError("worker.incarnation: must not be 0");
  return absl::OkStatus();
}

absl::Status MayJoin(const v1::WorkerInfo& joins, const std::vector<Membership::Worker>& workers,
                     const std::map<std::string, v1::WorkerInfo>& infos) {
  absl::Status wait;
  for (const Membership::Worker& worker : workers) {
    if (worker.id == joins.id()) continue;
    const auto found = infos.find(worker.id);
    if (found == infos.end()) continue;
    const std::string conflict = Conflict(joins, found->second);
    if (conflict.empty()) continue;
    switch (StandingOf(worker)) {
      case Standing::kFirm:
        return absl::FailedPreconditionError(conflict);
      case Standing::kUnsure:
        wait = absl::UnavailableError(absl::StrFormat(
            "%s; that one is silent: wait until it is heard or given up", conflict));
        break;
      case Standing::kNone:
        break;
    }
  }
  return wait;
}

}  // namespace conclave::services

#include "services/exchange/refusal_log.h"

#include "absl/strings/str_format.h"
#include "worker/model/safetensors.h"

namespace conclave::services {
namespace {

std::string Describe(const worker::FrameLimits& limits) {
  return absl::StrFormat("%s, %d layers, %d experts, width %d, up to %d rows and %d routes",
                         worker::TypeName(limits.type), limits.layers, limits.experts, limits.dim,
                         limits.rows, limits.routes);
}

std::string Describe(const std::string& id, uint64_t incarnation) {
  return absl::StrFormat("worker %s (incarnation %d)", id, incarnation);
}

const char* CarrierName(bool ring) { return ring ? "shm" : "tcp"; }

std::string WhyHere(const Hello& hello, Verdict verdict, const Hello& self, bool rings) {
  switch (verdict) {
    case Verdict::kWelcome:
      break;
    case Verdict::kNotAHello:
      return "what it sent is no hello";
    case Verdict::kVersion:
      return "it speaks another version of the exchange";
    case Verdict::kNotMe:
      return absl::StrFormat("it means %s, this is %s", Describe(hello.to_id, hello.to),
                             Describe(self.to_id, self.to));
    case Verdict::kUnknown:
      return "it is none of the cluster's workers, as far as this one has heard";
    case Verdict::kNumerics:
      return absl::StrFormat("it computes as %s, this worker as %s; see %s", hello.numerics,
                             self.numerics, kNumericsFlags);
    case Verdict::kLimits:
      return absl::StrFormat("its frames are of %s; taken are %s; see --step-tokens",
                             Describe(hello.limits), Describe(self.limits));
    case Verdict::kUnauthorized:
      return "it may not connect";
    case Verdict::kCarrier:
      return absl::StrFormat("it sends rows by %s, taken are rows by %s; see --exchange",
                             CarrierName(hello.ring.slots != 0), CarrierName(rings));
    case Verdict::kRing:
      return absl::StrFormat("what it handed over is no ring of %d frames and %d bytes",
                             hello.ring.slots, hello.ring.arena);
  }
  return std::string(NameOf(verdict));
}

std::string WhyThere(Verdict verdict, const Hello& sent) {
  const bool ring = sent.ring.slots != 0;
  switch (verdict) {
    case Verdict::kWelcome:
      break;
    case Verdict::kNotAHello:
      return "what arrived there was no hello";
    case Verdict::kVersion:
      return "it speaks another version of the exchange";
    case Verdict::kNotMe:
      return absl::StrFormat("it is not %s, which was meant", Describe(sent.to_id, sent.to));
    case Verdict::kUnknown:
      return "this one is none of the cluster's workers, as far as it has heard";
    case Verdict::kNumerics:
      return absl::StrFormat("this worker computes as %s, it does not; see %s", sent.numerics,
                             kNumericsFlags);
    case Verdict::kLimits:
      return absl::StrFormat(
          "this worker's frames are of %s, which are not what it takes; see --step-tokens",
          Describe(sent.limits));
    case Verdict::kUnauthorized:
      return "this worker may not connect";
    case Verdict::kCarrier:
      return absl::StrFormat("this worker sends rows by %s, it takes rows by %s; see --exchange",
                             CarrierName(ring), CarrierName(!ring));
    case Verdict::kRing:
      return absl::StrFormat("it found no ring of %d frames and %d bytes in what it was given",
                             sent.ring.slots, sent.ring.arena);
  }
  return std::string(NameOf(verdict));
}

bool Passes(const std::optional<Verdict>& verdict) {
  return verdict == Verdict::kUnknown || verdict == Verdict::kNotMe;
}

}  // namespace

void RefusalLog::Judged(const Hello& hello, Verdict verdict, const Hello& self,
                        const std::string& from, bool rings) {
  if (verdict == Verdict::kWelcome) return Forget(hello.from_id, Side::kHere);
  // What cannot be read has no name.
  const bool named = verdict != Verdict::kNotAHello && verdict != Verdict::kVersion;
  const std::string who =
      named ? absl::StrFormat("%s at %s", Describe(hello.from_id, hello.from), from) : from;
  Once({named ? hello.from_id : from, Side::kHere, verdict},
       absl::StrFormat("the exchange refuses %s: %s", who, WhyHere(hello, verdict, self, rings)));
}

void RefusalLog::KeptOut(const std::string& from) {
  Once({from, Side::kHere, Verdict::kUnauthorized},
       absl::StrFormat("the exchange refuses %s: it may not connect", from));
}

void RefusalLog::Answered(const worker::Peer& peer, Verdict verdict, const Hello& sent) {
  if (verdict == Verdict::kWelcome) return Forget(peer.id, Side::kThere);
  Once({peer.id, Side::kThere, verdict},
       absl::StrFormat("%s at %s refuses this worker's exchange: %s",
                       Describe(peer.id, peer.incarnation), peer.address, WhyThere(verdict, sent)));
}

void RefusalLog::Unanswered(const worker::Peer& peer, int attempts, bool rings) {
  Once({peer.id, Side::kThere, std::nullopt},
       absl::StrFormat("%s at %s has not answered this worker's exchange %d times%s",
                       Describe(peer.id, peer.incarnation), peer.address, attempts,
                       rings ? ": it is asked by shm alone, which reaches workers of this machine "
                               "that take it; see --exchange"
                             : ""));
}

void RefusalLog::Once(const Key& key, const std::string& what) {
  if (!tell_ || full_ || told_.contains(key)) return;
  full_ = told_.size() >= limit_;
  if (full_) return tell_(false, "the exchange refuses too many to name; the rest is only counted");
  told_.insert(key);
  tell_(Passes(std::get<2>(key)), what);
}

void RefusalLog::Forget(const std::string& who, Side side) {
  std::erase_if(
      told_, [&](const Key& key) { return std::get<0>(key) == who && std::get<1>(key) == side; });
}

}  // namespace conclave::services

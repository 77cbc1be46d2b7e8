#pragma once
// The requests a router has admitted and not forgotten: a LiveRequest for each completion, its
// place with router::Admission, and who has which id.
//
// Threads: no lock; its owner calls one method at a time.

#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "conclave/v1/worker.pb.h"
#include "router/admission.h"
#include "router/request.h"
#include "scheduler/types.h"
#include "services/homes.h"
#include "services/live_request.h"
#include "services/router_metrics.h"
#include "services/served_adapters.h"

namespace conclave::services {

using LiveRequests = std::vector<std::shared_ptr<LiveRequest>>;

class RequestTable {
 public:
  using Micros = scheduler::Micros;

  // A live request that is asked for once more: the new stream takes its place.
  struct Predecessor {
    LiveRequests requests;                     // to be ended, now that the new ones have their id
    std::vector<scheduler::TokenId> received;  // the first tokens of its only one, or nothing
    std::optional<uint64_t> home;
  };

  // owner and metrics outlive it, and all requests. least_margin: of an adapter that is chosen for
  // a request.
  RequestTable(const router::Admission::Options& admission, const LiveRequest::Options& request,
               router::AdapterNames adapters, double least_margin, LiveRequest::Owner* owner,
               RouterMetrics* metrics);

  // All there are, from now on.
  void SetAdapters(const std::vector<router::AdapterView>& adapters);
  const ServedAdapters& adapters() const { return adapters_; }
  // Requests that wait for their adapter to be in memory: for how long, since they came or, of one
  // that had a home, since that left memory; and what is said of it.
  struct MemoryWait {
    Micros waited{};
    std::shared_ptr<const std::string> what;
  };
  std::unordered_map<uint64_t, MemoryWait> MemoryWaits(Micros now) const;

  // Takes a place for each completion, or none: then the error says why, and `before` stays as it
  // is. It becomes what the predecessor knows otherwise. The adapter's version is decided here,
  // unless the request stays undecided(); the id and the seed are chosen where it has none.
  absl::StatusOr<LiveRequests> Admit(router::Request request, std::optional<Micros> deadline,
                                     const std::shared_ptr<LiveRequest::Reader>& reader,
                                     const ServedModel& served, Predecessor& before);
  // A score of the router's own for an undecided request, whose probe it is until one of both is
  // forgotten. What becomes of it is counted in `metrics`. CANCELLED: nobody knows the request.
  absl::StatusOr<std::shared_ptr<LiveRequest>> AdmitProbe(
      const LiveRequest& undecided, const std::shared_ptr<LiveRequest::Reader>& reader,
      RouterMetrics* metrics);
  // Decides the completions of an undecided request whose clients have not left, by what the gate
  // chose for its first tokens. RESOURCE_EXHAUSTED: the adapter has its limit of requests.
  absl::Status Decide(const LiveRequests& requests, const router::GateShares& gate,
                      const router::AutoRecord& probe);
  // Lets all of them wait whose clients have not left; each needs so much, and goes to `home` if it
  // can. RESOURCE_EXHAUSTED when that is too much together.
  absl::Status Enqueue(const LiveRequests& requests, const router::Admission::Need& need,
                       std::optional<uint64_t> home);
  // Its probe, to be ended; null: it has none.
  std::shared_ptr<LiveRequest> Forget(uint64_t key);

  bool has(uint64_t key) const { return live_.count(key) != 0; }
  const std::shared_ptr<LiveRequest>& at(uint64_t key) const { return live_.at(key); }
  bool empty() const { return live_.empty(); }
  LiveRequests all() const;

  // Where their places are. To be added to and removed from by this class alone.
  router::Admission& admission() { return admission_; }
  const router::Admission& admission() const { return admission_; }

 private:
  // Decides the version of its adapter, or that it is open; that of a live request with its id, if
  // it is the same one but for the version.
  absl::Status ChooseAdapter(router::Request& request, const std::string& base) const;
  // Who has the request's id, if that is the same request.
  Predecessor FindPredecessor(const router::Request& request) const;
  absl::Status Refuse(const router::Admission::Refusal& refusal);

  const LiveRequest::Options options_;
  const double least_margin_;
  LiveRequest::Owner* const owner_;
  RouterMetrics* const metrics_;
  ServedAdapters adapters_;
  router::Admission admission_;
  struct Away {
    Micros since{};
    std::shared_ptr<const std::string> what;
  };
  std::unordered_map<std::string, Away> away_;  // versions on disk, by digest
  std::unordered_map<uint64_t, std::shared_ptr<LiveRequest>> live_;
  std::unordered_map<uint64_t, uint64_t> probes_;  // keys of undecided requests to their probes'
  std::mt19937_64 random_;
  uint64_t last_key_ = 0;
};

}  // namespace conclave::services

#pragma once
// Fetches experts that the checkpoint at hand lacks from workers that have them: first from those
// that own them, then from all others that live, of which each is asked once; who is busy is asked
// again. What a worker sends counts once it is whole, sealed and of the SHA-256 told before it.
//
// Threads: Fetch from several, FetchFor from one, all else from any.

#include <grpcpp/client_context.h>

#include <array>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "conclave/v1/cluster.pb.h"
#include "conclave/v1/worker.grpc.pb.h"
#include "scheduler/placement.h"
#include "services/credentials.h"
#include "worker/experts/expert_store.h"

namespace conclave::services {

// Why a worker that was asked did not give an expert.
enum class FetchFailure : uint8_t {
  kBroken,      // it cannot be reached, broke off, or took too long
  kBusy,        // it gives as many as it may
  kNotThere,    // it has not got it
  kOtherModel,  // it serves another checkpoint
  kMalformed,   // it sent more, less or other than an expert is
  kCorrupt,     // the bytes are not those of the digest
  kNoMemory,    // here
};
inline constexpr size_t kFetchFailures = 7;
const char* NameOf(FetchFailure failure);

class ExpertReceiver;

class ExpertFetcher final : public worker::ExpertSource {
 public:
  struct Options {
    std::string self;  // this worker's id
    // For one worker to give one expert: so long, and a second for every so many bytes.
    std::chrono::milliseconds patience{5'000};
    uint64_t least_rate = 8 << 20;
    std::chrono::milliseconds longest{110'000};  // at most; givers allow little more
    int32_t message_bytes = 4 << 20;             // of what is sent at once
    // Where somebody was busy, all are asked again after a pause, for so long.
    std::chrono::milliseconds busy_pause{50};
    std::chrono::milliseconds busy_patience{20'000};
  };

  ExpertFetcher(const Options& options, const Credentials& credentials);

  // Who lives and who owns what. What is being fetched for a plan that the view no longer names
  // ends as CANCELLED.
  void SetView(const v1::ClusterView& view);
  // What is fetched from now on is for the plans of this view, a late one maybe.
  void FetchFor(const v1::ClusterView& view);
  // What is being fetched ends as CANCELLED, and nothing is fetched any more.
  void Stop();

  absl::StatusOr<worker::SealedMemory> Fetch(const Wanted& wanted) override;

  struct Stats {
    uint64_t experts = 0;  // fetched
    uint64_t bytes = 0;    // arrived, of failures too
    std::array<uint64_t, kFetchFailures> failures{};
  };
  Stats stats() const;

 private:
  struct Worker {
    std::string id;
    std::string address;
    std::shared_ptr<v1::Worker::Stub> stub;
  };
  struct Plans {
    uint64_t committed = 0, prepared = 0;
    bool Has(uint64_t plan) const { return plan == 0 || plan == committed || plan == prepared; }
  };
  struct Failed {
    FetchFailure why = FetchFailure::kBroken;
    std::string message;
  };

  static Plans PlansOf(const v1::ClusterView& view);
  void InterruptUnlessNamed();
  std::vector<Worker> SourcesOf(scheduler::ExpertId expert) const;
  std::optional<worker::SealedMemory> Ask(const Worker& worker, const Wanted& wanted,
                                          Failed& failed);
  grpc::Status Receive(const Worker& worker, const Wanted& wanted, ExpertReceiver& receiver,
                       absl::Status& taken);
  bool Begin(grpc::ClientContext* context);
  void End(grpc::ClientContext* context);
  void Note(const Worker& worker, const Wanted& wanted, const Failed& failed);
  bool Pause();

  const Options options_;
  const Credentials& credentials_;

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable wake_;
  std::vector<Worker> workers_;  // that live, without this one
  scheduler::Placement placement_;
  Plans told_, wanted_;
  bool interrupted_ = false;
  bool stopped_ = false;
  std::set<grpc::ClientContext*> calls_;
  Stats stats_;
};

}  // namespace conclave::services

#pragma once
// The weights of experts that a worker has at hand: in place in the checkpoint, converted from it,
// or, where the checkpoint at hand lacks them, in sealed memory that a source has filled. Who
// computes with an expert has seen Hold return and knows that nobody drops it; who reads its bytes
// for somebody else has a Loan, until whose end it stays.
//
// Threads: Hold and Drop one at a time; all else any.

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "scheduler/types.h"
#include "worker/experts/sealed_memory.h"
#include "worker/model/expert_layout.h"
#include "worker/model/model.h"

namespace conclave::worker {

// Where experts come from that are not in the checkpoint at hand.
class ExpertSource {
 public:
  struct Wanted {
    scheduler::ExpertId expert = 0;
    std::string name;    // for messages
    std::string model;   // its digest
    uint64_t bytes = 0;  // of an ExpertLayout
  };
  virtual ~ExpertSource() = default;
  // Sealed, of wanted.bytes, and verified. What it came to otherwise, naming whom it asked. Several
  // threads at once; may take its time.
  virtual absl::StatusOr<SealedMemory> Fetch(const Wanted& wanted) = 0;
};

class ExpertStore {
 public:
  struct Options {
    ExpertSource* source = nullptr;  // null: what is not at hand cannot be had
    int32_t fetches = 4;             // at once
    // Only what is held is computed with: the pages of other experts need not stay.
    bool placed = false;
  };

  // Model and source outlive it, and it outlives its loans.
  ExpertStore(const Options& options, const Model& model);
  ExpertStore(const ExpertStore&) = delete;
  ExpertStore& operator=(const ExpertStore&) = delete;

  // Makes experts ready to be computed, all or none of them. An error names the expert that could
  // not be had and why.
  absl::Status Hold(std::span<const scheduler::ExpertId> experts);
  // Gives back the memory of experts that nobody computes, once nobody reads them.
  void Drop(std::span<const scheduler::ExpertId> experts);

  // Reads of an expert that is at hand, held or not.
  class Loan {
   public:
    ~Loan();
    Loan(const Loan&) = delete;
    Loan& operator=(const Loan&) = delete;

    const ExpertBytes& bytes() const { return bytes_; }
    const FfnWeights& weights() const { return *store_.weights_[expert_]; }
    // Of the bytes; reads them all the first time.
    std::string Sha256() const;

   private:
    friend class ExpertStore;
    Loan(ExpertStore& store, scheduler::ExpertId expert);

    ExpertStore& store_;
    const scheduler::ExpertId expert_;
    const ExpertBytes bytes_;
  };
  // Converts it if it must be. INVALID_ARGUMENT: the model has no such expert; NOT_FOUND: it is not
  // at hand; or what Hold says of it.
  absl::StatusOr<std::unique_ptr<Loan>> Lend(scheduler::ExpertId expert);

  // "expert 37 (layer 4, slot 5)".
  std::string NameOf(scheduler::ExpertId expert) const;

  struct Stats {
    size_t absent = 0;   // experts that the checkpoint at hand lacks
    size_t fetched = 0;  // of those, in memory now
    uint64_t fetched_bytes = 0;
  };
  Stats stats() const;

 private:
  bool Absent(scheduler::ExpertId expert) const;
  absl::Status FetchAll(const std::vector<scheduler::ExpertId>& experts);
  absl::Status Fetch(scheduler::ExpertId expert);
  void DropNow(scheduler::ExpertId expert);
  void Return(scheduler::ExpertId expert);

  const Options options_;
  const Model& model_;
  const std::vector<const FfnWeights*> weights_;  // by id
  const ExpertLayout layout_;

  mutable std::mutex mutex_;  // guards what follows
  std::set<scheduler::ExpertId> held_;
  std::set<scheduler::ExpertId> fetched_;  // mapped where the model looks for them
  std::map<scheduler::ExpertId, int> lent_;
  std::set<scheduler::ExpertId> unwanted_;  // lent, and to be dropped when they are returned
  std::map<scheduler::ExpertId, std::string> digests_;
};

}  // namespace conclave::worker

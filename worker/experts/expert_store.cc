#include "worker/experts/expert_store.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <utility>

#include "absl/strings/str_format.h"
#include "scheduler/check.h"
#include "worker/model/absent_experts.h"
#include "worker/status.h"

namespace conclave::worker {

using scheduler::ExpertId;

ExpertStore::ExpertStore(const Options& options, const Model& model)
    : options_(options), model_(model), weights_(model.Experts()), layout_(model.spec) {
  CONCLAVE_CHECK(options.fetches > 0);
}

bool ExpertStore::Absent(ExpertId expert) const {
  return model_.absent != nullptr && model_.absent->Has(expert);
}

std::string ExpertStore::NameOf(ExpertId expert) const {
  const auto slots = static_cast<ExpertId>(model_.spec.gate.slots);
  ExpertId moe_layer = expert / slots;
  size_t layer = 0;
  while (!model_.spec.layers[layer].moe || moe_layer-- > 0) ++layer;
  return absl::StrFormat("expert %d (layer %d, slot %d)", expert, layer, expert % slots);
}

absl::Status ExpertStore::Hold(std::span<const ExpertId> experts) {
  std::vector<ExpertId> at_hand, missing, added;
  {
    const std::lock_guard lock(mutex_);
    for (const ExpertId expert : experts) {
      // From now on no loan's end drops it.
      if (held_.insert(expert).second) added.push_back(expert);
      unwanted_.erase(expert);
      if (!Absent(expert)) {
        at_hand.push_back(expert);
      } else if (!fetched_.contains(expert)) {
        missing.push_back(expert);
      }
    }
  }
  absl::Status held = FetchAll(missing);
  if (held.ok()) held = model_.HoldExperts(at_hand);
  if (held.ok()) return held;
  {
    const std::lock_guard lock(mutex_);
    for (const ExpertId expert : added) held_.erase(expert);
  }
  Drop(missing);
  return held;
}

absl::Status ExpertStore::FetchAll(const std::vector<ExpertId>& experts) {
  std::vector<absl::Status> results(experts.size());
  std::atomic<size_t> next = 0;
  std::atomic<bool> failed = false;
  const auto fetch = [&] {
    for (size_t i = next++; i < experts.size() && !failed; i = next++) {
      results[i] = Fetch(experts[i]);
      if (!results[i].ok()) failed = true;
    }
  };
  {
    const auto threads = std::min(static_cast<size_t>(options_.fetches), experts.size());
    std::vector<std::jthread> helpers;
    for (size_t i = 1; i < threads; ++i) helpers.emplace_back(fetch);
    fetch();
  }
  if (!failed) return absl::OkStatus();
  return *std::find_if(results.begin(), results.end(),
                       [](const absl::Status& result) { return !result.ok(); });
}

absl::Status ExpertStore::Fetch(ExpertId expert) {
  const std::string name = NameOf(expert);
  const auto fail = [&](const absl::Status& why) {
    return absl::Status(why.code(), absl::StrFormat("%s is not in the checkpoint at hand: %s", name,
                                                    std::string(why.message())));
  };
  if (options_.source == nullptr) return fail(absl::UnavailableError("there is nobody to ask"));
  const absl::StatusOr<SealedMemory> memory = options_.source->Fetch(
      {.expert = expert, .name = name, .model = model_.digest, .bytes = layout_.bytes()});
  if (!memory.ok()) return fail(memory.status());
  CONCLAVE_CHECK(memory->size() == layout_.bytes());
  const std::lock_guard lock(mutex_);
  if (const absl::Status mapped = memory->MapAt(model_.absent->PlaceOf(expert)); !mapped.ok()) {
    model_.absent->Remove(expert);
    return fail(mapped);
  }
  fetched_.insert(expert);
  return absl::OkStatus();
}

void ExpertStore::Drop(std::span<const ExpertId> experts) {
  const std::lock_guard lock(mutex_);
  std::vector<ExpertId> free;
  for (const ExpertId expert : experts) {
    held_.erase(expert);
    if (lent_.contains(expert)) {
      unwanted_.insert(expert);
    } else if (Absent(expert)) {
      DropNow(expert);
    } else {
      free.push_back(expert);
    }
  }
  model_.DropExperts(free);
}

// Under mutex_.
void ExpertStore::DropNow(ExpertId expert) {
  if (!Absent(expert)) {
    model_.DropExperts(std::span(&expert, 1));
  } else if (fetched_.erase(expert) > 0) {
    model_.absent->Remove(expert);
  }
}

absl::StatusOr<std::unique_ptr<ExpertStore::Loan>> ExpertStore::Lend(ExpertId expert) {
  if (expert >= weights_.size()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("expert %d: the model has %d", expert, weights_.size()));
  }
  {
    const std::lock_guard lock(mutex_);
    if (Absent(expert) && !fetched_.contains(expert))
      return absl::NotFoundError(NameOf(expert) + " is not at hand here");
    ++lent_[expert];
  }
  const absl::Status ready =
      Absent(expert) ? absl::OkStatus() : model_.HoldExperts(std::span(&expert, 1));
  if (!ready.ok()) {
    Return(expert);
    return ready;
  }
  return std::unique_ptr<Loan>(new Loan(*this, expert));
}

void ExpertStore::Return(ExpertId expert) {
  const std::lock_guard lock(mutex_);
  const auto lent = lent_.find(expert);
  if (--lent->second > 0) return;
  lent_.erase(lent);
  const bool unwanted = unwanted_.erase(expert) > 0;
  const bool idle = options_.placed && !held_.contains(expert) && !Absent(expert);
  if (unwanted || idle) DropNow(expert);
}

ExpertStore::Loan::Loan(ExpertStore& store, ExpertId expert)
    : store_(store), expert_(expert), bytes_(store.layout_, *store.weights_[expert]) {}

ExpertStore::Loan::~Loan() { store_.Return(expert_); }

std::string ExpertStore::Loan::Sha256() const {
  {
    const std::lock_guard lock(store_.mutex_);
    const auto known = store_.digests_.find(expert_);
    if (known != store_.digests_.end()) return known->second;
  }
  std::string digest = bytes_.Sha256();
  const std::lock_guard lock(store_.mutex_);
  return store_.digests_[expert_] = std::move(digest);
}

ExpertStore::Stats ExpertStore::stats() const {
  const std::lock_guard lock(mutex_);
  return {.absent = model_.absent == nullptr ? 0 : model_.absent->size(),
          .fetched = fetched_.size(),
          .fetched_bytes = fetched_.size() * layout_.bytes()};
}

}  // namespace conclave::worker

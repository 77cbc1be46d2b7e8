#pragma once
// The experts of a model that its checkpoint, as it is at hand, lacks: address space for each, of
// which no page exists until somebody brings its bytes. So a model's weights point where they
// always will, whether an expert is there or not.
//
// Threads: Reserve belongs to the thread that loads a model; mapping and Remove to one at a time.
// Who reads an expert's weights has seen it mapped and knows that nobody removes it.

#include <cstdint>
#include <map>

#include "absl/status/statusor.h"
#include "scheduler/types.h"
#include "worker/model/expert_layout.h"

namespace conclave::worker {

class AbsentExperts {
 public:
  explicit AbsentExperts(const ExpertLayout& layout) : layout_(layout) {}
  ~AbsentExperts();
  AbsentExperts(const AbsentExperts&) = delete;
  AbsentExperts& operator=(const AbsentExperts&) = delete;

  // Where its weights will be. RESOURCE_EXHAUSTED: no address space.
  absl::StatusOr<FfnWeights> Reserve(scheduler::ExpertId expert);

  bool empty() const { return places_.empty(); }
  size_t size() const { return places_.size(); }
  bool Has(scheduler::ExpertId expert) const { return places_.contains(expert); }
  const ExpertLayout& layout() const { return layout_; }

  // Where its layout().bytes() bytes are to be mapped, read only.
  void* PlaceOf(scheduler::ExpertId expert) const { return places_.at(expert); }
  // Gives back what was mapped there.
  void Remove(scheduler::ExpertId expert) const;

 private:
  const ExpertLayout layout_;
  std::map<scheduler::ExpertId, void*> places_;
};

}  // namespace conclave::worker

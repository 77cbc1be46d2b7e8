#include "worker/model/absent_experts.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_format.h"
#include "scheduler/check.h"

namespace conclave::worker {
namespace {

// A touch of it ends the process: it would be a use of an expert that nobody holds.
void* MapNothing(void* at, uint64_t bytes, int flags) {
  return mmap(at, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
}

}  // namespace

AbsentExperts::~AbsentExperts() {
  for (const auto& [expert, place] : places_) munmap(place, layout_.bytes());
}

absl::StatusOr<FfnWeights> AbsentExperts::Reserve(scheduler::ExpertId expert) {
  void* const place = MapNothing(nullptr, layout_.bytes(), 0);
  if (place == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("%d bytes of address space for expert %d: %s", layout_.bytes(), expert,
                        std::strerror(errno)));
  }
  CONCLAVE_CHECK(places_.emplace(expert, place).second);
  return layout_.At(static_cast<const char*>(place));
}

void AbsentExperts::Remove(scheduler::ExpertId expert) const {
  void* const place = places_.at(expert);
  CONCLAVE_CHECK(MapNothing(place, layout_.bytes(), MAP_FIXED) == place);
}

}  // namespace conclave::worker

#include "services/short_slice.h"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace conclave::services {
namespace {

constexpr unsigned kNoFlags = 0;

// The kernel's sched_attr, first version. Its header cannot be included beside the C library's.
struct Attributes {
  uint32_t size = sizeof(Attributes);
  uint32_t policy = 0;
  uint64_t flags = 0;
  int32_t nice = 0;
  uint32_t priority = 0;
  uint64_t runtime_ns = 0;  // of an ordinary thread: its slice
  uint64_t deadline_ns = 0;
  uint64_t period_ns = 0;
};
static_assert(sizeof(Attributes) == 48);

// Of the calling thread.
bool Get(Attributes& attributes) {
  return syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, kNoFlags) == 0;
}

}  // namespace

bool TakeShortSlices() {
  Attributes attributes;
  if (!Get(attributes)) return false;
  // Whoever started us with another policy meant it.
  if (attributes.policy != SCHED_OTHER) return true;
  attributes.runtime_ns = kShortSliceNs;
  return syscall(SYS_sched_setattr, 0, &attributes, kNoFlags) == 0;
}

uint64_t ThreadSlice() {
  Attributes attributes;
  return Get(attributes) && attributes.policy == SCHED_OTHER ? attributes.runtime_ns : 0;
}

}  // namespace conclave::services

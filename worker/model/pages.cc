#include "worker/model/pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>

namespace conclave::worker {

namespace {

void GiveBack(const void* data, size_t bytes) {
  static const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(data);
  const uintptr_t end = begin + bytes;
  const uintptr_t first = (begin + page - 1) / page * page, last = end / page * page;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}

}  // namespace

void GiveBackPages(const Weight& weight) {
  GiveBack(weight.data, weight.bytes());
  GiveBack(weight.scales, weight.scale_bytes());
}

}  // namespace conclave::worker

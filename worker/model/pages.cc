#include "worker/model/pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>

namespace conclave::worker {

void GiveBackPages(const Weight& weight) {
  static const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(weight.data);
  const uintptr_t end =
      begin + static_cast<size_t>(weight.rows * weight.cols) * SizeOf(weight.type);
  const uintptr_t first = (begin + page - 1) / page * page, last = end / page * page;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}

}  // namespace conclave::worker

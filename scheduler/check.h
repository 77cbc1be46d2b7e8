#pragma once
// CONCLAVE_CHECK: a broken promise of ours prints where and why, and aborts. Never for what comes
// from outside.

#include <cstdio>
#include <cstdlib>

namespace conclave::scheduler {

[[noreturn]] inline void CheckFailed(const char* file, int line, const char* what) {
  std::fprintf(stderr, "%s:%d: broken invariant: %s\n", file, line, what);
  std::fflush(stderr);
  std::abort();
}

}  // namespace conclave::scheduler

#define CONCLAVE_CHECK(condition)     \
  ((condition) ? static_cast<void>(0) \
               : ::conclave::scheduler::CheckFailed(__FILE__, __LINE__, #condition))

#pragma once
// Asks the kernel to let this process's threads run soon after they wake, for turns as short as it
// gives: messages are passed on in microseconds, and should not wait for the milliseconds that a
// thread which computes may keep a core. Their share of the cores stays what it was.
//
// Linux gives the shorter of two slices the earlier turn from 6.12 on (EEVDF, sched_setattr(2) of
// an ordinary thread); an older kernel ignores it. Call first thing in main: threads made later by
// the calling one inherit it. For processes that compute nothing for long: not for a worker.

#include <cstdint>

namespace conclave::services {

inline constexpr uint64_t kShortSliceNs = 100'000;  // the shortest that Linux takes

// False if the kernel would not hear of it, which costs latency beside busy threads and no more.
bool TakeShortSlices();

// The calling thread's slice in nanoseconds; 0: as the kernel thinks fit, or it does not say.
uint64_t ThreadSlice();

}  // namespace conclave::services

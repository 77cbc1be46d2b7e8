#include "worker/device/shared_device.h"

namespace conclave::worker {
namespace {

// About a microsecond: an operation is seldom longer, and a sleep costs many.
constexpr int kWatches = 64;

}  // namespace

void Turnstile::Enter() {
  const uint32_t mine = next_.fetch_add(1, std::memory_order_relaxed);
  for (int i = 0; i < kWatches; ++i) {
    if (serving_.load(std::memory_order_acquire) == mine) return;
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
  for (uint32_t now = serving_.load(std::memory_order_acquire); now != mine;
       now = serving_.load(std::memory_order_acquire)) {
    serving_.wait(now);
  }
}

void Turnstile::Leave() {
  serving_.fetch_add(1, std::memory_order_release);
  serving_.notify_all();
}

}  // namespace conclave::worker

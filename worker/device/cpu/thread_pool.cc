#include "worker/device/cpu/thread_pool.h"

#include <chrono>
#include <limits>

#include "scheduler/check.h"

namespace conclave::worker {
namespace {

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Watches until ready() or the time is up; false if it is up.
template <typename Ready>
bool Spin(int32_t spin_us, Ready ready) {
  if (ready()) return true;
  const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(spin_us);
  do {
    for (int i = 0; i < 32; ++i) {
      Pause();
      if (ready()) return true;
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

constexpr uint64_t kOneLoop = uint64_t{1} << 32;
constexpr uint64_t kTasks = kOneLoop - 1;

}  // namespace

ThreadPool::ThreadPool(const Options& options) : spin_us_(options.spin_us) {
  CONCLAVE_CHECK(options.threads >= 1);
  workers_.reserve(static_cast<size_t>(options.threads - 1));
  for (int thread = 1; thread < options.threads; ++thread) {
    workers_.emplace_back([this, thread] { Work(thread); });
  }
}

ThreadPool::~ThreadPool() {
  stopping_.store(true);
  claim_.fetch_add(kOneLoop);
  claim_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::Run(int64_t count, Call call, void* context) {
  if (workers_.empty() || count <= 1) {
    for (int64_t task = 0; task < count; ++task) call(context, 0, task);
    return;
  }
  CONCLAVE_CHECK(count <= std::numeric_limits<int32_t>::max());
  call_ = call;
  context_ = context;
  count_ = static_cast<uint32_t>(count);
  done_.store(0, std::memory_order_relaxed);
  const uint64_t loop = (claim_.load(std::memory_order_relaxed) & ~kTasks) + kOneLoop;
  claim_.store(loop | count_);
  claim_.notify_all();
  while (RunOne(0)) {
  }
  AwaitDone(static_cast<uint32_t>(count));
}

void ThreadPool::Work(int thread) {
  while (!stopping_.load(std::memory_order_relaxed)) {
    if (!RunOne(thread)) AwaitWork();
  }
}

// Claims and runs one task; false if none is left to claim.
bool ThreadPool::RunOne(int thread) {
  uint64_t claim = claim_.load(std::memory_order_acquire);
  do {
    if ((claim & kTasks) == 0) return false;
  } while (!claim_.compare_exchange_weak(claim, claim - 1, std::memory_order_acq_rel,
                                         std::memory_order_acquire));
  const uint32_t count = count_;
  call_(context_, thread, static_cast<int64_t>(count - (claim & kTasks)));
  if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 == count) done_.notify_one();
  return true;
}

void ThreadPool::AwaitWork() {
  const auto ready = [this] {
    return (claim_.load(std::memory_order_acquire) & kTasks) != 0 ||
           stopping_.load(std::memory_order_relaxed);
  };
  if (Spin(spin_us_, ready)) return;
  const uint64_t seen = claim_.load();
  if ((seen & kTasks) == 0 && !stopping_.load()) claim_.wait(seen);
}

void ThreadPool::AwaitDone(uint32_t count) {
  const auto ready = [&] { return done_.load(std::memory_order_acquire) == count; };
  if (Spin(spin_us_, ready)) return;
  for (uint32_t seen = done_.load(std::memory_order_acquire); seen != count;
       seen = done_.load(std::memory_order_acquire)) {
    done_.wait(seen);
  }
}

}  // namespace conclave::worker

#pragma once
// Says what is due, a tick's worth at a time: the pace of everything that stands for a computation
// here. One thread of its own, which calls `due`; At from any thread, from within `due` too.

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <queue>
#include <thread>
#include <utility>
#include <vector>

namespace conclave::services::bench {

using Clock = std::chrono::steady_clock;

class Pacer {
 public:
  using Due = std::function<void(const std::vector<uint64_t>& ids)>;

  Pacer(std::chrono::microseconds tick, Due due);
  ~Pacer();

  void At(Clock::time_point when, uint64_t id);

 private:
  using Entry = std::pair<Clock::time_point, uint64_t>;
  void Run();

  const std::chrono::microseconds tick_;
  const Due due_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::priority_queue<Entry, std::vector<Entry>, std::greater<>> entries_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace conclave::services::bench

#pragma once
// A few threads for work that is too long for a network thread (tokenising a long prompt), behind a
// bounded queue.

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace conclave::services {

class WorkPool {
 public:
  WorkPool(int threads, size_t queue_limit);
  ~WorkPool();  // finishes what is queued

  // False, without effect, when the queue is full. Any thread.
  bool Post(std::function<void()> work);

 private:
  void Run();

  const size_t queue_limit_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> queue_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace conclave::services

#pragma once
// A fixed set of compute threads for data-parallel loops; the caller is one of them.
//
// For() is called by one thread at a time and never from inside a body. It allocates nothing. Tasks
// are claimed one by one, so a thread the system has put aside delays nobody but the task it holds;
// which thread runs a task is unspecified, and no result may depend on it.

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace conclave::worker {

class ThreadPool {
 public:
  struct Options {
    int threads = 1;       // the caller included; 1 runs everything inline
    int32_t spin_us = 50;  // how long an idle thread watches for work before it sleeps
  };

  explicit ThreadPool(const Options& options);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Runs body(thread, task) for every task in [0, count), thread in [0, threads()); returns when
  // all are done.
  template <typename Body>
  void For(int64_t count, Body&& body) {
    auto call = [](void* context, int thread, int64_t task) {
      (*static_cast<std::remove_reference_t<Body>*>(context))(thread, task);
    };
    Run(count, call, &body);
  }

 private:
  using Call = void (*)(void* context, int thread, int64_t task);

  void Run(int64_t count, Call call, void* context);
  void Work(int thread);
  bool RunOne(int thread);
  void AwaitWork();
  void AwaitDone(uint32_t count);

  const int32_t spin_us_;
  std::atomic<bool> stopping_{false};

  // The current loop. `call_`, `context_` and `count_` are written before `claim_` announces them
  // and read only by a thread that holds an unfinished task, so they cannot change under it.
  Call call_ = nullptr;
  void* context_ = nullptr;
  uint32_t count_ = 0;
  alignas(64) std::atomic<uint64_t> claim_{0};  // number of the loop << 32 | tasks not yet claimed
  alignas(64) std::atomic<uint32_t> done_{0};   // tasks finished

  std::vector<std::thread> workers_;
};

}  // namespace conclave::worker

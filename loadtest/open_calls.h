#pragma once
// The calls that are open, to be counted, waited for and cancelled; and for a closed loop, the
// slots that they leave. Any thread.

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_set>
#include <vector>

#include "loadtest/request.h"

namespace conclave::loadtest {

// What is needed to cancel a stream that may be ending at the same time.
struct Call {
  grpc::ClientContext context;
  std::atomic<bool> cancelled{false};  // by us

  void Cancel() {
    cancelled = true;
    context.TryCancel();
  }
};

class OpenCalls {
 public:
  void Add(const std::shared_ptr<Call>& call) {
    const std::lock_guard lock(mutex_);
    open_.insert(call);
  }
  // A context holds its channel, and the last channel of a process must not go on one of gRPC's own
  // threads, for it waits for them. So the context goes here, before a waiter may let go of the
  // channel; and the waiter may destroy this as soon as the lock is free.
  void Remove(std::shared_ptr<Call> call) {
    const std::lock_guard lock(mutex_);
    open_.erase(call);
    call.reset();
    if (closed_loop_) free_.push_back(Clock::now());
    changed_.notify_all();
  }
  size_t size() {
    const std::lock_guard lock(mutex_);
    return open_.size();
  }
  // True once fewer than `count` are open; false at `until`.
  bool WaitForFewerThan(size_t count, Clock::time_point until) {
    std::unique_lock lock(mutex_);
    return changed_.wait_until(lock, until, [&] { return open_.size() < count; });
  }
  // Makes it a closed loop of so many slots, free since then. Each call that ends frees one more.
  void AddSlots(size_t count, Clock::time_point since) {
    const std::lock_guard lock(mutex_);
    closed_loop_ = true;
    free_.insert(free_.end(), count, since);
  }
  // Takes the slot that has been free the longest and says since when; nothing at `until`.
  std::optional<Clock::time_point> TakeSlot(Clock::time_point until) {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_until(lock, until, [&] { return !free_.empty(); })) return std::nullopt;
    const Clock::time_point since = free_.front();
    free_.pop_front();
    return since;
  }
  // Cancels without the lock, for gRPC may run a call's last reaction on this very thread.
  void CancelAll() {
    std::unique_lock lock(mutex_);
    const std::vector<std::shared_ptr<Call>> calls(open_.begin(), open_.end());
    lock.unlock();
    for (const std::shared_ptr<Call>& call : calls) call->Cancel();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::unordered_set<std::shared_ptr<Call>> open_;
  bool closed_loop_ = false;
  std::deque<Clock::time_point> free_;  // slots, since when
};

}  // namespace conclave::loadtest

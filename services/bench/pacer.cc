#include "services/bench/pacer.h"

namespace conclave::services::bench {

Pacer::Pacer(std::chrono::microseconds tick, Due due)
    : tick_(tick), due_(std::move(due)), thread_([this] { Run(); }) {}

Pacer::~Pacer() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

void Pacer::At(Clock::time_point when, uint64_t id) {
  const std::lock_guard lock(mutex_);
  entries_.emplace(when, id);
  if (entries_.size() == 1) wake_.notify_all();
}

void Pacer::Run() {
  std::vector<uint64_t> ids;
  Clock::time_point next = Clock::now();
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    if (entries_.empty()) {
      wake_.wait(lock);
      continue;
    }
    next = std::max(next + tick_, Clock::now());
    wake_.wait_until(lock, next, [this] { return stopping_; });
    ids.clear();
    while (!entries_.empty() && entries_.top().first <= next) {
      ids.push_back(entries_.top().second);
      entries_.pop();
    }
    if (ids.empty()) continue;
    lock.unlock();
    due_(ids);
    lock.lock();
  }
}

}  // namespace conclave::services::bench

#include "services/view_inbox.h"

#include <algorithm>
#include <utility>

namespace conclave::services {

ViewInbox::ViewInbox(const Options& options, Follow follow)
    : options_(options), follow_(std::move(follow)), thread_([this] { Run(); }) {}

ViewInbox::~ViewInbox() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

void ViewInbox::Put(const v1::ClusterView& view) {
  {
    const std::lock_guard lock(mutex_);
    next_ = view;
  }
  wake_.notify_all();
}

void ViewInbox::Run() {
  v1::ClusterView view;
  bool followed = true;
  auto retry = options_.retry_min;
  const auto due = [this] { return stopping_ || next_.has_value(); };
  std::unique_lock lock(mutex_);
  while (true) {
    if (followed) {
      wake_.wait(lock, due);
    } else if (!wake_.wait_for(lock, retry, due)) {
      retry = std::min(retry * 2, options_.retry_max);
    }
    if (stopping_) return;
    if (next_) {
      view = *std::exchange(next_, std::nullopt);
      retry = options_.retry_min;
    }
    lock.unlock();
    followed = follow_(view);
    lock.lock();
  }
}

}  // namespace conclave::services

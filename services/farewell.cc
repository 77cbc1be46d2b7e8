#include "services/farewell.h"

#include <utility>

namespace conclave::services {

void Farewell::Tell(std::function<void()> tell) {
  {
    std::lock_guard lock(mutex_);
    if (holding_) {
      held_.push_back(std::move(tell));
      return;
    }
  }
  tell();
}

void Farewell::Hold() {
  std::lock_guard lock(mutex_);
  holding_ = true;
}

void Farewell::Release() {
  std::vector<std::function<void()>> held;
  {
    std::lock_guard lock(mutex_);
    holding_ = false;
    held.swap(held_);
  }
  for (const auto& tell : held) tell();
}

}  // namespace conclave::services

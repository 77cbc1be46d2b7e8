#include "services/exchange/body_pool.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <utility>

#include "scheduler/check.h"
#include "worker/experts/frame.h"

namespace conclave::services {
namespace {

constexpr size_t kLeastBytes = 4096;

size_t ClassOf(size_t size) {
  return static_cast<size_t>(std::bit_width(std::max(size, kLeastBytes) - 1));
}

}  // namespace

std::shared_ptr<BodyPool> BodyPool::Make(size_t limit_bytes) {
  return std::shared_ptr<BodyPool>(new BodyPool(limit_bytes));
}

BodyPool::~BodyPool() {
  for (const std::vector<std::byte*>& buffers : free_) {
    for (std::byte* buffer : buffers) std::free(buffer);
  }
}

std::optional<worker::FrameBody> BodyPool::Take(size_t size) {
  const size_t kind = ClassOf(size);
  CONCLAVE_CHECK(kind < kClasses);
  std::byte* data = nullptr;
  {
    const std::lock_guard lock(mutex_);
    if (out_ != 0 && out_ + size > limit_) return std::nullopt;
    out_ += size;
    if (!free_[kind].empty()) {
      data = free_[kind].back();
      free_[kind].pop_back();
    }
  }
  if (data == nullptr) {
    data = static_cast<std::byte*>(std::aligned_alloc(worker::kFrameAlignment, size_t{1} << kind));
  }
  CONCLAVE_CHECK(data != nullptr);
  return worker::FrameBody(shared_from_this(), data, size);
}

void BodyPool::WhenGivenBack(std::function<void()> callback) {
  const std::lock_guard lock(mutex_);
  callback_ = std::move(callback);
  if (out_ == 0) CallBack();
}

void BodyPool::Release(std::byte* data, size_t size) {
  {
    const std::lock_guard lock(mutex_);
    out_ -= size;
    std::vector<std::byte*>& kept = free_[ClassOf(size)];
    if (kept.size() < kKept) {
      kept.push_back(data);
      data = nullptr;
    }
    CallBack();
  }
  std::free(data);
}

void BodyPool::CallBack() {
  if (const auto callback = std::exchange(callback_, nullptr)) callback();
}

}  // namespace conclave::services

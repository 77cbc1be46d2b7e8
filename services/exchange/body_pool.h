#pragma once
// Memory for bodies on their way through a connection: buffers that are used again, at most so many
// bytes out at a time. Any thread.

#include <array>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "worker/experts/transport.h"

namespace conclave::services {

class BodyPool final : public worker::FrameBody::Owner,
                       public std::enable_shared_from_this<BodyPool> {
 public:
  // limit_bytes: of all bodies that are out.
  static std::shared_ptr<BodyPool> Make(size_t limit_bytes);
  ~BodyPool() override;

  // Aligned to 64. Nothing when there is no room; a body alone always has.
  std::optional<worker::FrameBody> Take(size_t size);
  // Calls once, on the thread that gives the next body back; at once if none is out. The callback
  // must not use the pool. Null: nobody is to be called any more, nor is being called.
  void WhenGivenBack(std::function<void()> callback);

  void Release(std::byte* data, size_t size) override;

 private:
  static constexpr size_t kClasses = 33;  // capacities are powers of two
  static constexpr size_t kKept = 4;      // unused buffers of each

  explicit BodyPool(size_t limit_bytes) : limit_(limit_bytes) {}
  void CallBack();  // mutex_ held

  const size_t limit_;
  std::mutex mutex_;  // guards what follows
  size_t out_ = 0;    // bytes
  std::array<std::vector<std::byte*>, kClasses> free_;
  std::function<void()> callback_;
};

}  // namespace conclave::services

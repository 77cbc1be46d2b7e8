#pragma once
// The last refusals of a server that is about to close. gRPC cancels, without a word, a call that
// arrives while it shuts down; a client that asks again at once would run into that. So from Hold
// on refusals wait, and Release tells them when connections already know that the server goes away.
// Any thread.

#include <functional>
#include <mutex>
#include <vector>

namespace conclave::services {

class Farewell {
 public:
  // Runs `tell` now, or once Release is called.
  void Tell(std::function<void()> tell);
  void Hold();
  void Release();

 private:
  std::mutex mutex_;
  bool holding_ = false;
  std::vector<std::function<void()>> held_;  // bounded by the server's streams
};

}  // namespace conclave::services

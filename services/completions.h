#pragma once
// The completions of one request, each a LiveRequest, as the one stream its client reads: what any
// of them has is given in turns, and it ends when all have, or with the first error.
//
// Threads: one at a time calls Take; Cancel from any. Neither may be called with a lock held that
// a Reader takes: asking one completion may start others.

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "services/live_request.h"

namespace conclave::services {

class Completions {
 public:
  // All of one request, in the order of their index; at least one.
  explicit Completions(std::vector<std::shared_ptr<LiveRequest>> completions);

  struct Part {
    const LiveRequest& completion;
    uint32_t index = 0;
    LiveRequest::Output output;  // last: nothing follows of any completion
  };
  // What is there now. A call says also that what the last one gave is on its way no more.
  std::optional<Part> Take();

  void Cancel();

  const std::vector<std::shared_ptr<LiveRequest>>& all() const { return completions_; }

 private:
  Part PartOf(size_t index, LiveRequest::Output output);

  const std::vector<std::shared_ptr<LiveRequest>> completions_;
  size_t last_taken_ = 0;
  size_t ended_ = 0;
  bool failed_ = false;
};

}  // namespace conclave::services

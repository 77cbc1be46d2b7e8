#pragma once
// What the router knows of one worker when it looks for a home: what the cluster says, what the
// link says, and what this router has given it. Plain data; any thread.

#include <cstdint>
#include <string>

namespace conclave::router {

struct WorkerView {
  uint64_t key = 0;      // the router's own number of the link; never used twice
  std::string id;        // stable name
  std::string model;     // digest and numerics: equal means interchangeable
  bool ready = false;    // linked, greeted, not draining
  bool suspect = false;  // the scheduler has not heard from it; used only when there is nobody else
  int32_t requests = 0;  // this router's, on it now
  int64_t tokens = 0;    // prompt + max_tokens of those
};

}  // namespace conclave::router

#pragma once
// What the router knows of one worker when it looks for a home: what the cluster says, what the
// link says, and what this router has given it. Plain data; any thread.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace conclave::router {

struct WorkerView {
  uint64_t key = 0;      // the router's own number of the link; never used twice
  std::string id;        // stable name
  std::string model;     // digest and numerics: equal means interchangeable
  bool ready = false;    // linked, greeted, not draining
  bool suspect = false;  // the scheduler has not heard from it; used only when there is nobody else
  int32_t requests = 0;  // this router's, on it now
  int64_t tokens = 0;    // prompt + max_tokens of those
  // As it said last.
  std::optional<uint64_t> credit;       // sequences it takes yet; it does not say: any number
  std::optional<int64_t> room;          // positions of KV blocks that no sequence holds
  std::vector<std::string> finds_late;  // ids of workers that it passes over for now
  bool late = false;                    // what the others say of it: NoteLate
  bool lacks = false;                   // an expert that its sequences wait for
};

}  // namespace conclave::router

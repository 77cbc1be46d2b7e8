#pragma once
// How many threads carry out the reactions of gRPC's callback API, servers' and clients', in this
// process. gRPC 1.51 makes half as many as there are cores, at least 2 and at most 16, and lets
// nobody choose. They take turns at one set of sockets: whoever hears of something wakes another
// one to listen instead, and every write that is done wakes it again. What a reaction here takes is
// less than that costs.

#include <memory>

#include "absl/status/statusor.h"

namespace conclave::services {

class NetworkThreads {
 public:
  // Leaves so many of them to work, the others waiting until this ends; at least one. Without
  // effect where there are no more, or none that are known. UNAVAILABLE, without effect: gRPC does
  // not go on without them.
  static absl::StatusOr<std::unique_ptr<NetworkThreads>> Limit(int threads);
  ~NetworkThreads();  // on a thread of ours, as gRPC's would wait for itself

  int held() const { return held_; }

 private:
  class Calls;

  NetworkThreads();

  std::unique_ptr<Calls> calls_;
  int held_ = 0;
};

}  // namespace conclave::services

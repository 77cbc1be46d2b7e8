#pragma once
// How many threads carry out the reactions of gRPC's callback API, servers' and clients', in this
// process. gRPC 1.51 makes half as many as there are cores, at least 2 and at most 16, and lets
// nobody choose. They take turns at one set of sockets: whoever hears of something wakes another
// one to listen instead, and every write that is done wakes it again. What a reaction here takes is
// less than that costs.
//
// gRPC has no way to ask for fewer, so this one makes the others wait, each inside a reaction of
// ours: to a call that leads nowhere and fails at once. The threads are found by the name that gRPC
// gives them. That is 1.51's way; another version may have other threads, which shows as held() ==
// 0 or as UNAVAILABLE, and all goes on with as many as gRPC makes.

#include <chrono>
#include <memory>

#include "absl/status/statusor.h"

namespace conclave::services {

class NetworkThreads {
 public:
  // Leaves so many of them to work, at least one, the others waiting until this ends. Without
  // effect where there are no more, or none that are known. UNAVAILABLE, without effect: with fewer
  // gRPC carries out no calls, or not within `patience`. Before anything that must be answered
  // soon, as calls wait while it is found out.
  static absl::StatusOr<std::unique_ptr<NetworkThreads>> Limit(
      int threads, std::chrono::milliseconds patience = std::chrono::seconds(10));
  ~NetworkThreads();  // on a thread of ours, as gRPC's would wait for itself

  int held() const { return held_; }

 private:
  class Calls;

  explicit NetworkThreads(std::chrono::milliseconds patience);

  std::unique_ptr<Calls> calls_;
  int held_ = 0;
};

}  // namespace conclave::services

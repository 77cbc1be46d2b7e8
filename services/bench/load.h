#pragma once
// Clients of a router, or of what stands in for one: many streams over a few connections. Main
// thread; calls are carried on by gRPC's.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "conclave/v1/inference.grpc.pb.h"
#include "services/bench/flights.h"

namespace conclave::services::bench {

class Load {
 public:
  struct Counts {
    uint64_t open = 0;      // calls that have not ended
    uint64_t served = 0;    // ended well, with all their tokens
    uint64_t failed = 0;    // all others
    uint64_t messages = 0;  // that had tokens
    std::string why;        // of the first that failed
  };

  Load(const std::string& address, int connections);
  ~Load();  // cancels what is open

  // One request for each of the flights, at random moments (Poisson) with so many a second in the
  // mean, whatever becomes of those before. Returns when the last has begun.
  void Begin(const std::shared_ptr<Flights>& flights, double per_second, uint64_t seed);
  // Until none is open; then what came of all since the last call.
  Counts Finish();
  Counts counts() const;
  void Cancel();

  // A single request, to see whether requests are served.
  bool Try();

 private:
  class Call;
  struct State;

  v1::GenerateRequest request_;
  std::vector<std::unique_ptr<v1::Inference::Stub>> stubs_;
  std::unique_ptr<State> state_;
};

}  // namespace conclave::services::bench

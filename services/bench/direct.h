#pragma once
// What one hop of gRPC takes: a server of the same protocol as the router's that makes the tokens
// itself, as NullWorker does, each stream's as they are due. Any thread.

#include <chrono>
#include <memory>
#include <string>

#include "services/bench/flights.h"

namespace conclave::services::bench {

class Direct {
 public:
  explicit Direct(std::chrono::microseconds tick);
  ~Direct();

  const std::string& address() const { return address_; }
  // As NullWorker's.
  void Serve(std::shared_ptr<Flights> flights, std::chrono::microseconds pace);

 private:
  class Service;

  std::string address_;
  std::unique_ptr<Service> service_;
};

}  // namespace conclave::services::bench

#pragma once
// A worker that computes nothing: it speaks the worker's side of the link to the router, answers a
// sequence with its first token at once and with the others at a pace, and says in one message what
// a tick has for all sequences of a link. Any thread.

#include <chrono>
#include <memory>
#include <string>

#include "services/bench/flights.h"

namespace conclave::services::bench {

class NullWorker {
 public:
  struct Options {
    std::chrono::microseconds tick{1000};
    uint32_t vocab_size = 0;
  };
  explicit NullWorker(const Options& options);
  ~NullWorker();  // after its router

  const std::string& address() const { return address_; }
  // Of the sequences to come: where what is sent is noted, and from token to token.
  void Serve(std::shared_ptr<Flights> flights, std::chrono::microseconds pace);

 private:
  class Service;

  std::string address_;
  std::unique_ptr<Service> service_;
};

}  // namespace conclave::services::bench

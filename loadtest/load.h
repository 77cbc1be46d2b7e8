#pragma once
// Runs a load test: sends requests when their time has come (open loop) or when an earlier one has
// ended (closed loop), and measures the answers. Streams are gRPC callback reactors spread over a
// few channels; one thread sends, gRPC's threads receive. Request, prompt and seed of the n-th
// request depend on n and Options::seed alone, so two runs ask the same.

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "loadtest/prompts.h"
#include "loadtest/results.h"
#include "services/credentials.h"

namespace conclave::loadtest {

struct Options {
  std::string server;  // HOST:PORT
  services::Credentials credentials;
  double rate = 0;           // arrivals per second of the open loop; 0: closed loop
  uint32_t concurrency = 1;  // streams of the closed loop
  uint64_t requests = 0;     // 0: until `duration` has passed
  std::chrono::duration<double> duration{0};  // 0: until `requests` were sent
  uint64_t seed = 0;
  uint32_t max_tokens = 128;  // this and the next two where a prompt says nothing else
  float temperature = 0;
  bool ignore_eos = false;
  std::chrono::duration<double> timeout{60};  // of one request
  double cancel_fraction = 0;                 // of requests, cancelled at a random token
  uint32_t slow_readers = 0;                  // further streams that are opened and never read
  uint32_t channels = 8;                      // connections
  uint64_t in_flight_limit = 10'000;  // open streams; an arrival beyond is counted, not sent
};

// Sends, waits for the answers and returns what was seen. `prompts` is not empty. Once `stop` is
// true nothing is sent any more and open streams are cancelled, within a tenth of a second.
Results RunLoad(const Options& options, std::span<const Prompt> prompts,
                const std::atomic<bool>& stop);

}  // namespace conclave::loadtest

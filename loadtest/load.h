#pragma once
// Runs a load test: sends requests when their time has come (open loop) or when an earlier one has
// ended (closed loop), and measures the answers. Streams are gRPC callback reactors spread over a
// few channels; one thread sends, gRPC's threads receive, and each action that is due has a thread.
// What the n-th request is depends on n, its phase and Options::seed alone, so two runs ask the
// same.

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "loadtest/action.h"
#include "loadtest/results.h"
#include "loadtest/samples.h"
#include "loadtest/workload.h"
#include "services/credentials.h"

namespace conclave::loadtest {

struct Options {
  std::string server;  // HOST:PORT
  services::Credentials credentials;
  // Open loop: as the workload's phases or its trace say, or else so many arrivals per second;
  // closed loop if nothing says so.
  double rate = 0;
  std::optional<double> rate_end;  // what the rate has become by the end of `duration`
  double variation = 1;            // of the gaps between arrivals; 1: a Poisson process
  double trace_speed = 1;
  uint32_t concurrency = 1;                   // streams of the closed loop
  uint64_t requests = 0;                      // 0: until `duration` has passed
  std::chrono::duration<double> duration{0};  // 0: until `requests` were sent
  uint64_t seed = 0;
  uint32_t max_tokens = 128;  // this and the next two where a prompt says nothing else
  float temperature = 0;
  bool ignore_eos = false;
  std::chrono::duration<double> timeout{60};  // of one request
  double cancel_fraction = 0;                 // of requests, cancelled at a random token
  double slow_fraction = 0;                   // of requests, read at `slow_rate`
  double slow_rate = 1;                       // tokens per second
  uint32_t slow_readers = 0;                  // further streams that are opened and never read
  uint32_t channels = 8;                      // connections
  uint64_t in_flight_limit = 10'000;  // open streams; an arrival beyond is counted, not sent
  Objectives objectives;
  std::vector<Action> actions;
  SampleFile* samples = nullptr;  // gets one of every request that ends; outlives the run
};

// How the requests of these options and workload come about.
bool IsOpenLoop(const Options& options, const Workload& workload);

// Sends, waits for the answers and for the actions, and returns what was seen. Once `stop` is true
// nothing is sent any more, and open streams and actions are cancelled, within a tenth of a second.
Results RunLoad(const Options& options, const Workload& workload, const std::atomic<bool>& stop);

}  // namespace conclave::loadtest

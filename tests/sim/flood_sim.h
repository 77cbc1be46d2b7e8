#pragma once
// Adapters that share a few workers, one of them flooded: the router's Admission as it is, workers
// that grant credits by scheduler/credit_rule.h and compute in steps of one length, clients that
// come at random and leave when they are refused. Virtual time, one seed; what is found out is how
// long each adapter's requests wait for their first token, and what each is served.

#include <cstdint>
#include <string>
#include <vector>

#include "router/admission.h"

namespace conclave::sim {

struct FloodOptions {
  struct Adapter {
    // How much comes of it: 1 is what all the workers together can do, divided by the number of
    // adapters.
    double shares = 1;
    int32_t output_least = 16, output_most = 128;  // tokens, evenly; it asks for the most
  };
  std::vector<Adapter> adapters;
  int32_t workers = 2;
  int32_t batch = 16;           // sequences in a step
  int32_t prompt_tokens = 256;  // that a step computes of prompts, at most
  int32_t prompt_most = 128;    // of a request, 1 to so many, evenly
  double step_seconds = 0.01;
  double seconds = 600;  // how long they come; the first tenth does not count
  router::Admission::Options admission;
};

struct FloodResult {
  struct Adapter {
    int64_t came = 0, refused = 0;
    double demanded = 0, served = 0;                  // tokens of output a second
    double first_token_p50 = 0, first_token_p99 = 0;  // seconds
  };
  std::vector<Adapter> adapters;
  double busy = 0;  // of all places, how many were taken, 0..1
  // Jain's index of served / min(demanded, fair share), the fair share being what a max-min fair
  // division of all that was served leaves an adapter.
  double jain = 0;
};

FloodResult SimulateFlood(const FloodOptions& options, uint64_t seed);

}  // namespace conclave::sim

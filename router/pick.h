#pragma once
// Chooses a request's home: filter, score, pick. Pure; any thread.

#include <compare>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "router/worker_view.h"

namespace conclave::router {

struct HomeLimits {
  int32_t requests = 128;  // of this router on one worker
  // Besides them: those that are paused because their client does not read. They hold no place and
  // no tokens that others wait for; beyond this number they do.
  int32_t paused = 256;
  int64_t tokens =
      int64_t{1} << 19;  // prompt + max_tokens of those; an idle worker takes any one request
};

struct Demand {
  std::string model;                  // must equal the worker's
  int64_t tokens = 0;                 // prompt + max_tokens
  std::optional<uint64_t> preferred;  // key of a worker that has computed much of it already
  std::optional<uint64_t> left;  // key of the one that was its home and could not go on with it
  bool goes_on = false;          // it had a home before: it needs no credit
  int32_t kept_percent = 0;      // of each worker's credits and limits: not for it, but for others
};

// Filter: ready, of the model, with room, and a credit unless the request goes on.
bool CanTake(const WorkerView& worker, const Demand& demand, const HomeLimits& limits);

// A worker is late while more than half of the others that are ready and have its model find it
// so. What runs there runs at its pace, however few. To who is slow itself everybody seems late:
// those of whom most complain are found first, and their own complaints count no more.
void NoteLate(std::span<WorkerView> workers);

// Score, lower is better: first whether it is late, then whether it lacks an expert, or was just
// left, then whether it said that it has no KV blocks for all of the request, then the fuller of
// its two bounds, 0..1.
struct Score {
  bool late = false;
  bool lacks = false;
  bool left = false;
  bool tight = false;
  double load = 0;
  auto operator<=>(const Score&) const = default;
};
Score ScoreOf(const WorkerView& worker, const Demand& demand, const HomeLimits& limits);

// Index into `workers` of the preferred one, else of the best that can take it; ties go by seed.
// Nothing if nobody can. While anybody serves the model who is not suspect, suspects get nothing,
// whoever is full.
std::optional<size_t> PickHome(std::span<const WorkerView> workers, const Demand& demand,
                               const HomeLimits& limits, uint64_t seed);

}  // namespace conclave::router

#pragma once
// Every expert is here: dispatch groups rows by expert, combine runs them, each expert's weights
// read once for all its rows. The exchange of a cluster with one worker, and the local part of
// every other.

#include <cstdint>
#include <span>
#include <vector>

#include "worker/device/device.h"
#include "worker/experts/exchange.h"

namespace conclave::worker {

class LocalExchange final : public Exchange {
 public:
  // experts: weights by expert id. max_routes: the largest n * top_k of a Dispatch. Both outlive
  // the exchange.
  LocalExchange(std::vector<const FfnWeights*> experts, size_t max_routes, Device& device);

  absl::Status Dispatch(int32_t layer, ConstRows x, std::span<const scheduler::ExpertId> experts,
                        int32_t top_k) override;
  absl::Status Combine(Rows outputs) override;

 private:
  const std::vector<const FfnWeights*> experts_;
  Device& device_;
  ConstRows x_;
  std::vector<int32_t> count_;    // [experts] routes of this dispatch; zero between dispatches
  std::vector<int32_t> touched_;  // experts with routes, ascending
  std::vector<int32_t> inputs_;   // [routes] row of x, grouped by expert
  std::vector<int32_t> outputs_;  // [routes] row of the result, likewise
  std::vector<ExpertWork> work_;
};

}  // namespace conclave::worker

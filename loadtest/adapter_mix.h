#pragma once
// Which adapters requests ask for, and how often:
//   uniform:NAME,...    each alike
//   zipf:S:NAME,...     the i-th name as often as 1/i^S
//   weights:NAME=W,...  in proportion to W
//   file:PATH           likewise, a line "NAME W" each
// The name "base" is the base model, as the router understands it. Immutable; any thread.

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "loadtest/random.h"

namespace conclave::loadtest {

class AdapterMix {
 public:
  static constexpr size_t kMaxAdapters = 1024;
  static constexpr size_t kMaxNameBytes = 256;
  static constexpr size_t kMaxFileBytes = 1 << 20;
  static constexpr double kMaxExponent = 10;
  static constexpr double kMaxWeight = 1e9;

  using Weights = std::vector<std::pair<std::string, double>>;  // name, weight > 0

  // INVALID_ARGUMENT or NOT_FOUND, naming the part of the text or file and line.
  static absl::StatusOr<AdapterMix> Parse(const std::string& text);
  // Checks names and weights.
  static absl::StatusOr<AdapterMix> Make(const Weights& weights);

  const std::string& Draw(Random& random) const;
  const Weights& shares() const { return shares_; }  // sum to 1

 private:
  AdapterMix() = default;

  Weights shares_;
  std::vector<double> up_to_;  // sum of the shares so far
};

}  // namespace conclave::loadtest

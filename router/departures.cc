#include "router/departures.h"

#include <algorithm>

namespace conclave::router {
namespace {

constexpr double kWeight = 0.1;  // of the newest interval: about the last twenty count

}  // namespace

void Departures::Note(Micros now, bool waited) {
  if (waited && last_) {
    const auto interval = static_cast<double>(std::max(now - *last_, Micros(0)).count());
    interval_us_ = interval_us_ ? *interval_us_ + kWeight * (interval - *interval_us_) : interval;
  }
  last_ = waited ? std::optional(now) : std::nullopt;
}

std::optional<double> Departures::UntilHalfHaveGone(size_t waiting) const {
  if (!interval_us_) return std::nullopt;
  return static_cast<double>(waiting / 2 + 1) * *interval_us_;
}

}  // namespace conclave::router

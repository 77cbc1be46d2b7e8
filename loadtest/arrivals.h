#pragma once
// When requests are meant to be sent in an open loop. Arrivals know nothing of answers, so a slow
// server cannot slow them down. One thread.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "loadtest/random.h"
#include "loadtest/trace.h"

namespace conclave::loadtest {

class Arrivals {
 public:
  virtual ~Arrivals() = default;
  // The next moment, since the start; never before the last one. Nothing: there are no more.
  virtual std::optional<std::chrono::nanoseconds> Next() = 0;
};

// A rate over time, made of straight pieces.
class RateCurve {
 public:
  static constexpr double kNever =
      1e9;  // seconds; what a time in nanoseconds can still be added to

  struct Piece {
    double seconds = kNever;
    double from = 0;  // per second, at its start
    double to = 0;    // at its end
  };

  explicit RateCurve(std::vector<Piece> pieces);  // rates >= 0, seconds > 0
  static RateCurve Constant(double per_second) {
    return RateCurve({{kNever, per_second, per_second}});
  }

  // When so many arrivals were to be expected, in seconds; nothing if the curve ends before.
  // `expected` must not fall from call to call.
  std::optional<double> TimeOf(double expected);

 private:
  std::vector<Piece> pieces_;
  size_t piece_ = 0;
  double begin_ = 0;    // of the piece, in seconds
  double arrived_ = 0;  // expected before it
};

// A renewal process with gamma gaps of mean 1 and the given coefficient of variation, its time
// stretched to the curve's rate: cv 1 is a Poisson process, 0 an even beat, above 1 comes in
// bursts.
class RenewalArrivals : public Arrivals {
 public:
  static constexpr double kMaxVariation = 10;

  RenewalArrivals(RateCurve curve, double variation, uint64_t seed);  // variation in [0, max]

  std::optional<std::chrono::nanoseconds> Next() override;

 private:
  double Gap();

  RateCurve curve_;
  const double variation_;
  Random random_;
  double expected_ = 0;
};

// The moments of a trace, `speed` times as fast. The trace must outlive this.
class TraceArrivals : public Arrivals {
 public:
  TraceArrivals(std::span<const TraceRequest> trace, double speed);  // speed > 0

  std::optional<std::chrono::nanoseconds> Next() override;

 private:
  std::span<const TraceRequest> left_;
  const double speed_;
};

}  // namespace conclave::loadtest

#include "loadtest/arrivals.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "scheduler/check.h"

namespace conclave::loadtest {
namespace {

double ExpectedIn(const RateCurve::Piece& piece) {
  return piece.seconds * (piece.from + piece.to) / 2;
}

// The time t into the piece with from t + (to - from) t^2 / (2 seconds) = expected, in the form
// that does not cancel.
double TimeInto(const RateCurve::Piece& piece, double expected) {
  if (expected <= 0) return 0;
  const double slope = (piece.to - piece.from) / piece.seconds;
  const double root = std::sqrt(std::max(0.0, piece.from * piece.from + 2 * slope * expected));
  return std::min(piece.seconds, 2 * expected / (piece.from + root));
}

}  // namespace

RateCurve::RateCurve(std::vector<Piece> pieces) : pieces_(std::move(pieces)) {
  for (const Piece& piece : pieces_) {
    CONCLAVE_CHECK(piece.seconds > 0 && piece.from >= 0 && piece.to >= 0);
  }
}

std::optional<double> RateCurve::TimeOf(double expected) {
  for (; piece_ < pieces_.size(); ++piece_) {
    const Piece& piece = pieces_[piece_];
    const double all = ExpectedIn(piece);
    if (expected < arrived_ + all) return begin_ + TimeInto(piece, expected - arrived_);
    begin_ += piece.seconds;
    arrived_ += all;
  }
  return std::nullopt;
}

RenewalArrivals::RenewalArrivals(RateCurve curve, double variation, uint64_t seed)
    : curve_(std::move(curve)), variation_(variation), random_(seed, Random::Purpose::kArrivals) {
  CONCLAVE_CHECK(variation >= 0 && variation <= kMaxVariation);
}

double RenewalArrivals::Gap() {
  if (variation_ == 0) return 1;
  if (variation_ == 1) return Exponential(random_);
  const double scale = variation_ * variation_;
  return Gamma(random_, 1 / scale) * scale;
}

std::optional<std::chrono::nanoseconds> RenewalArrivals::Next() {
  expected_ += Gap();
  const std::optional<double> seconds = curve_.TimeOf(expected_);
  if (!seconds) return std::nullopt;
  return std::chrono::nanoseconds(std::llround(*seconds * 1e9));
}

TraceArrivals::TraceArrivals(std::span<const TraceRequest> trace, double speed)
    : left_(trace), speed_(speed) {
  CONCLAVE_CHECK(speed > 0);
}

std::optional<std::chrono::nanoseconds> TraceArrivals::Next() {
  if (left_.empty()) return std::nullopt;
  const double at = static_cast<double>(left_.front().at.count()) / speed_;
  left_ = left_.subspan(1);
  return std::chrono::nanoseconds(std::llround(std::min(at, RateCurve::kNever * 1e9)));
}

}  // namespace conclave::loadtest

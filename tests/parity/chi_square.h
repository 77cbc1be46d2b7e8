#pragma once
// Whether counts are what a distribution gives: Pearson's test, with cells of few expected counts
// taken together.

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace conclave::worker::parity {

// P(X > x) of a chi-square variable with `freedom` degrees: the regularised upper incomplete gamma
// function, by its series below the mean and its continued fraction (Lentz) above.
inline double ChiSquareTail(double x, int freedom) {
  const double a = freedom / 2.0, z = x / 2.0;
  if (z <= 0.0) return 1.0;
  const double scale = std::exp(-z + a * std::log(z) - std::lgamma(a));
  if (z < a + 1.0) {
    double term = 1.0 / a, sum = term;
    for (int n = 1; n < 10000 && term > sum * 1e-16; ++n) sum += term *= z / (a + n);
    return 1.0 - scale * sum;
  }
  double b = z + 1.0 - a, c = 1e300, d = 1.0 / b, fraction = d;
  for (int n = 1; n < 10000; ++n) {
    const double step = -n * (n - a);
    b += 2.0;
    d = 1.0 / (step * d + b);
    c = b + step / c;
    fraction *= c * d;
    if (std::abs(c * d - 1.0) < 1e-15) break;
  }
  return scale * fraction;
}

// The probability of counts at least this far from the distribution's; 0 if something was drawn
// that cannot be.
inline double ChiSquareProbability(const std::vector<int>& counts,
                                   const std::vector<double>& probabilities) {
  constexpr double kExpectedMin = 5.0;
  double draws = 0.0;
  for (const int count : counts) draws += count;
  double statistic = 0.0, rare_expected = 0.0, rare_count = 0.0;
  int cells = 0;
  const auto add = [&](double count, double expected) {
    statistic += (count - expected) * (count - expected) / expected;
    ++cells;
  };
  for (size_t i = 0; i < counts.size(); ++i) {
    const double expected = probabilities[i] * draws;
    if (expected == 0.0 && counts[i] > 0) return 0.0;
    if (expected >= kExpectedMin) {
      add(counts[i], expected);
    } else {
      rare_expected += expected;
      rare_count += counts[i];
    }
  }
  if (rare_expected > 0.0) add(rare_count, std::max(rare_expected, 1e-9));
  return cells < 2 ? 1.0 : ChiSquareTail(statistic, cells - 1);
}

}  // namespace conclave::worker::parity

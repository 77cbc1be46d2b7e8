#include "worker/model/rope.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "scheduler/check.h"
#include "worker/model/json.h"

namespace conclave::worker {
namespace {

constexpr double kPi = 3.14159265358979323846;
constexpr double kLn2 = 0.69314718055994530942;

// ln x = exponent ln 2 + 2 artanh((m - 1) / (m + 1)), m in [0.7, 1.42].
double Log(double x) {
  int exponent = 0;
  double m = std::frexp(x, &exponent);
  if (m < 0.70710678118654752440) {
    m *= 2;
    --exponent;
  }
  const double s = (m - 1) / (m + 1);
  double sum = 0;
  for (int k = 25; k >= 1; k -= 2) sum = sum * (s * s) + 1.0 / k;
  return exponent * kLn2 + 2 * s * sum;
}

double Exp(double x) {
  const double n = std::floor(x / kLn2 + 0.5);
  const double r = x - n * kLn2;
  double sum = 1;
  for (int k = 18; k >= 1; --k) sum = 1 + sum * r / k;
  return std::ldexp(sum, static_cast<int>(n));
}

// (-1)^k / (2k + first)!, Taylor's coefficients of sine (first 1) and cosine (first 0).
constexpr std::array<double, 10> Terms(int first) {
  std::array<double, 10> terms = {};
  double factorial = 1;
  for (int k = 0; k < 10; ++k) {
    if (k > 0) factorial *= (2 * k + first - 1) * (2 * k + first);
    terms[static_cast<size_t>(k)] = (k % 2 == 0 ? 1 : -1) / factorial;
  }
  return terms;
}
constexpr std::array<double, 10> kSinTerms = Terms(1);
constexpr std::array<double, 10> kCosTerms = Terms(0);

struct SinCosPair {
  double sin;
  double cos;
};

// x >= 0 and below 2^21: pi/2 is taken off in three parts of which the first two have 33 bits, so
// their multiples are exact (fdlibm's reduction); then Taylor's series on [-pi/4, pi/4].
SinCosPair SinCos(double x) {
  constexpr double kPart1 = 1.57079632673412561417e+00;
  constexpr double kPart2 = 6.07710050630396597660e-11;
  constexpr double kPart3 = 2.02226624879595063154e-21;
  const double n = std::floor(x * (2 / kPi) + 0.5);
  const double r = ((x - n * kPart1) - n * kPart2) - n * kPart3;
  const double r2 = r * r;
  double sin = 0;
  double cos = 0;
  for (size_t k = kSinTerms.size(); k-- > 0;) {
    sin = sin * r2 + kSinTerms[k];
    cos = cos * r2 + kCosTerms[k];
  }
  sin *= r;
  switch (static_cast<int64_t>(n) & 3) {
    case 0:
      return {sin, cos};
    case 1:
      return {cos, -sin};
    case 2:
      return {-sin, -cos};
    default:
      return {-cos, sin};
  }
}

double Mscale(double factor, double mscale) {
  return factor <= 1 ? 1 : 0.1 * mscale * Log(factor) + 1;
}

// The pair that makes `rotations` full turns within the original context.
double CorrectionPair(double rotations, int32_t dim, const RopeSettings& settings) {
  return dim * Log(settings.scaling.original_context / (rotations * 2 * kPi)) /
         (2 * Log(settings.theta));
}

// Angle per position of every pair.
std::vector<double> Frequencies(const RopeSettings& settings, int32_t dim) {
  std::vector<double> frequencies(static_cast<size_t>(dim / 2));
  const double log_theta = Log(settings.theta);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    frequencies[i] = Exp(-log_theta * (2.0 * static_cast<double>(i) / dim));
  }
  if (!settings.yarn) return frequencies;
  const double low =
      std::max(std::floor(CorrectionPair(settings.scaling.beta_fast, dim, settings)), 0.0);
  double high =
      std::min(std::ceil(CorrectionPair(settings.scaling.beta_slow, dim, settings)), dim - 1.0);
  if (high == low) high += 0.001;
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double slow = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    frequencies[i] = frequencies[i] / settings.scaling.factor * slow + frequencies[i] * (1 - slow);
  }
  return frequencies;
}

}  // namespace

RopeSettings ReadRope(Config& config, bool yarn_supported) {
  constexpr Config::FloatRange kTheta = {1.001, 1e12};
  RopeSettings rope;
  const bool renamed = config.Has("rope_parameters");
  if (renamed) config.RequireAbsent("rope_scaling");
  Config settings = config.Object(renamed ? "rope_parameters" : "rope_scaling");
  rope.theta = config.FloatOr("rope_theta", 10000.0, kTheta);
  rope.theta = settings.FloatOr("rope_theta", rope.theta, kTheta);
  config.RequireAbsent("partial_rotary_factor");
  settings.RequireAbsent("partial_rotary_factor");

  // Written as rope_type, before that as type, sometimes both.
  const std::string type = settings.StringOr("rope_type", settings.StringOr("type", "default"));
  if (settings.StringOr("type", type) != type) settings.Refuse("type and rope_type differ");
  if (type == "yarn" && yarn_supported) {
    rope.yarn = true;
    rope.scaling.factor = settings.Float("factor", {1.0, 1e6});
    rope.scaling.original_context = settings.Float("original_max_position_embeddings", {1.0, 1e9});
    rope.scaling.beta_fast = settings.FloatOr("beta_fast", 32, {1e-6, 1e6});
    rope.scaling.beta_slow = settings.FloatOr("beta_slow", 1, {1e-6, 1e6});
    rope.scaling.mscale = settings.FloatOr("mscale", 1, {0.0, 100.0});
    rope.scaling.mscale_all_dim = settings.FloatOr("mscale_all_dim", 0, {0.0, 100.0});
    settings.RequireAbsent("attention_factor");
    if (!settings.BoolOr("truncate", true))
      settings.Refuse("truncate is false, which is not supported");
  } else if (type != "default") {
    settings.Refuse("rope_type is \"" + Printable(type) + "\", supported: default" +
                    (yarn_supported ? ", yarn" : ""));
  }
  config.Take(settings);
  return rope;
}

double AttentionScaleFactor(const RopeSettings& settings) {
  if (!settings.yarn || settings.scaling.mscale_all_dim == 0) return 1;
  const double mscale = Mscale(settings.scaling.factor, settings.scaling.mscale_all_dim);
  return mscale * mscale;
}

RopeTable MakeRopeTable(const RopeSettings& settings, int32_t dim, bool interleaved,
                        int64_t positions) {
  CONCLAVE_CHECK(dim > 0 && dim % 2 == 0 && positions <= ModelLimits().context);
  const std::vector<double> frequencies = Frequencies(settings, dim);
  const Yarn& yarn = settings.scaling;
  const double scale =
      settings.yarn ? Mscale(yarn.factor, yarn.mscale) / Mscale(yarn.factor, yarn.mscale_all_dim)
                    : 1.0;
  RopeTable table{.dim = dim, .interleaved = interleaved, .positions = positions};
  const size_t entries = static_cast<size_t>(positions) * frequencies.size();
  table.cos.resize(entries);
  table.sin.resize(entries);
  size_t at = 0;
  for (int64_t position = 0; position < positions; ++position) {
    for (const double frequency : frequencies) {
      const SinCosPair pair = SinCos(static_cast<double>(position) * frequency);
      table.cos[at] = static_cast<float>(pair.cos * scale);
      table.sin[at] = static_cast<float>(pair.sin * scale);
      ++at;
    }
  }
  return table;
}

}  // namespace conclave::worker

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
constexpr Config::FloatRange kMscale = {0.0, 100.0};

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

// The pair that makes `turns` full turns within the original context.
double CorrectionPair(double turns, int32_t dim, const RopeSettings& settings) {
  return dim * Log(settings.original_context / (turns * 2 * kPi)) / (2 * Log(settings.theta));
}

void ScaleByYarn(const RopeSettings& settings, int32_t dim, std::vector<double>& frequencies) {
  double low = CorrectionPair(settings.yarn.beta_fast, dim, settings);
  double high = CorrectionPair(settings.yarn.beta_slow, dim, settings);
  if (settings.yarn.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1.0);
  if (high == low) high += 0.001;
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double slow = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    frequencies[i] = frequencies[i] / settings.factor * slow + frequencies[i] * (1 - slow);
  }
}

void ScaleAsLlama3(const RopeSettings& settings, std::vector<double>& frequencies) {
  const double low = settings.low_freq_factor;
  const double high = settings.high_freq_factor;
  for (double& frequency : frequencies) {
    const double waves = settings.original_context * frequency / (2 * kPi);
    const double keep = std::clamp((waves - low) / (high - low), 0.0, 1.0);
    frequency = (1 - keep) * frequency / settings.factor + keep * frequency;
  }
}

// Angle per position of every pair.
std::vector<double> Frequencies(const RopeSettings& settings, int32_t dim) {
  std::vector<double> frequencies(static_cast<size_t>((dim + 1) / 2));
  const double log_theta = Log(settings.theta);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    frequencies[i] = Exp(-log_theta * (2.0 * static_cast<double>(i) / dim));
  }
  switch (settings.scaling) {
    case RopeSettings::Scaling::kNone:
      break;
    case RopeSettings::Scaling::kLinear:
      for (double& frequency : frequencies) frequency /= settings.factor;
      break;
    case RopeSettings::Scaling::kLlama3:
      ScaleAsLlama3(settings, frequencies);
      break;
    case RopeSettings::Scaling::kYarn:
      ScaleByYarn(settings, dim, frequencies);
      break;
  }
  return frequencies;
}

// What cos and sin are multiplied with.
double Amplitude(const RopeSettings& settings) {
  if (settings.scaling != RopeSettings::Scaling::kYarn) return 1;
  const Yarn& yarn = settings.yarn;
  if (yarn.attention_factor) return *yarn.attention_factor;
  return Mscale(settings.factor, yarn.mscale) / Mscale(settings.factor, yarn.mscale_all_dim);
}

void ReadYarn(Config& settings, const RopeDialect& dialect, Yarn& yarn) {
  yarn.beta_fast = settings.FloatOr("beta_fast", 32, {1e-6, 1e6});
  yarn.beta_slow = settings.FloatOr("beta_slow", 1, {1e-6, 1e6});
  yarn.truncate = settings.BoolOr("truncate", true);
  // DeepSeek's authors have no word for it, but transformers, which computes it for all.
  if (settings.Has("attention_factor")) {
    yarn.attention_factor = settings.Float("attention_factor", {1e-6, 1e6});
  }
  const double mscale = settings.FloatOr("mscale", 1, kMscale);
  const double all_dim = settings.FloatOr("mscale_all_dim", 0, kMscale);
  if (!dialect.deepseek && (!settings.Has("mscale") || mscale == 0 || all_dim == 0)) return;
  yarn.mscale = mscale;
  yarn.mscale_all_dim = all_dim;
}

void ReadScaling(Config& config, Config& settings, const RopeDialect& dialect,
                 const std::string& type, RopeSettings& rope) {
  using Scaling = RopeSettings::Scaling;
  rope.scaling = type == "linear"   ? Scaling::kLinear
                 : type == "llama3" ? Scaling::kLlama3
                                    : Scaling::kYarn;
  rope.factor = settings.Float("factor", {1.0, 1e6});
  if (dialect.deepseek) rope.yarn.mscale_all_dim = settings.FloatOr("mscale_all_dim", 0, kMscale);
  if (rope.scaling == Scaling::kLinear) return;
  constexpr Config::FloatRange kContext = {1.0, 1e9};
  const std::string original = "original_max_position_embeddings";
  if (config.Has(original)) {
    rope.original_context = config.Float(original, kContext);
  } else if (settings.Has(original)) {
    rope.original_context = settings.Float(original, kContext);
  } else if (!dialect.deepseek || rope.scaling != Scaling::kYarn) {
    rope.original_context = config.Float("max_position_embeddings", kContext);
  }
  if (rope.scaling == Scaling::kYarn) {
    ReadYarn(settings, dialect, rope.yarn);
    return;
  }
  rope.low_freq_factor = settings.Float("low_freq_factor", {1e-6, 1e6});
  rope.high_freq_factor = settings.Float("high_freq_factor", {1e-6, 1e6});
  if (!(rope.low_freq_factor < rope.high_freq_factor))
    settings.Refuse("low_freq_factor is not below high_freq_factor");
}

double ReadPartial(Config& config, Config& settings, const RopeDialect& dialect) {
  constexpr Config::FloatRange kShare = {1e-3, 1.0};
  const std::string key = "partial_rotary_factor";
  const double otherwise = config.FloatOr(key, dialect.partial.value_or(1.0), kShare);
  const double partial = settings.FloatOr(key, otherwise, kShare);
  if (!dialect.partial && partial != 1.0)
    config.Refuse("partial_rotary_factor is below 1, which is not supported");
  return partial;
}

}  // namespace

RopeSettings ReadRope(Config& config, const RopeDialect& dialect) {
  constexpr Config::FloatRange kTheta = {1.001, 1e12};
  RopeSettings rope;
  const bool renamed = config.Has("rope_parameters");
  if (renamed) config.RequireAbsent("rope_scaling");
  Config settings = config.Object(renamed ? "rope_parameters" : "rope_scaling");
  settings.RequireKnown({"attention_factor", "beta_fast", "beta_slow", "factor", "high_freq_factor",
                         "low_freq_factor", "mscale", "mscale_all_dim",
                         "original_max_position_embeddings", "partial_rotary_factor", "rope_theta",
                         "rope_type", "truncate", "type"});
  rope.theta = config.FloatOr("rope_theta", dialect.theta, kTheta);
  rope.theta = settings.FloatOr("rope_theta", rope.theta, kTheta);
  rope.partial = ReadPartial(config, settings, dialect);

  // Written as rope_type, before that as type, sometimes both.
  const std::string type = settings.StringOr("rope_type", settings.StringOr("type", "default"));
  if (settings.StringOr("type", type) != type) settings.Refuse("type and rope_type differ");
  if (type == "linear" || type == "llama3" || type == "yarn") {
    ReadScaling(config, settings, dialect, type, rope);
  } else if (type != "default") {
    settings.Refuse("rope_type is \"" + Printable(type) +
                    "\", supported: default, linear, llama3, yarn");
  }
  config.Take(settings);
  return rope;
}

double StretchedContext(const RopeSettings& settings, double context) {
  switch (settings.scaling) {
    case RopeSettings::Scaling::kLinear:
      return context * settings.factor;
    case RopeSettings::Scaling::kYarn:
      return std::max(context, settings.original_context * settings.factor);
    default:
      return context;
  }
}

double AttentionScaleFactor(const RopeSettings& settings) {
  if (settings.yarn.mscale_all_dim == 0) return 1;
  const double mscale = Mscale(settings.factor, settings.yarn.mscale_all_dim);
  return mscale * mscale;
}

RopeTable MakeRopeTable(const RopeSettings& settings, int32_t dim, bool interleaved,
                        int64_t positions) {
  CONCLAVE_CHECK(dim > 0 && positions <= ModelLimits().context);
  const std::vector<double> frequencies = Frequencies(settings, dim);
  const double amplitude = Amplitude(settings);
  RopeTable table{.dim = dim + dim % 2, .interleaved = interleaved, .positions = positions};
  const size_t entries = static_cast<size_t>(positions) * frequencies.size();
  table.cos.resize(entries);
  table.sin.resize(entries);
  size_t at = 0;
  for (int64_t position = 0; position < positions; ++position) {
    for (const double frequency : frequencies) {
      const SinCosPair pair = SinCos(static_cast<double>(position) * frequency);
      table.cos[at] = static_cast<float>(pair.cos * amplitude);
      table.sin[at] = static_cast<float>(pair.sin * amplitude);
      ++at;
    }
  }
  return table;
}

}  // namespace conclave::worker

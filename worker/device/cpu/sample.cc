// Log-probabilities and sampling.
//
// A token is drawn by inverting the cumulative distribution in order of id at one 53-bit number
// made from (seed, token_index). top_k and top_p keep a set that is a threshold on the logit plus,
// among equals, the lowest ids; the threshold is found digit by digit in the logits' ordered bits,
// so nothing is sorted and nothing as large as the vocabulary is held.

#include <algorithm>
#include <bit>
#include <limits>
#include <vector>

#include "scheduler/check.h"
#include "worker/device/cpu/cpu_device.h"

namespace conclave::worker {
namespace {

constexpr int64_t kBlock = 256;  // logits exponentiated at a time; sums are of blocks, in double

// Natural logarithm of x > 0, finite and normal, in double: 2 atanh((m - 1) / (m + 1)) + exponent *
// ln 2.
double Log(double x) {
  uint64_t bits = std::bit_cast<uint64_t>(x);
  int64_t exponent = static_cast<int64_t>(bits >> 52) - 1023;
  bits = (bits & 0xfffffffffffff) | (uint64_t{1023} << 52);
  double m = std::bit_cast<double>(bits);
  if (m > 1.4142135623730951) {
    m *= 0.5;
    ++exponent;
  }
  const double z = (m - 1.0) / (m + 1.0);
  const double z2 = z * z;
  double series = 0.0;
  for (int k = 25; k >= 1; k -= 2) series = series * z2 + 1.0 / k;
  return 2.0 * z * series + static_cast<double>(exponent) * 0.6931471805599453;
}

// splitmix64's finaliser: every bit of the result depends on every bit of x.
uint64_t Mix64(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

// In [0, 1), a function of the two alone.
double Uniform(uint64_t seed, uint64_t index) {
  const uint64_t key = Mix64(seed + 0x9e3779b97f4a7c15);
  const uint64_t noise = Mix64(key + Mix64(index + 0xd1b54a32d192ed03));
  return static_cast<double>(noise >> 11) * 0x1p-53;
}

// Unsigned integers ordered as the logits are; both zeros are one.
uint32_t Ordered(float x) {
  const auto bits = std::bit_cast<uint32_t>(x + 0.0f);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

// What sampling keeps: logits above the threshold, and the first `equals` of those at it; of these
// what weighs at least min_weight, the likeliest weighing 1.
struct Kept {
  uint32_t threshold = 0;
  int64_t equals = 0;
  float min_weight = 0.0f;
};

class Row {
 public:
  Row(const cpu::Kernels& kernels, const float* logits, int64_t size, float max, float temperature)
      : kernels_(kernels), logits_(logits), size_(size), max_(max), temperature_(temperature) {}

  // Sum of exp((logit - max) / temperature) over all.
  double Mass() const {
    double mass = 0.0;
    float weights[kBlock];
    for (int64_t b = 0; b < size_; b += kBlock) mass += BlockSum(b, weights);
    return mass;
  }

  Kept TopK(int64_t k) const {
    return Descend({0, size_}, static_cast<double>(k), /*by_mass=*/false);
  }
  Kept TopP(const Kept& kept, double p) const {
    const double mass = SumOver(kept);
    return Descend(kept, p * mass, /*by_mass=*/true);
  }

  int32_t Draw(const Kept& kept, double uniform) const {
    const double target = uniform * SumOver(kept);
    double mass = 0.0;
    int32_t last = 0;
    int32_t drawn = -1;
    ForKept(kept, kept.threshold, [&](int64_t id, float weight) {
      if (weight > 0.0f) last = static_cast<int32_t>(id);
      mass += static_cast<double>(weight);
      if (mass <= target) return true;
      drawn = static_cast<int32_t>(id);
      return false;
    });
    return drawn >= 0 ? drawn : last;
  }

 private:
  static constexpr int kDigitBits = 8;
  static constexpr int kDigits = 1 << kDigitBits;

  float BlockSum(int64_t first, float* weights) const {
    return kernels_.exp(logits_ + first, std::min(kBlock, size_ - first), max_, temperature_,
                        weights);
  }

  // body(id, weight) for what is kept, by ascending id, until it returns false. Blocks whose keys
  // are all below `at_least` are passed over.
  template <typename Body>
  void ForKept(const Kept& kept, uint32_t at_least, Body body) const {
    float weights[kBlock];
    int64_t equals = 0;
    for (int64_t b = 0; b < size_; b += kBlock) {
      const int64_t end = std::min(b + kBlock, size_);
      bool finite = true;
      if (Ordered(kernels_.max(logits_ + b, end - b, &finite)) < at_least) continue;
      BlockSum(b, weights);
      for (int64_t i = b; i < end; ++i) {
        const uint32_t key = Ordered(logits_[i]);
        if (key < kept.threshold) continue;
        if (key == kept.threshold && ++equals > kept.equals) continue;
        if (weights[i - b] < kept.min_weight) continue;
        if (!body(i, weights[i - b])) return;
      }
    }
  }

  double SumOver(const Kept& kept) const {
    double mass = 0.0;
    ForKept(kept, kept.threshold, [&](int64_t, float weight) {
      mass += static_cast<double>(weight);
      return true;
    });
    return mass;
  }

  // The fewest of `kept`, from the greatest down, whose mass (or number) reaches `target`; at least
  // one, at most all.
  Kept Descend(const Kept& kept, double target, bool by_mass) const {
    double above = 0.0;  // of the keys greater than any with the prefix
    uint32_t prefix = 0;
    int64_t equals = 0;
    double each = 0.0;  // of one key at the threshold
    for (int shift = 32 - kDigitBits; shift >= 0; shift -= kDigitBits) {
      double mass[kDigits] = {};
      int64_t number[kDigits] = {};
      const uint32_t mask = shift == 32 - kDigitBits ? 0 : ~uint32_t{0} << (shift + kDigitBits);
      ForKept(kept, std::max(kept.threshold, prefix), [&](int64_t id, float weight) {
        const uint32_t key = Ordered(logits_[id]);
        if ((key & mask) != prefix) return true;
        const uint32_t digit = (key >> shift) & (kDigits - 1);
        mass[digit] += by_mass ? static_cast<double>(weight) : 1.0;
        ++number[digit];
        return true;
      });
      int chosen = -1;
      for (int digit = kDigits - 1; digit >= 0; --digit) {
        if (number[digit] == 0) continue;
        if (chosen >= 0) above += mass[chosen];
        chosen = digit;
        if (above + mass[digit] >= target) break;
      }
      prefix |= static_cast<uint32_t>(chosen) << shift;
      equals = number[chosen];
      each = mass[chosen] / static_cast<double>(equals);
    }
    int64_t needed = 1;
    while (needed < equals && above + static_cast<double>(needed) * each < target) ++needed;
    return {prefix, needed};
  }

  const cpu::Kernels& kernels_;
  const float* logits_;
  const int64_t size_;
  const float max_;
  const float temperature_;
};

// A row's logits as `how` wants them changed, for as long as this lives. Each is computed in double
// and rounded once, to a finite one.
class EditedRow {
 public:
  EditedRow(const SampleRow& how, float* logits) : edits_(how.edits), logits_(logits) {
    originals_.reserve(edits_.size());
    for (const LogitEdit& edit : edits_) {
      float& logit = logits_[edit.token];
      originals_.push_back(logit);
      logit = Edited(how, edit, logit);
    }
  }
  ~EditedRow() {
    for (size_t i = 0; i < edits_.size(); ++i) logits_[edits_[i].token] = originals_[i];
  }
  EditedRow(const EditedRow&) = delete;
  EditedRow& operator=(const EditedRow&) = delete;

 private:
  static float Edited(const SampleRow& how, const LogitEdit& edit, float logit) {
    if (edit.forbidden) return -std::numeric_limits<float>::infinity();
    double value = static_cast<double>(logit) + static_cast<double>(edit.bias);
    const auto repetition = static_cast<double>(how.repetition_penalty);
    if (edit.seen) value = value > 0.0 ? value / repetition : value * repetition;
    if (edit.count > 0) {
      value -= static_cast<double>(how.presence_penalty) +
               static_cast<double>(how.frequency_penalty) * edit.count;
    }
    constexpr double kMax = std::numeric_limits<float>::max();
    return static_cast<float>(std::clamp(value, -kMax, kMax));
  }

  const std::span<const LogitEdit> edits_;
  float* const logits_;
  std::vector<float> originals_;
};

int32_t FirstOf(const float* logits, int64_t size, float value) {
  return static_cast<int32_t>(std::find(logits, logits + size, value) - logits);
}

int32_t Choose(const cpu::Kernels& kernels, const float* logits, int64_t size, float max,
               const SampleRow& how) {
  if (how.temperature <= 0.0f) return FirstOf(logits, size, max);
  const Row row(kernels, logits, size, max, how.temperature);
  Kept kept{0, size};
  if (how.top_k > 0 && how.top_k < size) kept = row.TopK(how.top_k);
  if (how.top_p < 1.0f) kept = row.TopP(kept, static_cast<double>(how.top_p));
  kept.min_weight = how.min_p;
  return row.Draw(kept, Uniform(how.seed, how.token_index));
}

int32_t ChooseEdited(const cpu::Kernels& kernels, float* logits, int64_t size,
                     const SampleRow& how) {
  const EditedRow edited(how, logits);
  bool finite = false;  // not where a token is forbidden
  const float max = kernels.max(logits, size, &finite);
  CONCLAVE_CHECK(max > -std::numeric_limits<float>::infinity());
  return Choose(kernels, logits, size, max, how);
}

// The most likely first, the lower id among equals.
void TopTokens(const float* logits, int64_t size, int32_t count, SampledToken* out) {
  int32_t held = 0;
  for (int64_t i = 0; i < size; ++i) {
    if (held == count && (count == 0 || !(logits[i] > logits[out->top_tokens[held - 1]]))) continue;
    int32_t at = held < count ? held++ : held - 1;
    for (; at > 0 && logits[i] > logits[out->top_tokens[at - 1]]; --at) {
      out->top_tokens[at] = out->top_tokens[at - 1];
    }
    out->top_tokens[at] = static_cast<int32_t>(i);
  }
  out->top_count = held;
}

}  // namespace

void CpuDevice::Sample(Rows logits, std::span<const SampleRow> rows, std::span<SampledToken> out) {
  CONCLAVE_CHECK(static_cast<int64_t>(rows.size()) == logits.rows && out.size() == rows.size());
  CONCLAVE_CHECK(logits.cols >= 1);
  pool_.For(logits.rows, [&](int, int64_t r) {
    const SampleRow& how = rows[static_cast<size_t>(r)];
    SampledToken& result = out[static_cast<size_t>(r)];
    float* const row = logits.row(r);
    CONCLAVE_CHECK(how.target < logits.cols);
    CONCLAVE_CHECK(how.top_logprobs >= 0 && how.top_logprobs <= kMaxTopLogprobs);
    result = {};
    const float max = kernels_.max(row, logits.cols, &result.finite);
    if (!result.finite) return;
    result.token = how.target >= 0     ? how.target
                   : how.edits.empty() ? Choose(kernels_, row, logits.cols, max, how)
                                       : ChooseEdited(kernels_, row, logits.cols, how);
    const double log_mass = Log(Row(kernels_, row, logits.cols, max, 1.0f).Mass());
    const auto logprob = [&](int32_t token) {
      return static_cast<float>(static_cast<double>(row[token]) - static_cast<double>(max) -
                                log_mass);
    };
    result.logprob = logprob(result.token);
    TopTokens(row, logits.cols, how.top_logprobs, &result);
    for (int32_t i = 0; i < result.top_count; ++i) {
      result.top_logprobs[i] = logprob(result.top_tokens[i]);
    }
  });
}

}  // namespace conclave::worker

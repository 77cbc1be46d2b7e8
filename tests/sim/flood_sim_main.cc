// flood_sim [--seeds N]: what a flood on one adapter does to four others, beside what they have to
// bear when the workers are as full without it. Prints the worst of N seeds beside its bound, and
// of requests so long that few of them decide a percentile the mean; fails where one is broken.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "tests/sim/flood_sim.h"

namespace conclave::sim {
namespace {

constexpr int kOthers = 4;

// Of one adapter so much comes, in requests of up to so many tokens, and of four others in requests
// of up to 128.
FloodResult Run(double flooder, int32_t output_most, double others, uint64_t seed) {
  FloodOptions options;
  options.adapters = {
      {.shares = flooder, .output_least = output_most / 8, .output_most = output_most}};
  options.adapters.insert(options.adapters.end(), kOthers, {.shares = others});
  return SimulateFlood(options, seed);
}

double WorstP99(const FloodResult& result) {
  double worst = 0;
  for (size_t i = 1; i < result.adapters.size(); ++i)
    worst = std::max(worst, result.adapters[i].first_token_p99);
  return worst;
}

int64_t Refused(const FloodResult& result) {
  int64_t refused = 0;
  for (size_t i = 1; i < result.adapters.size(); ++i) refused += result.adapters[i].refused;
  return refused;
}

class Report {
 public:
  bool kept() const { return kept_; }
  void AtMost(const char* what, double value, double bound) {
    Line(what, value, "<=", bound, value <= bound);
  }
  void AtLeast(const char* what, double value, double bound) {
    Line(what, value, ">=", bound, value >= bound);
  }

 private:
  void Line(const char* what, double value, const char* op, double bound, bool kept) {
    std::printf("%-64s %8.3f   target %s %.3g   %s\n", what, value, op, bound,
                kept ? "ok" : "MISSED");
    kept_ = kept_ && kept;
  }
  bool kept_ = true;
};

int Main(uint64_t seeds) {
  double ratio = 0, long_sum = 0, long_full_sum = 0, jain = 1, jain_over = 1, busy = 1;
  int64_t refused = 0;
  for (uint64_t seed = 1; seed <= seeds; ++seed) {
    // The others want half their shares. What they leave is the first one's fair share: three.
    const FloodResult full = Run(3, 128, 0.5, seed), flood = Run(20, 128, 0.5, seed);
    const FloodResult long_full = Run(3, 1024, 0.5, seed), long_flood = Run(20, 1024, 0.5, seed);
    const FloodResult over = Run(20, 128, 1.25, seed);
    ratio = std::max(ratio, WorstP99(flood) / WorstP99(full));
    long_sum += WorstP99(long_flood);
    long_full_sum += WorstP99(long_full);
    jain = std::min({jain, flood.jain, long_flood.jain});
    jain_over = std::min(jain_over, over.jain);
    busy = std::min({busy, flood.busy, long_flood.busy});
    refused = std::max({refused, Refused(flood), Refused(long_flood)});
    std::printf(
        "seed %llu: first token of the others, p99: %.3f s at full load, %.3f s in the flood; "
        "%.3f and %.3f s where the flooder's requests are long; the flooder's p50 %.1f s\n",
        static_cast<unsigned long long>(seed), WorstP99(full), WorstP99(flood), WorstP99(long_full),
        WorstP99(long_flood), flood.adapters[0].first_token_p50);
  }
  Report report;
  report.AtMost("p99 of the others' first token, in the flood / at full load", ratio, 1.3);
  report.AtMost("the same, mean, where the flooder's are eight times as long",
                long_sum / long_full_sum, 1.3);
  report.AtLeast("Jain's index, the others at half their shares", jain, 0.95);
  report.AtLeast("Jain's index, all beyond their shares", jain_over, 0.95);
  report.AtLeast("places taken in the flood", busy, 0.99);
  report.AtMost("requests of the others refused in the flood", static_cast<double>(refused), 0);
  return report.kept() ? 0 : 1;
}

}  // namespace
}  // namespace conclave::sim

int main(int argc, char** argv) {
  const bool counted = argc == 3 && std::strcmp(argv[1], "--seeds") == 0;
  return conclave::sim::Main(counted ? std::strtoull(argv[2], nullptr, 10) : 5);
}

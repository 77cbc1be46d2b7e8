// planner_sim [--seeds N] [--first S]: N seeds from S on; stops at the first broken promise.

#include <unistd.h>

#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

#include "tests/sim/planner_sim.h"

namespace {

char at_abort[64];

// A CHECK of the planner's own aborts: say which seed it was.
void OnAbort(int) {
  const ssize_t written = write(STDOUT_FILENO, at_abort, std::strlen(at_abort));
  _exit(written < 0 ? 2 : 1);
}

std::optional<uint64_t> Number(std::string_view text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

}  // namespace

int main(int argc, char** argv) {
  uint64_t seeds = 200;
  uint64_t first = 1;
  for (int i = 1; i < argc; i += 2) {
    const std::string_view flag = argv[i];
    const std::optional<uint64_t> value = i + 1 < argc ? Number(argv[i + 1]) : std::nullopt;
    if (!value || (flag != "--seeds" && flag != "--first")) {
      std::fprintf(stderr, "usage: planner_sim [--seeds N] [--first S]\n");
      return 2;
    }
    (flag == "--seeds" ? seeds : first) = *value;
  }

  std::signal(SIGABRT, OnAbort);
  const auto start = std::chrono::steady_clock::now();
  conclave::sim::Totals totals;
  for (uint64_t seed = first; seed < first + seeds; ++seed) {
    std::snprintf(at_abort, sizeof(at_abort), "seed %llu: broken: a CHECK failed\n",
                  static_cast<unsigned long long>(seed));
    const std::optional<std::string> broken = conclave::sim::SimulatePlanner(seed, &totals);
    if (broken) {
      std::printf("%s\nagain: planner_sim --first %llu --seeds 1\n", broken->c_str(),
                  static_cast<unsigned long long>(seed));
      return 1;
    }
  }
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  const auto n = [](uint64_t value) { return static_cast<unsigned long long>(value); };
  std::printf(
      "%llu seeds kept every promise in %.2f s: %llu requests (%llu completed, %llu refused, "
      "%llu cancelled, %llu late, %llu failed), %llu steps, %llu tokens computed and %llu reused, "
      "%llu copies, %llu evictions, %llu preemptions, %.0f s of virtual time\n",
      n(seeds), took.count(), n(totals.requests), n(totals.completed), n(totals.refused),
      n(totals.cancelled), n(totals.late), n(totals.failed), n(totals.steps), n(totals.tokens),
      n(totals.reused), n(totals.copies), n(totals.evictions), n(totals.preemptions),
      totals.virtual_seconds);
  return 0;
}

#pragma once
// What the mains of the simulations share: PROGRAM [--seeds N] [--first S] runs N seeds from S on
// and stops at the first broken promise, a CHECK of the code under test being one.

#include <unistd.h>

#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

namespace conclave::sim {

inline char at_abort[64];  // which seed it was

inline void OnAbort(int) {
  const ssize_t written = write(STDOUT_FILENO, at_abort, std::strlen(at_abort));
  _exit(written < 0 ? 2 : 1);
}

inline std::optional<uint64_t> NumberOf(std::string_view text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// simulate(seed, totals): the broken promise, if any. say(seeds, seconds, totals) prints what was
// kept. The exit code.
template <typename Totals, typename Simulate, typename Say>
int RunSeeds(int argc, char** argv, const char* program, Simulate simulate, Say say) {
  uint64_t seeds = 200;
  uint64_t first = 1;
  for (int i = 1; i < argc; i += 2) {
    const std::string_view flag = argv[i];
    const std::optional<uint64_t> value = i + 1 < argc ? NumberOf(argv[i + 1]) : std::nullopt;
    if (!value || (flag != "--seeds" && flag != "--first")) {
      std::fprintf(stderr, "usage: %s [--seeds N] [--first S]\n", program);
      return 2;
    }
    (flag == "--seeds" ? seeds : first) = *value;
  }
  std::signal(SIGABRT, OnAbort);
  const auto start = std::chrono::steady_clock::now();
  Totals totals;
  for (uint64_t seed = first; seed < first + seeds; ++seed) {
    std::snprintf(at_abort, sizeof(at_abort), "seed %llu: broken: a CHECK failed\n",
                  static_cast<unsigned long long>(seed));
    const std::optional<std::string> broken = simulate(seed, &totals);
    if (broken) {
      std::printf("%s\nagain: %s --first %llu --seeds 1\n", broken->c_str(), program,
                  static_cast<unsigned long long>(seed));
      return 1;
    }
  }
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  say(static_cast<unsigned long long>(seeds), took.count(), totals);
  return 0;
}

}  // namespace conclave::sim

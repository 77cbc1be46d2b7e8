#pragma once
// Work in the background of steps, in small pieces with rests between them, so that no step waits
// for more than a piece: what is read and verified shares cores, caches and memory with what is
// computed. While no steps are made it goes on without a rest. One thread.

#include <chrono>
#include <cstdint>
#include <functional>
#include <utility>

namespace conclave::worker {

class Pace {
 public:
  using Clock = std::chrono::steady_clock;
  struct Options {
    double share = 0.05;  // of the time, that it works while steps are made; above 0, at most 1
    std::chrono::milliseconds longest{50};  // rest
    std::chrono::milliseconds lately{50};   // after its end a step counts as being made
  };
  // How many steps there were so far; null: there are none.
  using Steps = std::function<uint64_t()>;

  // Work begins. `now` and `sleep` are for tests.
  Pace(
      const Options& options, Steps steps, std::function<Clock::time_point()> now = Clock::now,
      std::function<void(Clock::duration)> sleep = [](Clock::duration time) { Sleep(time); });

  // A piece of work is done.
  void Rest();

 private:
  static void Sleep(Clock::duration time);

  const Options options_;
  const Steps steps_;
  const std::function<Clock::time_point()> now_;
  const std::function<void(Clock::duration)> sleep_;
  uint64_t seen_ = 0;
  Clock::time_point stepped_;  // when steps were seen last
  Clock::time_point worked_since_;
};

}  // namespace conclave::worker

#include "worker/experts/pace.h"

#include <algorithm>
#include <thread>

#include "scheduler/check.h"

namespace conclave::worker {

Pace::Pace(const Options& options, Steps steps, std::function<Clock::time_point()> now,
           std::function<void(Clock::duration)> sleep)
    : options_(options),
      steps_(std::move(steps)),
      now_(std::move(now)),
      sleep_(std::move(sleep)),
      seen_(steps_ ? steps_() : 0),
      stepped_(now_() - options.lately),
      worked_since_(now_()) {
  CONCLAVE_CHECK(options.share > 0 && options.share <= 1);
}

void Pace::Rest() {
  if (!steps_) return;
  const Clock::time_point now = now_();
  if (const uint64_t steps = steps_(); steps != std::exchange(seen_, steps)) stepped_ = now;
  if (now - stepped_ < options_.lately) {
    const std::chrono::duration<double> rest = (now - worked_since_) * (1 / options_.share - 1);
    sleep_(std::min<Clock::duration>(options_.longest,
                                     std::chrono::duration_cast<Clock::duration>(rest)));
  }
  worked_since_ = now_();
}

void Pace::Sleep(Clock::duration time) { std::this_thread::sleep_for(time); }

}  // namespace conclave::worker

#include "scheduler/gather_rule.h"

#include <algorithm>

#include "scheduler/check.h"

namespace conclave::scheduler {
namespace {

constexpr int kMemory = 8;  // of a mean

Micros Mean(Micros mean, Micros sample) {
  return mean == Micros{0} ? sample : mean + (sample - mean) / kMemory;
}

}  // namespace

GatherRule::GatherRule(const Options& options, int32_t layers)
    : options_(options), layers_(layers) {
  CONCLAVE_CHECK(layers >= 1);
}

void GatherRule::Ask(Home home, int32_t layer, int32_t rows, Micros now) {
  if (options_.longest == Micros{0}) return;
  std::erase_if(homes_, [&](const Known& known) {
    return known.home != home && !known.waiting && now - known.asked > options_.forgotten;
  });
  const std::optional<size_t> index = Find(home);
  if (!index && homes_.size() >= options_.homes) return;
  Known& known = index ? homes_[*index] : homes_.emplace_back(Known{.home = home});
  if (index) known.interval = Mean(known.interval, now - known.asked);
  known.layer = layer % layers_;
  known.few = rows <= options_.rows;
  known.waiting = true;
  known.asked = now;
}

Micros GatherRule::Due(Home home, Micros now) const {
  const std::optional<size_t> index = Find(home);
  if (!index || !homes_[*index].few || Window() == Micros{0}) return now;
  const Known& known = homes_[*index];
  const bool waits = std::any_of(homes_.begin(), homes_.end(), [&](const Known& other) {
    return other.home != home && Comes(other, known, now);
  });
  return waits ? known.asked + Window() : now;
}

void GatherRule::Serve(Home home) {
  if (const std::optional<size_t> index = Find(home)) homes_[*index].waiting = false;
}

void GatherRule::Took(Micros pass) { pass_ = Mean(pass_, pass); }

bool GatherRule::Comes(const Known& other, const Known& home, Micros now) const {
  if (!other.few) return false;
  const bool active =
      other.interval > Micros{0} && now - other.asked <= other.interval * options_.patience;
  if (!other.waiting && !active) return false;
  const int32_t next = other.waiting ? other.layer : other.layer + 1;
  const int32_t ahead = (home.layer - next + layers_) % layers_;
  // One that waits at the same layer is here already.
  return 2 * ahead < layers_ && !(other.waiting && ahead == 0);
}

Micros GatherRule::Window() const {
  return pass_ < options_.worthwhile ? Micros{0} : std::min(pass_, options_.longest);
}

std::optional<size_t> GatherRule::Find(Home home) const {
  const auto found = std::find_if(homes_.begin(), homes_.end(),
                                  [&](const Known& known) { return known.home == home; });
  if (found == homes_.end()) return std::nullopt;
  return static_cast<size_t>(found - homes_.begin());
}

}  // namespace conclave::scheduler

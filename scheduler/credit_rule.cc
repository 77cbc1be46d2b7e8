#include "scheduler/credit_rule.h"

#include <algorithm>

#include "scheduler/check.h"

namespace conclave::scheduler {

CreditRule::CreditRule(const Options& options) : options_(options) {
  CONCLAVE_CHECK(options.waiting_percent >= 0);
}

int32_t CreditRule::Room(const Load& load) const {
  int64_t batch = load.batch;
  if (load.running > 0 && load.blocks_used > 0) {
    const int64_t fits = int64_t{load.running} * load.blocks / load.blocks_used;
    batch = std::clamp<int64_t>(fits, std::min(load.running, load.batch), batch);
  }
  const int64_t waiting = (batch * options_.waiting_percent + 99) / 100;
  const int64_t places = batch + waiting - (load.sequences - load.paused);
  const int64_t room = std::min<int64_t>(places, load.limit - load.sequences);
  return static_cast<int32_t>(std::max<int64_t>(0, room));
}

int32_t CreditRule::Share(const Load& load, int32_t links) const {
  const int32_t room = Room(load);
  if (room == 0 || links < 1) return 0;
  return std::max(1, room / links);
}

void LinkCredit::Grant(int32_t share) {
  granted_ = std::max(granted_, submitted_ + static_cast<uint64_t>(share));
}

bool LinkCredit::urgent() const {
  const uint64_t told = std::max(told_.value_or(0), submitted_);
  return granted_ > told && granted_ - told > told - submitted_;
}

std::optional<uint64_t> LinkCredit::Tell() {
  if (told_ == granted_) return std::nullopt;
  return told_ = granted_;
}

}  // namespace conclave::scheduler

#include "scheduler/router_roster.h"

#include <algorithm>
#include <iterator>

#include "scheduler/check.h"

namespace conclave::scheduler {

RouterRoster::RouterRoster(const Options& options) : options_(options) {
  CONCLAVE_CHECK(options.dead_after > Micros::zero());
  CONCLAVE_CHECK(options.forget_after > options.dead_after);
  CONCLAVE_CHECK(options.max_routers >= 1);
}

bool RouterRoster::Heartbeat(const Router& router, Micros now) {
  const auto found = routers_.find(router.address);
  if (found != routers_.end()) {
    found->second = {router, std::max(found->second.heard, now)};
    return true;
  }
  if (static_cast<int32_t>(routers_.size()) >= options_.max_routers && !MakeRoom()) return false;
  routers_[router.address] = {router, now};
  return true;
}

bool RouterRoster::MakeRoom() {
  auto longest = routers_.end();
  for (auto it = routers_.begin(); it != routers_.end(); ++it) {
    if (it->second.router.state != RouterState::kDead) continue;
    if (longest == routers_.end() || it->second.heard < longest->second.heard) longest = it;
  }
  if (longest == routers_.end()) return false;
  routers_.erase(longest);
  return true;
}

void RouterRoster::Excuse(Micros deaf, Micros now) {
  for (auto& [address, known] : routers_)
    known.heard = std::max(known.heard, std::min(known.heard + deaf, now));
}

void RouterRoster::Tick(Micros now) {
  for (auto it = routers_.begin(); it != routers_.end();) {
    Known& known = it->second;
    const Micros silent = now - known.heard;
    const bool dead = silent >= options_.dead_after;
    const bool forgotten =
        known.router.state == RouterState::kDraining ? dead : silent >= options_.forget_after;
    if (dead) known.router.state = RouterState::kDead;
    it = forgotten ? routers_.erase(it) : std::next(it);
  }
}

std::vector<RouterRoster::Router> RouterRoster::Routers() const {
  std::vector<Router> routers;
  routers.reserve(routers_.size());
  for (const auto& [address, known] : routers_) routers.push_back(known.router);
  return routers;
}

}  // namespace conclave::scheduler

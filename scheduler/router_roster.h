#pragma once
// Which routers there are, told by their heartbeats and by silence. Nothing is decided by it: it is
// for operators, and for clients that look for another router.
// Pure: time is an argument. Owned by one thread (or one lock) of the scheduler process, and not
// kept beyond it: who lives beats again.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "scheduler/types.h"

namespace conclave::scheduler {

enum class RouterState : uint8_t {
  kServing,
  kDraining,  // finishes what it has
  kDead,      // silent for long
};

class RouterRoster {
 public:
  struct Options {
    Micros dead_after = std::chrono::seconds(2);
    Micros forget_after = std::chrono::minutes(10);  // > dead_after
    int32_t max_routers = 256;                       // known ones, the dead included
  };

  struct Router {
    std::string address;  // where clients connect; there is one router at an address
    std::string metrics_address;
    int64_t pid = 0;
    uint32_t live_requests = 0;  // as last heard
    RouterState state = RouterState::kServing;
  };

  explicit RouterRoster(const Options& options);

  // What a router that lives says of itself. The dead make room for who comes, the longest silent
  // first; false, without effect, if max_routers are known and none of them is dead.
  bool Heartbeat(const Router& router, Micros now);

  // Nobody could be heard for so long up to `now`: that is nobody's silence.
  void Excuse(Micros deaf, Micros now);

  // Draws the consequences of silence up to `now`. One that fell silent while it drained has left,
  // as it said it would, and is forgotten at once.
  void Tick(Micros now);

  std::vector<Router> Routers() const;  // by address

 private:
  struct Known {
    Router router;
    Micros heard{};
  };
  bool MakeRoom();

  const Options options_;
  std::map<std::string, Known> routers_;
};

}  // namespace conclave::scheduler

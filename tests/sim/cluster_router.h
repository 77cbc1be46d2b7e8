#pragma once
// A router and its clients in a simulation: sends every request to a worker that the view calls
// ready, moves what a worker loses to another with what was generated, hands each token out once
// and in order, and checks it against the sequence computed alone.

#include <cstdint>
#include <map>
#include <vector>

#include "tests/sim/cluster_world.h"

namespace conclave::sim {

class SimRouter {
 public:
  explicit SimRouter(World& world) : world_(world) {}

  struct Token {
    uint64_t request = 0;
    uint32_t attempt = 0;
    int32_t index = 0;
    uint64_t token = 0;
  };

  void Begin();  // asks for views from now on
  void OnView(const SharedView& view);
  // A client's.
  void Submit(int32_t tokens);
  void Cancel();  // one that lives, if there is one

  // From workers; their streams are in order.
  void Tell(int32_t worker, const Token& token);
  void OnRefused(int32_t worker, uint64_t request, uint32_t attempt);
  // A worker's process ended: its connection broke.
  void OnLinkBroken(int32_t worker, uint64_t incarnation);

  bool Holds(uint64_t version) const;
  // A worker has, or had, a request of it.
  bool Runs(uint64_t version) const;
  bool idle() const { return live_.empty(); }
  size_t live() const { return live_.size(); }

 private:
  struct Request {
    uint64_t version = 0;  // of an adapter, from its beginning to its end
    uint64_t last = 0;
    int32_t index = 0;
    int32_t left = 0;
    uint32_t attempt = 0;
    int32_t home = -1;
    uint64_t home_incarnation = 0;
    Micros began{};
  };
  // It has to wait for its version to be in memory.
  bool IsAway(const Request& request) const;
  void Ask();
  void Place(uint64_t id);
  void Move(uint64_t id);
  void OnToken(int32_t worker, const Token& token);
  void CancelAt(int32_t worker, uint64_t request, uint32_t attempt);

  World& world_;
  SharedView view_ = std::make_shared<const View>();
  std::map<uint64_t, Request> live_;
  std::set<uint64_t> ended_;
  uint64_t next_ = 1;
};

}  // namespace conclave::sim

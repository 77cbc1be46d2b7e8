#pragma once
// Virtual time: what is to happen, in order of time, then of scheduling. And a process in it, which
// can crash, start again, and be stopped for a while as SIGSTOP does.

#include <cstdint>
#include <functional>
#include <queue>
#include <utility>
#include <vector>

#include "scheduler/types.h"

namespace conclave::sim {

using scheduler::Micros;

class Timeline {
 public:
  Micros now() const { return now_; }
  void At(Micros when, std::function<void()> what) {
    events_.push({when < now_ ? now_ : when, next_++, std::move(what)});
  }
  void After(Micros delay, std::function<void()> what) { At(now_ + delay, std::move(what)); }

  // The next event, if there is one before `end`.
  bool RunNext(Micros end) {
    if (events_.empty() || events_.top().when >= end) return false;
    Event event = std::move(const_cast<Event&>(events_.top()));
    events_.pop();
    now_ = event.when;
    event.what();
    return true;
  }

 private:
  struct Event {
    Micros when;
    uint64_t order;
    std::function<void()> what;
    bool operator<(const Event& other) const {  // the earliest is the top
      return std::pair(when, order) > std::pair(other.when, other.order);
    }
  };
  Micros now_{0};
  uint64_t next_ = 0;
  std::priority_queue<Event> events_;
};

class Process {
 public:
  explicit Process(Timeline& timeline) : timeline_(timeline) {}
  virtual ~Process() = default;

  bool up() const { return up_; }
  bool stopped() const { return stopped_; }
  uint64_t incarnation() const { return incarnation_; }  // of this start; counts from 1

  void Start() {
    up_ = true;
    ++incarnation_;
    OnStart();
  }
  void Crash() {
    up_ = stopped_ = false;
    waiting_.clear();
    OnCrash();
  }
  void Stop() { stopped_ = up_; }
  void Continue() {
    stopped_ = false;
    for (auto& what : std::exchange(waiting_, {})) Take(std::move(what));
  }

  // Something comes from outside: now, or once the process runs again; never, if it is not there.
  void Take(std::function<void()> what) {
    if (!up_) return;
    if (stopped_) {
      waiting_.push_back(std::move(what));
    } else {
      what();
    }
  }

 protected:
  virtual void OnStart() = 0;
  virtual void OnCrash() = 0;
  Micros now() const { return timeline_.now(); }
  // A timer of this start of the process.
  void After(Micros delay, std::function<void()> what) {
    timeline_.After(delay, [this, mine = incarnation_, what = std::move(what)] {
      if (mine == incarnation_) Take(what);
    });
  }

  Timeline& timeline_;

 private:
  bool up_ = false;
  bool stopped_ = false;
  uint64_t incarnation_ = 0;
  std::vector<std::function<void()>> waiting_;
};

}  // namespace conclave::sim

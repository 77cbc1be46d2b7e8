#pragma once
// A device that two threads use in turn: a worker's engine thread for its own sequences, its expert
// thread for everybody's experts. One operation runs at a time, with the whole compute pool, in the
// order in which they were asked for, so that neither thread starves the other. Who waits watches
// for a moment before it sleeps.
//
// Threads: any, except Allocate, which belongs to the start.

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

#include "worker/device/forwarding_device.h"

namespace conclave::worker {

// First come, first served.
class Turnstile {
 public:
  void Enter();
  void Leave();

 private:
  alignas(64) std::atomic<uint32_t> next_{0};
  alignas(64) std::atomic<uint32_t> serving_{0};
};

class SharedDevice final : public ForwardingDevice {
 public:
  explicit SharedDevice(std::unique_ptr<Device> device) : ForwardingDevice(std::move(device)) {}

 private:
  bool Before() override {
    turn_.Enter();
    return true;
  }
  void After() override { turn_.Leave(); }

  Turnstile turn_;
};

}  // namespace conclave::worker

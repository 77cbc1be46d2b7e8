#pragma once
// Every expert of an engine's model to one worker: to the engine's own, or to one that is not
// there.

#include <cstdint>
#include <memory>
#include <string>

#include "scheduler/check.h"
#include "scheduler/placement.h"
#include "worker/engine.h"

namespace conclave::worker::testing {

// From the next step on. Epochs are given in order, from 1.
inline void GiveAll(Engine& engine, const std::string& worker, scheduler::Epoch epoch) {
  const ModelSpec& spec = engine.model().spec;
  const auto layers = static_cast<int32_t>(FrameLimitsFor(spec, 1).layers);
  scheduler::Placement placement = scheduler::Contiguous({worker}, layers, spec.gate.slots);
  placement.epoch = placement.plan = epoch;
  CONCLAVE_CHECK(engine.Prepare(std::make_shared<const scheduler::Placement>(placement)).ok());
  CONCLAVE_CHECK(engine.Commit(placement.plan, epoch).ok());
}

}  // namespace conclave::worker::testing

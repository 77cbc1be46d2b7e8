#pragma once
// An engine that its test steps itself, on one compute thread.

#include <gtest/gtest.h>

#include <memory>
#include <utility>

#include "scheduler/check.h"
#include "worker/engine.h"
#include "worker/model/model.h"

namespace conclave::worker::testing {

inline constexpr scheduler::Micros kNow{1'000'000};
inline constexpr int kBlock = 8;  // positions

inline std::unique_ptr<Engine> MakeSteppedEngine(std::shared_ptr<const Model> model,
                                                 Engine::Options options) {
  options.start_thread = false;
  options.planner.block_size = kBlock;
  CpuDeviceOptions device_options = CpuDeviceOptionsFor(model->spec, options);
  device_options.threads = 1;
  auto device = MakeCpuDevice(device_options);
  CONCLAVE_CHECK(device.ok());
  auto engine = Engine::Create(options, std::move(model), std::move(*device));
  CONCLAVE_CHECK(engine.ok());
  return std::move(*engine);
}

inline void RunUntilIdle(Engine& engine) {
  for (int steps = 0; engine.Step(kNow); ++steps) {
    ASSERT_LT(steps, 20000) << "the engine does not come to an end";
  }
}

}  // namespace conclave::worker::testing

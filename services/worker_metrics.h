#pragma once
// A worker's series: vLLM's names where they mean the same, so that existing dashboards read us,
// and ours beside them.

#include <cstdint>

#include "services/heartbeat.h"
#include "services/metrics.h"
#include "services/worker_service.h"
#include "worker/engine.h"

namespace conclave::services {

void WriteWorkerMetrics(const worker::Engine& engine, const WorkerService::Stats& service,
                        MetricsWriter& writer);
// Of a worker that has a scheduler: what each hears of the other, and the placement's epoch.
void WriteClusterMetrics(const Heartbeat::Stats& heartbeat, bool watching, uint64_t epoch,
                         MetricsWriter& writer);

}  // namespace conclave::services

#pragma once
// A worker's series: vLLM's names where they mean the same, so that existing dashboards read us,
// and ours beside them.

#include "services/heartbeat.h"
#include "services/metrics.h"
#include "services/worker_service.h"
#include "worker/engine.h"

namespace conclave::services {

void WriteWorkerMetrics(const worker::Engine& engine, const WorkerService::Stats& service,
                        const Heartbeat::Stats& heartbeat, MetricsWriter& writer);

}  // namespace conclave::services

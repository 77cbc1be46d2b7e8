#pragma once
// Experts that workers give each other, and experts of adapters, on a worker's metrics page. Any
// thread.

#include "services/expert_fetcher.h"
#include "services/expert_giver.h"
#include "services/metrics.h"
#include "worker/engine.h"
#include "worker/experts/adapter_store.h"

namespace conclave::services {

// fetcher: null where the checkpoint at hand has to do.
void WriteExpertMetrics(const worker::ExpertStore::Stats& store, const ExpertFetcher* fetcher,
                        const ExpertGiver::Stats& given, MetricsWriter& writer);

void WriteAdapterMetrics(const worker::AdapterStore::Stats& store,
                         const worker::Engine::Stats& engine, MetricsWriter& writer);

}  // namespace conclave::services

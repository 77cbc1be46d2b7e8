#pragma once
// Experts that workers give each other, on a worker's metrics page. Any thread.

#include "services/expert_fetcher.h"
#include "services/expert_giver.h"
#include "services/metrics.h"

namespace conclave::services {

// fetcher: null where the checkpoint at hand has to do.
void WriteExpertMetrics(const worker::ExpertStore::Stats& store, const ExpertFetcher* fetcher,
                        const ExpertGiver::Stats& given, MetricsWriter& writer);

}  // namespace conclave::services

#pragma once
// What workers do for each other, as series: bounded in number whatever the cluster's size.

#include "services/exchange/peer_transport.h"
#include "services/metrics.h"
#include "worker/engine.h"

namespace conclave::services {

// transport: null for a worker that is alone.
void WriteExchangeMetrics(const worker::Engine& engine, const PeerTransport* transport,
                          MetricsWriter& writer);

}  // namespace conclave::services

#include "services/expert_metrics.h"

namespace conclave::services {

void WriteExpertMetrics(const worker::ExpertStore::Stats& store, const ExpertFetcher* fetcher,
                        const ExpertGiver::Stats& given, MetricsWriter& writer) {
  const auto counter = [&](const char* name, const char* help, uint64_t value,
                           const Labels& labels = {}) {
    writer.Counter(name, help, labels, static_cast<double>(value));
  };
  counter("conclave_experts_given_total", "Experts given to workers whose checkpoints lack them.",
          given.given);
  counter("conclave_experts_given_bytes_total", "Bytes of experts sent to other workers.",
          given.bytes);
  counter("conclave_experts_given_refused_total", "Experts asked for and not given.",
          given.refused);
  writer.Gauge("conclave_experts_absent", "Experts that the checkpoint at hand lacks.", {},
               static_cast<double>(store.absent));
  if (fetcher == nullptr) return;
  writer.Gauge("conclave_experts_sealed", "Experts from other workers, in sealed memory.", {},
               static_cast<double>(store.fetched));
  writer.Gauge("conclave_experts_sealed_bytes", "Memory that they take.", {},
               static_cast<double>(store.fetched_bytes));
  const ExpertFetcher::Stats stats = fetcher->stats();
  counter("conclave_experts_fetched_total", "Experts fetched from other workers.", stats.experts);
  counter("conclave_experts_fetched_bytes_total", "Bytes of experts that arrived.", stats.bytes);
  for (size_t i = 0; i < stats.failures.size(); ++i) {
    counter("conclave_expert_fetch_failures_total", "Times that a worker did not give an expert.",
            stats.failures[i], {{"reason", NameOf(static_cast<FetchFailure>(i))}});
  }
}

void WriteAdapterMetrics(const worker::AdapterStore::Stats& store,
                         const worker::Engine::Stats& engine, MetricsWriter& writer) {
  writer.Gauge("conclave_adapter_versions", "Versions of adapters that are served.", {},
               static_cast<double>(store.versions));
  writer.Gauge("conclave_adapter_experts", "Experts of adapters that are held here.", {},
               static_cast<double>(store.experts));
  writer.Gauge("conclave_adapter_expert_bytes", "Memory of those.", {},
               static_cast<double>(store.bytes));
  writer.Counter("conclave_adapter_freed_bytes_total", "Memory of adapters' experts given back.",
                 {}, static_cast<double>(store.freed_bytes));
  writer.Counter("conclave_adapter_routes_total",
                 "Experts chosen for rows of adapters, wrong guesses included.", {},
                 static_cast<double>(engine.adapter_routes));
  writer.Counter("conclave_adapter_tuned_routes_total",
                 "Of them, those that the adapter has an expert of its own for.", {},
                 static_cast<double>(engine.tuned_routes));
}

}  // namespace conclave::services

#pragma once
// A process's Prometheus endpoint. Values live with their owners as plain Stats structs and are
// read at scrape time by a source. Names: `vllm:` for series other servers have under that name
// (labels model_name, engine), `conclave_` for ours. Label values come from bounded sets only. Any
// thread.

#include <prometheus/collectable.h>
#include <prometheus/exposer.h>
#include <prometheus/metric_family.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "services/address.h"
#include "services/credentials.h"

namespace conclave::services {

using Labels = std::map<std::string, std::string>;

// The series of one scrape, as a source writes them. Values of one name are given one after the
// other.
class MetricsWriter {
 public:
  void Gauge(const std::string& name, const std::string& help, const Labels& labels, double value);
  void Counter(const std::string& name, const std::string& help, const Labels& labels,
               double value);
  // `counts` are per bucket, not cumulative: one more than `bounds`, the last for what lies above
  // them all.
  void Histogram(const std::string& name, const std::string& help, const Labels& labels,
                 const std::vector<double>& bounds, const std::vector<uint64_t>& counts,
                 double sum);
  std::vector<prometheus::MetricFamily> Take() { return std::move(families_); }

 private:
  prometheus::ClientMetric& Add(const std::string& name, const std::string& help,
                                prometheus::MetricType type, const Labels& labels);
  std::vector<prometheus::MetricFamily> families_;
};

class Metrics {
 public:
  using Source = std::function<void(MetricsWriter&)>;

  // Serves GET /metrics on HOST:PORT (port 0: any free one), with the process's own series (memory,
  // CPU, files). INVALID_ARGUMENT, FAILED_PRECONDITION (reachable from outside without --insecure;
  // it has no TLS), UNAVAILABLE.
  static absl::StatusOr<std::unique_ptr<Metrics>> Start(const std::string& listen, bool insecure);
  ~Metrics();

  const Address& address() const { return address_; }

  // Calls `source` at every scrape, on a scrape's thread, from now until this object ends.
  void AddSource(Source source);

 private:
  Metrics(std::unique_ptr<prometheus::Exposer> exposer, Address address);

  std::vector<std::shared_ptr<prometheus::Collectable>> sources_;
  Address address_;
  std::unique_ptr<prometheus::Exposer> exposer_;  // first to end: no scrape outlives what it reads
};

}  // namespace conclave::services

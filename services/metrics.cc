#include "services/metrics.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <limits>
#include <thread>
#include <utility>

#include "absl/strings/str_format.h"
#include "scheduler/check.h"
#include "worker/status.h"

namespace conclave::services {
namespace {

class SourceCollectable : public prometheus::Collectable {
 public:
  explicit SourceCollectable(Metrics::Source source) : source_(std::move(source)) {}
  std::vector<prometheus::MetricFamily> Collect() const override {
    MetricsWriter writer;
    source_(writer);
    return writer.Take();
  }

 private:
  Metrics::Source source_;
};

double ResidentBytes() {
  long total_pages = 0;
  long resident_pages = 0;
  if (std::FILE* const file = std::fopen("/proc/self/statm", "re")) {
    if (std::fscanf(file, "%ld %ld", &total_pages, &resident_pages) != 2) resident_pages = 0;
    std::fclose(file);
  }
  return static_cast<double>(resident_pages) * static_cast<double>(sysconf(_SC_PAGESIZE));
}

double CpuSeconds() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

double OpenFiles() {
  int count = 0;
  if (DIR* const directory = opendir("/proc/self/fd")) {
    while (const dirent* const entry = readdir(directory)) count += entry->d_name[0] != '.';
    closedir(directory);
    --count;  // the directory itself
  }
  return count;
}

// Connects and leaves; without effect if the host is no IPv4 address.
void KnockAt(const Address& address) {
  sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(static_cast<uint16_t>(address.port))};
  if (inet_pton(AF_INET, address.host.c_str(), &to.sin_addr) != 1) return;
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return;
  [[maybe_unused]] const int result =
      connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof(to));
  close(fd);
}

void WriteProcess(MetricsWriter& writer) {
  writer.Gauge("process_resident_memory_bytes", "Resident memory size in bytes.", {},
               ResidentBytes());
  writer.Counter("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.",
                 {}, CpuSeconds());
  writer.Gauge("process_open_fds", "Number of open file descriptors.", {}, OpenFiles());
}

}  // namespace

prometheus::ClientMetric& MetricsWriter::Add(const std::string& name, const std::string& help,
                                             prometheus::MetricType type, const Labels& labels) {
  if (families_.empty() || families_.back().name != name)
    families_.push_back({name, help, type, {}});
  CONCLAVE_CHECK(families_.back().type == type);
  prometheus::ClientMetric& metric = families_.back().metric.emplace_back();
  for (const auto& [key, value] : labels) metric.label.push_back({key, value});
  return metric;
}

void MetricsWriter::Gauge(const std::string& name, const std::string& help, const Labels& labels,
                          double value) {
  Add(name, help, prometheus::MetricType::Gauge, labels).gauge.value = value;
}

void MetricsWriter::Counter(const std::string& name, const std::string& help, const Labels& labels,
                            double value) {
  Add(name, help, prometheus::MetricType::Counter, labels).counter.value = value;
}

void MetricsWriter::Histogram(const std::string& name, const std::string& help,
                              const Labels& labels, const std::vector<double>& bounds,
                              const std::vector<uint64_t>& counts, double sum) {
  CONCLAVE_CHECK(counts.size() == bounds.size() + 1);
  auto& histogram = Add(name, help, prometheus::MetricType::Histogram, labels).histogram;
  for (size_t i = 0; i < counts.size(); ++i) {
    histogram.sample_count += counts[i];
    const double bound = i < bounds.size() ? bounds[i] : std::numeric_limits<double>::infinity();
    histogram.bucket.push_back({histogram.sample_count, bound});
  }
  histogram.sample_sum = sum;
}

absl::StatusOr<std::unique_ptr<Metrics>> Metrics::Start(const std::string& listen, bool insecure) {
  CONCLAVE_ASSIGN_OR_RETURN(Address address, Address::Parse(listen));
  if (!address.loopback() && !insecure) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "--metrics %s can be reached from outside and has no TLS: give --insecure", listen));
  }
  const std::string port = address.host.empty() ? absl::StrCat(address.port) : address.ToString();
  try {
    auto exposer = std::make_unique<prometheus::Exposer>(
        std::vector<std::string>{"listening_ports", port, "num_threads", "2", "request_timeout_ms",
                                 "10000", "keep_alive_timeout_ms", "10000"});
    address.port = exposer->GetListeningPorts().at(0);
    return std::unique_ptr<Metrics>(new Metrics(std::move(exposer), std::move(address)));
  } catch (const std::exception&) {  // the library reports a port in use this way
    return absl::UnavailableError(absl::StrFormat(
        "cannot serve metrics on %s: in use, or not an address of this machine", listen));
  }
}

Metrics::Metrics(std::unique_ptr<prometheus::Exposer> exposer, Address address)
    : address_(std::move(address)), exposer_(std::move(exposer)) {
  AddSource(WriteProcess);
}

// The library's listening thread looks up only when somebody connects, or every two seconds; so
// that no shutdown waits for that, somebody does.
Metrics::~Metrics() {
  std::atomic<bool> stopped{false};
  std::jthread stop([&] {
    exposer_.reset();
    stopped = true;
  });
  while (!stopped) {
    KnockAt(address_);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

void Metrics::AddSource(Source source) {
  sources_.push_back(std::make_shared<SourceCollectable>(std::move(source)));
  exposer_->RegisterCollectable(sources_.back());
}

}  // namespace conclave::services

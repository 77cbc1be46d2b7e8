#pragma once
// What the router counts. Series that other servers have are named as vLLM names them, with its
// label values alone: latencies, sizes and ends of requests are the router's, because clients wait
// for it; tokens, running sequences and the KV cache are the workers', so that a sum over all
// processes counts nothing twice. (vllm:num_requests_waiting comes from both: each counts its own
// queue, and a request is in one of them.) Any thread.

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "router/admission.h"
#include "router/delta.h"
#include "scheduler/types.h"
#include "services/adapter_metrics.h"
#include "services/histogram.h"
#include "services/metrics.h"
#include "services/worker_link.h"

namespace conclave::services {

struct RouterMetrics {
  // Why a request was refused before it ran.
  enum class Rejection : uint8_t {
    kInvalid,
    kUnknown,
    kDuplicate,
    kRequests,
    kWaiting,
    kTokens,
    kAdapterLimit,
    kAdapterNotNow,
    kTokenizer,
    kNoWorker,
    kDraining
  };
  static constexpr size_t kRejections = 11;

  RouterMetrics();

  Histogram first_token_seconds;
  Histogram inter_token_seconds;
  Histogram request_seconds;
  Histogram queue_seconds;
  Histogram resume_seconds;  // from the loss of a home to the next news
  Histogram probe_seconds;   // that requests for `auto` waited for its choice
  Histogram prompt_tokens;
  Histogram generated_tokens;
  AdapterMetrics adapters;
  std::array<std::atomic<uint64_t>, kRejections> rejected = {};
  std::atomic<uint64_t> stopped = 0, length = 0, aborted = 0, failed = 0;
  std::atomic<uint64_t> pauses = 0;
  std::atomic<uint64_t> probes_failed = 0;
  std::atomic<int64_t> pending_bytes_max = 0;

  void Reject(Rejection why) {
    rejected[static_cast<size_t>(why)].fetch_add(1, std::memory_order_relaxed);
  }
  // An admitted request ended after `elapsed`.
  void Ended(const absl::Status& status, const std::optional<router::Finish>& finish,
             scheduler::Micros elapsed);
  void ObservePending(int64_t bytes);

  void Write(MetricsWriter& writer, const std::string& model_name) const;
};

// What a router has to do now.
struct RouterLoad {
  router::Admission::Stats requests;
  int32_t waiting_for_memory = 0;  // of them
  size_t workers_ready = 0;
  size_t workers_late = 0;
  std::map<std::string, WorkerLink::Stats> links;  // by the worker's address
};

void Write(MetricsWriter& writer, const std::string& model_name, const RouterLoad& load);

}  // namespace conclave::services

#include "services/router_metrics.h"

#include <algorithm>

namespace conclave::services {
namespace {

constexpr std::array<const char*, RouterMetrics::kRejections> kRejectionNames = {
    "invalid",       "unknown",           "duplicate_id", "requests",  "waiting", "tokens",
    "adapter_limit", "adapter_not_ready", "tokenizer",    "no_worker", "draining"};

}  // namespace

RouterMetrics::RouterMetrics()
    : first_token_seconds(FirstTokenBounds()),
      inter_token_seconds(InterTokenBounds()),
      request_seconds(RequestBounds()),
      queue_seconds(RequestBounds()),
      resume_seconds(ResumeBounds()),
      probe_seconds(FirstTokenBounds()),
      prompt_tokens(TokenBounds()),
      generated_tokens(TokenBounds()) {}

void RouterMetrics::Ended(const absl::Status& status, const std::optional<router::Finish>& finish,
                          scheduler::Micros elapsed) {
  // A score ends with its prompt: by length, in vLLM's words, which has none of its own for it.
  const bool cut = finish && finish->reason != scheduler::FinishReason::kStop;
  const bool gone = absl::IsCancelled(status) || absl::IsDeadlineExceeded(status);
  auto& counter = status.ok() ? (cut ? length : stopped) : (gone ? aborted : failed);
  counter.fetch_add(1, std::memory_order_relaxed);
  if (status.ok()) request_seconds.Observe(elapsed);
}

void RouterMetrics::ObservePending(int64_t bytes) {
  int64_t seen = pending_bytes_max.load(std::memory_order_relaxed);
  while (bytes > seen && !pending_bytes_max.compare_exchange_weak(seen, bytes)) {
  }
}

void RouterMetrics::Write(MetricsWriter& writer, const std::string& model_name) const {
  const Labels labels = {{"model_name", model_name}, {"engine", "router"}};
  first_token_seconds.Write(writer, "vllm:time_to_first_token_seconds",
                            "From a request's arrival at the router to its first token.", labels);
  inter_token_seconds.Write(writer, "vllm:inter_token_latency_seconds",
                            "Between a request's tokens.", labels);
  request_seconds.Write(writer, "vllm:e2e_request_latency_seconds", "Of a complete request.",
                        labels);
  queue_seconds.Write(writer, "vllm:request_queue_time_seconds",
                      "Until a request was given to a worker.", labels);
  resume_seconds.Write(writer, "conclave_router_resume_seconds",
                       "From the loss of a request's worker to what another says of it.", {});
  probe_seconds.Write(writer, "conclave_router_auto_probe_seconds",
                      "That a request for auto waited until its adapter was chosen.", {});
  writer.Counter("conclave_router_auto_probes_failed_total",
                 "Requests for auto that ended before their adapter was chosen.", {},
                 static_cast<double>(probes_failed.load(std::memory_order_relaxed)));
  prompt_tokens.Write(writer, "vllm:request_prompt_tokens", "Of a complete request.", labels);
  generated_tokens.Write(writer, "vllm:request_generation_tokens", "Of a complete request.",
                         labels);
  const auto ended = [&](const char* reason, const std::atomic<uint64_t>& count) {
    Labels with = labels;
    with["finished_reason"] = reason;
    writer.Counter("vllm:request_success_total", "Requests that ended, by reason.", with,
                   static_cast<double>(count.load(std::memory_order_relaxed)));
  };
  ended("stop", stopped);
  ended("length", length);
  ended("abort", aborted);
  ended("error", failed);
  for (size_t i = 0; i < kRejections; ++i) {
    writer.Counter("conclave_router_rejected_total", "Requests refused before they ran, by reason.",
                   {{"reason", kRejectionNames[i]}},
                   static_cast<double>(rejected[i].load(std::memory_order_relaxed)));
  }
  writer.Counter("conclave_router_pauses_total", "Sequences paused because their client was slow.",
                 {}, static_cast<double>(pauses.load(std::memory_order_relaxed)));
  writer.Gauge("conclave_router_pending_bytes_max",
               "Most that ever waited for one client or was on its way to it.", {},
               static_cast<double>(pending_bytes_max.load(std::memory_order_relaxed)));
}

void Write(MetricsWriter& writer, const std::string& model_name, const RouterLoad& load) {
  const router::Admission::Stats& requests = load.requests;
  writer.Gauge("vllm:num_requests_waiting", "Requests that no worker has yet.",
               {{"model_name", model_name}, {"engine", "router"}},
               requests.preparing + requests.waiting);
  writer.Gauge("conclave_router_waiting_for_credit",
               "Requests that no worker has yet because none has granted more.", {},
               requests.waiting_for_credit);
  writer.Gauge("conclave_router_waiting_for_memory",
               "Requests that wait until their adapter has a place in memory.", {},
               load.waiting_for_memory);
  writer.Gauge("conclave_router_live_requests", "Requests not yet finished for their clients.", {},
               requests.requests);
  writer.Gauge("conclave_router_home_requests", "Requests that a worker has.", {},
               requests.running);
  writer.Gauge("conclave_router_admitted_tokens",
               "Prompt and most output of requests that wait or run.", {},
               static_cast<double>(requests.tokens));
  writer.Gauge("conclave_router_workers_ready", "Workers that can be given requests.", {},
               static_cast<double>(load.workers_ready));
  writer.Gauge("conclave_router_workers_late",
               "Workers that most others pass over for being late; new requests go elsewhere.", {},
               static_cast<double>(load.workers_late));
  for (const auto& [address, link] : load.links) {
    writer.Gauge("conclave_router_link_sequences", "On the worker, of this router.",
                 {{"worker", address}}, static_cast<double>(link.sequences));
  }
  for (const auto& [address, link] : load.links) {
    if (!link.credit) continue;
    writer.Gauge("conclave_router_link_credit", "Sequences the worker takes yet from this router.",
                 {{"worker", address}}, static_cast<double>(*link.credit));
  }
  for (const auto& [address, link] : load.links) {
    writer.Counter("conclave_router_link_streams_total", "Streams opened to the worker.",
                   {{"worker", address}}, static_cast<double>(link.streams));
  }
}

}  // namespace conclave::services

#include "services/worker_metrics.h"

#include <numeric>
#include <span>

#include "absl/strings/str_cat.h"

namespace conclave::services {
namespace {

using Stats = worker::Engine::Stats;

Labels With(Labels labels, const std::string& name, const std::string& value) {
  labels[name] = value;
  return labels;
}

void WriteLoad(const Stats& stats, const Labels& labels, MetricsWriter& writer) {
  const scheduler::BatchPlanner::Stats& planner = stats.planner;
  writer.Gauge("vllm:num_requests_running", "Sequences that hold KV blocks.", labels,
               planner.running);
  writer.Gauge("vllm:num_requests_waiting", "Sequences that wait for KV blocks.", labels,
               planner.waiting);
  const double usage =
      planner.blocks > 0 ? static_cast<double>(planner.blocks_used) / planner.blocks : 0.0;
  writer.Gauge("vllm:kv_cache_usage_perc", "Share of KV blocks in use, 0 to 1.", labels, usage);
  writer.Gauge("conclave_kv_blocks_cached",
               "KV blocks in use by none, kept for prompts that begin with what they hold.", labels,
               planner.blocks_cached);
  Labels cache = With(labels, "block_size", absl::StrCat(stats.kv_block_size));
  writer.Gauge("vllm:cache_config_info", "The KV pool.",
               With(cache, "num_gpu_blocks", absl::StrCat(planner.blocks)), 1);
  writer.Gauge("conclave_kv_bytes", "Size of the KV pool.", labels,
               static_cast<double>(stats.kv_bytes));
  writer.Gauge("conclave_waiting_tokens", "Prompt tokens of the sequences that wait.", labels,
               static_cast<double>(planner.waiting_tokens));
  writer.Gauge("conclave_draining", "1 while nothing new is accepted.", labels,
               stats.draining ? 1 : 0);
}

void WriteWork(const Stats& stats, const Labels& labels, MetricsWriter& writer) {
  const auto counter = [&](const char* name, const char* help, uint64_t value) {
    writer.Counter(name, help, labels, static_cast<double>(value));
  };
  counter("vllm:num_preemptions_total", "Sequences that lost their KV blocks to others.",
          stats.planner.preemptions);
  counter("vllm:prompt_tokens_total", "Prompt tokens computed or found in KV blocks.",
          stats.prompt_tokens);
  counter("vllm:generation_tokens_total", "Tokens sampled.", stats.generated_tokens);
  counter("vllm:prompt_tokens_recomputed_total", "Tokens computed again after a preemption.",
          stats.recomputed_tokens);
  counter("conclave_speculated_tokens_total", "Guesses at next tokens that were computed.",
          stats.speculated_tokens);
  counter("conclave_speculated_accepted_total", "Of them, those that were right and of use.",
          stats.speculated_accepted);
  counter("vllm:prefix_cache_queries_total",
          "Prompt tokens looked for in KV blocks: of all but those who report on their prompt.",
          stats.prefix_queries);
  counter("vllm:prefix_cache_hits_total", "Prompt tokens found there.", stats.prefix_hits);
  counter("conclave_orphans_taken_over_total",
          "Sequences that went on for another router than the one that was lost.",
          stats.orphans_taken_over);
  counter("conclave_kv_blocks_evicted_total", "Cached KV blocks that gave way to others.",
          stats.planner.evictions);
  counter("conclave_steps_total", "Steps of the batch.", stats.steps);
  const auto histogram = [&](const char* name, const char* help, const worker::Histogram& spread) {
    writer.Histogram(name, help, labels, spread.bounds, spread.counts, spread.sum);
  };
  histogram("vllm:iteration_tokens_total", "Tokens of a step, guesses included.",
            stats.step_tokens);
  histogram("conclave_step_seconds", "Time of a step.", stats.step_seconds);
}

void WriteEnds(const Stats& stats, const Labels& labels, MetricsWriter& writer) {
  const auto ended = [&](const char* reason, uint64_t count) {
    writer.Counter("conclave_sequences_ended_total", "Sequences that ended, by reason.",
                   With(labels, "reason", reason), static_cast<double>(count));
  };
  ended("stop", stats.ended_stop);
  ended("length", stats.ended_length);
  ended("scored", stats.ended_scored);
  ended("cancelled", stats.ended_cancelled);
  ended("deadline", stats.ended_deadline);
  ended("error", stats.ended_error);
}

// One series per MoE layer; the busiest expert beside the sum shows the imbalance without a series
// per expert.
void WriteExperts(const worker::ModelSpec& spec, const Stats& stats, const Labels& labels,
                  MetricsWriter& writer) {
  const auto slots = static_cast<size_t>(spec.gate.slots);
  const auto each_layer = [&](auto&& write) {
    size_t moe_layer = 0;
    for (size_t i = 0; i < spec.layers.size(); ++i) {
      if (!spec.layers[i].moe) continue;
      const auto counts = std::span(stats.expert_tokens).subspan(moe_layer++ * slots, slots);
      write(With(labels, "layer", absl::StrCat(i)), counts);
    }
  };
  each_layer([&](const Labels& layer, std::span<const uint64_t> counts) {
    writer.Counter("conclave_expert_tokens_total",
                   "Rows routed to a layer's experts, wrong guesses included.", layer,
                   static_cast<double>(std::accumulate(counts.begin(), counts.end(), uint64_t{0})));
  });
  each_layer([&](const Labels& layer, std::span<const uint64_t> counts) {
    writer.Counter("conclave_expert_tokens_busiest_total",
                   "Rows routed to the busiest expert of a layer.", layer,
                   static_cast<double>(*std::max_element(counts.begin(), counts.end())));
  });
}

}  // namespace

void WriteWorkerMetrics(const worker::Engine& engine, const WorkerService::Stats& service,
                        MetricsWriter& writer) {
  const Stats stats = engine.stats();
  const Labels labels = {{"model_name", engine.model().spec.name}, {"engine", "0"}};
  WriteLoad(stats, labels, writer);
  writer.Gauge("conclave_converted_weight_bytes",
               "Memory of weights that could not be used as the checkpoint has them.", labels,
               static_cast<double>(engine.model().converted_bytes()));
  WriteWork(stats, labels, writer);
  WriteEnds(stats, labels, writer);
  WriteExperts(engine.model().spec, stats, labels, writer);
  writer.Gauge("conclave_links", "Routers connected.", {}, service.links);
  writer.Gauge("conclave_links_waiting_bytes", "Said by sequences and not yet read by routers.", {},
               static_cast<double>(service.waiting_bytes));
  writer.Counter("conclave_links_cut_total", "Routers cut off because they did not read.", {},
                 static_cast<double>(service.links_cut));
  writer.Counter("conclave_link_messages_total", "Messages written to routers.", {},
                 static_cast<double>(service.messages));
  writer.Counter("conclave_sequences_submitted_total",
                 "Sequences routers sent, the refused included.", {},
                 static_cast<double>(service.submitted));
  writer.Counter("conclave_sequences_refused_total", "Sequences refused.", {},
                 static_cast<double>(service.refused));
  writer.Counter("conclave_sequences_ungranted_total",
                 "Sequences refused because their router was not granted so many.", {},
                 static_cast<double>(service.ungranted));
}

void WriteClusterMetrics(const Heartbeat::Stats& heartbeat, bool watching, uint64_t epoch,
                         MetricsWriter& writer) {
  writer.Gauge("conclave_epoch", "Number of the placement this worker has adopted.", {},
               static_cast<double>(epoch));
  writer.Gauge("conclave_watch_connected", "1 while the scheduler tells this worker its views.", {},
               watching ? 1 : 0);
  writer.Gauge("conclave_scheduler_connected", "1 while the scheduler hears this worker.", {},
               heartbeat.connected ? 1 : 0);
  writer.Counter("conclave_heartbeats_missed_total", "Beats the scheduler did not answer.", {},
                 static_cast<double>(heartbeat.missed));
}

}  // namespace conclave::services

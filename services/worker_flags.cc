// The command line of conclave-worker, and what can be wrong with it by itself.

#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "services/address.h"
#include "services/identity.h"
#include "services/worker_node.h"
#include "worker/device/device.h"
#include "worker/device/packed.h"
#include "worker/status.h"

namespace conclave::services {
namespace {

absl::Status CheckStepFits(const scheduler::BatchPlanner::Options& planner) {
  if (planner.step_tokens >= planner.max_running) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat(
      "--max-running is %d and --step-tokens %d: a step computes a token of every running "
      "sequence, so raise --step-tokens or lower --max-running",
      planner.max_running, planner.step_tokens));
}

}  // namespace

absl::StatusOr<worker::Returns> ParseReturns(const std::string& text) {
  for (const worker::Returns returns : {worker::Returns::kRows, worker::Returns::kSums}) {
    if (text == std::string(worker::NameOf(returns))) return returns;
  }
  return absl::InvalidArgumentError(
      absl::StrFormat("--returns: owners cannot return \"%s\": want rows or sums", text));
}

absl::StatusOr<std::optional<worker::DType>> ParseWeights(const std::string& flag,
                                                          const std::string& text) {
  if (text == "stored") return std::nullopt;
  const std::optional<worker::DType> packed = worker::PackedTypeOf(text);
  if (packed) return packed;
  return absl::InvalidArgumentError(absl::StrFormat(
      "--%s: weights cannot be held as \"%s\": want stored, mxint8 or mxfp4", flag, text));
}

void WorkerNode::AddFlags(Flags& flags, Options& options) {
  flags.Add({"model", &options.model, "DIR", "checkpoint to serve, a Hugging Face directory"});
  flags.Add({"listen", &options.server.listen, "HOST:PORT",
             "where routers connect; port 0: any free one"});
  flags.Add({"advertise", &options.advertise, "HOST:PORT",
             "address told to others, if not the one listened on"});
  flags.Add({"scheduler", &options.scheduler, "HOST:PORT", "scheduler to report to; empty: none"});
  flags.Add({"id", &options.id, "NAME", "stable name of this worker; empty: the machine's"});
  flags.Add({"state", &options.state, "DIR",
             "where the incarnation is remembered; empty: the clock has to do"});
  flags.Add({"metrics", &options.metrics, "HOST:PORT", "where Prometheus scrapes; empty: nowhere"});
  flags.Add({"threads", &options.threads, "N", "compute threads; 0: one per CPU", 0, 1024});
  flags.Add({"numerics", &options.numerics, "LEVEL",
             "dispatch level: amxbf16, avx512bf16, avx512, avx2 or portable; empty: the best this "
             "CPU has"});
  flags.Add(
      {"weights", &options.weights, "FORM",
       "what experts are held as: stored, as the checkpoint has them; mxint8 or mxfp4, packed "
       "in 8 or 4 bits when they are read, for less memory and faster decoding; results are "
       "exactly those of the packed numbers. The same for all workers"});
  flags.Add({"dense-weights", &options.dense_weights, "FORM",
             "what all other matrices are held as, those of attention, of dense layers and of the "
             "head: likewise"});
  scheduler::BatchPlanner::Options& planner = options.engine.planner;
  flags.Add({"step-tokens", &planner.step_tokens, "N", "tokens of one step", 1, 1 << 16});
  flags.Add({"prefill-chunk", &planner.prefill_chunk, "N", "tokens of one prompt in one step", 1,
             1 << 16});
  flags.Add({"max-running", &planner.max_running, "N", "sequences computed at once", 1, 1 << 14});
  flags.Add({"max-waiting", &planner.max_waiting, "N", "sequences that wait", 0, 1 << 20});
  flags.Add({"waiting-percent", &options.service.credit.waiting_percent, "N",
             "of --max-running: sequences that routers may leave waiting here; others wait with "
             "their routers, who can give them to any worker",
             0, 10000});
  flags.Add({"max-waiting-tokens", &planner.max_waiting_tokens, "N", "prompt tokens that wait", 1,
             1 << 30});
  flags.Add({"block-size", &planner.block_size, "N", "positions of a KV block", 1, 1 << 12});
  flags.Add({"kv-bytes", &options.engine.kv_bytes, "BYTES", "size of the KV pool", 1, 1e15});
  flags.Add({"report-bytes", &options.engine.report_bytes, "BYTES",
             "of prompt log-probabilities and routing of one sequence in one step", 1, 1 << 30});
  flags.Add({"speculate-tokens", &options.engine.speculation.tokens, "N",
             "guesses at the next tokens of a sequence, at most, that a step computes beside its "
             "last one: what followed its last few tokens where they were before. What it says "
             "stays the same, bit for bit; 0: none",
             0, scheduler::SpeculationRule::kMaxTokens});
  flags.Add({"speculate-ngram", &options.engine.lookup.ngram, "N",
             "tokens that must have been there before, to guess at what comes next", 2, 8});
  flags.Add({"prefix-reuse", &options.engine.prefix_reuse, "",
             "start behind KV blocks that hold the same tokens already; =false: compute all"});
  flags.Add({"context-limit", &options.engine.context_limit, "N",
             "tokens of a sequence; 0: the model's", 0, 1 << 24});
  flags.Add({"converted-bytes", &options.converted_bytes, "BYTES",
             "memory for weights that cannot be used as the checkpoint has them (FP8, transposed, "
             "--weights, --dense-weights)",
             0, int64_t{1} << 46});
  flags.Add({"placed", &options.placed, "",
             "hold only the experts that the scheduler's placement gives this worker, and compute "
             "nothing before there is one"});
  flags.Add({"fetch-experts", &options.fetch_experts, "",
             "experts that the checkpoint lacks (files that its index names, or tensors) come from "
             "workers that have them, as placements ask for them; implies --placed"});
  flags.Add({"fetch-wait-ms", &options.fetch_wait_ms, "MS",
             "at the start, where experts are missing: for a worker that has them", 1, 3.6e6});
  flags.Add({"returns", &options.returns, "WHAT",
             "what owners return to a home: rows, one for each expert, and nobody can tell who "
             "computed; sums: one for each owner, fewer bytes, and results depend on the placement "
             "too and are marked. The same for all workers"});
  flags.Add({"exchange", &options.exchange, "CARRIER",
             "what carries rows to other workers: tcp; shm (shared memory, all on this machine); "
             "auto: shm where it can be, else tcp"});
  flags.Add({"exchange-listen", &options.exchange_listen, "HOST:PORT",
             "where other workers connect; empty: the host of --listen, any port. It has no TLS: "
             "beyond this machine it needs --insecure"});
  flags.Add({"exchange-advertise", &options.exchange_advertise, "HOST:PORT",
             "where other workers are told to connect, if that is not where this one listens; port "
             "0: the same"});
  flags.Add(
      {"gather-us", &options.gather_us, "US",
       "how long at most experts wait for homes that are about to ask of the same layer, to be "
       "read once for all; 0: not at all",
       0, 1e6});
  flags.Add(
      {"late-us", &options.late_us, "US",
       "rows that a worker owes for longer, and for longer than usual, are asked of a replica "
       "too",
       1, 6e7});
  flags.Add({"unsafe-failpoints", &options.failpoints, "POINT=ACTION",
             "for tests: kill[@N], stop[@N], delay:MS[@N] or error[@N] at a named point"});
  Credentials::AddFlags(flags, options.credentials);
}

absl::Status WorkerNode::Check(const Options& options) {
  if (!options.id.empty()) CONCLAVE_RETURN_IF_ERROR(ValidateId(options.id));
  CONCLAVE_RETURN_IF_ERROR(Failpoints::Parse(options.failpoints).status());
  CONCLAVE_RETURN_IF_ERROR(CheckStepFits(options.engine.planner));
  CONCLAVE_RETURN_IF_ERROR(ParseReturns(options.returns).status());
  CONCLAVE_RETURN_IF_ERROR(ParseWeights("weights", options.weights).status());
  CONCLAVE_RETURN_IF_ERROR(ParseWeights("dense-weights", options.dense_weights).status());
  const auto named = [](const char* flag, const absl::Status& status) {
    return absl::Status(status.code(),
                        absl::StrFormat("--%s: %s", flag, std::string(status.message())));
  };
  const absl::Status level = worker::CheckCpuLevel(options.numerics);
  if (!level.ok()) return named("numerics", level);
  const absl::Status carrier = ParseCarrier(options.exchange).status();
  if (!carrier.ok()) return named("exchange", carrier);
  const std::pair<const char*, const std::string*> addresses[] = {
      {"listen", &options.server.listen},
      {"advertise", &options.advertise},
      {"scheduler", &options.scheduler},
      {"metrics", &options.metrics},
      {"exchange-listen", &options.exchange_listen},
      {"exchange-advertise", &options.exchange_advertise}};
  for (const auto& [flag, text] : addresses) {
    const absl::Status address = text->empty() ? absl::OkStatus() : Address::Parse(*text).status();
    if (!address.ok()) return named(flag, address);
  }
  return absl::OkStatus();
}

}  // namespace conclave::services

// conclave up: flags of the supervisor, and of the processes it passes them on to.

#include <array>
#include <filesystem>
#include <string>
#include <system_error>
#include <vector>

#include "absl/strings/str_format.h"
#include "services/cli/command.h"
#include "services/shutdown.h"
#include "services/up.h"
#include "worker/status.h"

namespace conclave::services::cli {
namespace {

constexpr char kName[] = "up";

// Flags of a process that can be given to `up` itself.
struct PassedOn {
  const char* name;
  const char* unit;
  const char* help;
};
constexpr std::array kWorkerFlags = {
    PassedOn{"threads", "N", "compute threads; 0: one per CPU"},
    PassedOn{"numerics", "LEVEL",
             "dispatch level: avx512bf16, avx512, avx2 or portable; without it the best there is"},
    PassedOn{"step-tokens", "N", "tokens of one step"},
    PassedOn{"prefill-chunk", "N", "tokens of one prompt in one step"},
    PassedOn{"max-running", "N", "sequences computed at once"},
    PassedOn{"max-waiting", "N", "sequences that wait"},
    PassedOn{"max-waiting-tokens", "N", "prompt tokens that wait"},
    PassedOn{"block-size", "N", "positions of a KV block"},
    PassedOn{"kv-bytes", "BYTES", "size of the KV pool"},
    PassedOn{"context-limit", "N", "tokens of a sequence; 0: the model's"},
};

struct Options {
  Up::Options up;
  uint32_t workers = 1;
  std::vector<std::string> adapters;
  std::string http;
  double ready_timeout = 60, drain_timeout = 180;  // seconds
  bool insecure = false;
  std::array<std::string, kWorkerFlags.size()> worker_values;
};

void Bind(Flags& flags, Options& options) {
  Up::Options& up = options.up;
  flags.Add({"model", &up.model, "DIR", "checkpoint to serve, a Hugging Face directory"});
  flags.Add({"workers", &options.workers, "N", "workers; this version runs one", 1, 1024});
  flags.Add({"adapter", &options.adapters, "NAME=DIR", "not served by this version"});
  flags.Add({"state", &up.state, "DIR",
             "durable state, kept; without it a temporary directory, removed at the end"});
  flags.Add({"grpc", &up.grpc, "HOST:PORT", "where clients connect; port 0: any free one"});
  flags.Add({"http", &options.http, "HOST:PORT",
             "accepted, but this version has no HTTP gateway: ready says http=-"});
  flags.Add({"metrics", &up.metrics, "HOST:PORT", "where Prometheus scrapes the router"});
  flags.Add({"restart", &up.restart_workers, "",
             "start a worker again that has ended, as is always done for scheduler and router"});
  flags.Add({"insecure", &options.insecure, "",
             "allow --grpc and --metrics where others can connect, without TLS"});
  flags.Add({"ready-timeout", &options.ready_timeout, "S",
             "give up if requests are not answered by then", 0.1, 86400});
  flags.Add({"drain-timeout", &options.drain_timeout, "S",
             "after SIGTERM, longest time for each process to finish what runs", 0.1, 86400});
  for (size_t i = 0; i < kWorkerFlags.size(); ++i) {
    const PassedOn& flag = kWorkerFlags[i];
    flags.Add({flag.name, &options.worker_values[i], flag.unit,
               absl::StrFormat("of the worker: %s", flag.help)});
  }
  const std::string help = "a flag for its command line, --NAME=VALUE; may be repeated";
  flags.Add({"scheduler-flag", &up.scheduler_flags, "FLAG", help});
  flags.Add({"worker-flag", &up.worker_flags, "FLAG", help});
  flags.Add({"router-flag", &up.router_flags, "FLAG", help});
}

absl::Status RefuseWhatIsNotServed(const Options& options) {
  if (options.workers > 1) {
    return absl::UnimplementedError(absl::StrFormat(
        "--workers %d: experts are not spread over workers yet, so one worker serves the whole "
        "model; leave --workers at 1",
        options.workers));
  }
  if (!options.adapters.empty()) {
    return absl::UnimplementedError(absl::StrFormat(
        "--adapter %s: adapters are not served yet; start without it to serve the base model",
        options.adapters.front()));
  }
  return absl::OkStatus();
}

absl::Status Settle(const Flags& flags, Options* options) {
  CONCLAVE_RETURN_IF_ERROR(RefuseWhatIsNotServed(*options));
  Up::Options& up = options->up;
  if (up.model.empty()) return absl::InvalidArgumentError("--model is missing");
  std::error_code error;
  if (!std::filesystem::is_directory(up.model, error)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("--model: \"%s\" is not a directory", up.model));
  }
  up.binaries = std::filesystem::read_symlink("/proc/self/exe", error).parent_path().string();
  if (error) return absl::UnavailableError("cannot tell where the other programs are");
  for (size_t i = 0; i < kWorkerFlags.size(); ++i) {
    if (!flags.Given(kWorkerFlags[i].name)) continue;
    up.worker_flags.push_back(
        absl::StrFormat("--%s=%s", kWorkerFlags[i].name, options->worker_values[i]));
  }
  if (options->insecure) up.router_flags.push_back("--insecure");
  using Seconds = std::chrono::duration<double>;
  up.ready_wait = std::chrono::ceil<std::chrono::milliseconds>(Seconds(options->ready_timeout));
  up.drain_wait = std::chrono::ceil<std::chrono::milliseconds>(Seconds(options->drain_timeout));
  return absl::OkStatus();
}

}  // namespace

int RunUp(const Arguments& arguments, Io& io) {
  Options options;
  Flags flags(
      "conclave up",
      "Runs a whole cluster on this machine until SIGTERM or Ctrl-C, which finish what runs "
      "(a second one ends it at once).\nPrints `ready grpc=HOST:PORT http=HOST:PORT "
      "metrics=HOST:PORT` once requests are answered. Scheduler and router\nare started "
      "again when they die, on the same ports; a worker only with --restart: without it "
      "the cluster stays up\nand refuses requests as UNAVAILABLE.");
  Bind(flags, options);
  if (const auto code = Parse(kName, flags, arguments, io)) return *code;
  if (const absl::Status status = Settle(flags, &options); !status.ok()) {
    return UsageError(kName, status, io);
  }
  Shutdown shutdown;
  Up up(options.up, io.out, io.err);
  return Finish(kName, up.Run(shutdown), io);
}

}  // namespace conclave::services::cli

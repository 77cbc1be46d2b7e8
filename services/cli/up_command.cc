// conclave up: flags of the supervisor, and of the processes it passes them on to.

#include <algorithm>
#include <array>
#include <filesystem>
#include <set>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "absl/strings/str_format.h"
#include "services/adapter_call.h"
#include "services/cli/command.h"
#include "services/cli/up_checks.h"
#include "services/convert_placement.h"
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
             "dispatch level: amxbf16, avx512bf16, avx512, avx2 or portable; without it the best "
             "there is"},
    PassedOn{
        "weights", "FORM",
        "what experts are held as: stored, as the checkpoint has them; mxint8 or mxfp4, packed "
        "in 8 or 4 bits"},
    PassedOn{"dense-weights", "FORM", "what all other matrices are held as: likewise"},
    PassedOn{"returns", "WHAT",
             "rows, or sums: owners of experts return fewer bytes; results then depend on the "
             "placement and are marked"},
    PassedOn{"step-tokens", "N", "tokens of one step"},
    PassedOn{"prefill-chunk", "N", "tokens of one prompt in one step"},
    PassedOn{"max-running", "N", "sequences computed at once"},
    PassedOn{"max-waiting", "N", "sequences that wait"},
    PassedOn{"max-waiting-tokens", "N", "prompt tokens that wait"},
    PassedOn{"block-size", "N", "positions of a KV block"},
    PassedOn{"kv-bytes", "BYTES", "size of the KV pool"},
    PassedOn{"context-limit", "N", "tokens of a sequence; 0: the model's"},
    PassedOn{"converted-bytes", "BYTES",
             "memory for weights that cannot be used as the checkpoint has them"},
};

constexpr std::array kRouterFlags = {
    PassedOn{"model-name", "NAME", "what clients call the model"},
    PassedOn{"max-requests", "N", "requests live at once"},
    PassedOn{"max-total-tokens", "N", "prompt + max_tokens of all that wait or run"},
    PassedOn{"default-max-tokens", "N", "of a request that names none"},
    PassedOn{"stall-ms", "MS", "how long a client may read nothing"},
    PassedOn{
        "adapter-wait-ms", "MS",
        "that a request may wait for an adapter on disk to get a place in memory (default 30000)"},
};

constexpr std::array kSchedulerFlags = {
    PassedOn{"adapter-bytes", "BYTES",
             "that experts of adapters may take on each worker, the others being on disk until "
             "they are asked for; 0, the default: any number"},
    PassedOn{"adapter-turn-ms", "MS",
             "that an adapter stays in memory at least while others wait for it (default 2000)"},
};

// A process that has not ended so long after its own drain must have ended is killed.
constexpr std::chrono::seconds kDrainGrace(10);

struct Options {
  Up::Options up;
  std::vector<std::string> adapters;
  std::string http;
  double ready_timeout = 60, drain_timeout = 120;  // seconds
  bool insecure = false;
  std::array<std::string, kWorkerFlags.size()> worker_values;
  std::array<std::string, kRouterFlags.size()> router_values;
  std::array<std::string, kSchedulerFlags.size()> scheduler_values;
};

template <size_t kCount>
void AddPassedOn(const std::string& process, const std::array<PassedOn, kCount>& passed_on,
                 std::array<std::string, kCount>& values, Flags& flags) {
  for (size_t i = 0; i < kCount; ++i) {
    flags.Add({passed_on[i].name, &values[i], passed_on[i].unit,
               absl::StrFormat("of the %s: %s", process, passed_on[i].help)});
  }
}

template <size_t kCount>
void PassOn(const Flags& flags, const std::array<PassedOn, kCount>& passed_on,
            const std::array<std::string, kCount>& values, std::vector<std::string>* arguments) {
  for (size_t i = 0; i < kCount; ++i) {
    if (!flags.Given(passed_on[i].name)) continue;
    arguments->push_back(absl::StrFormat("--%s=%s", passed_on[i].name, values[i]));
  }
}

void Bind(Flags& flags, Options& options) {
  Up::Options& up = options.up;
  flags.Add({"model", &up.model, "DIR", "checkpoint to serve, a Hugging Face directory"});
  flags.Add({"workers", &up.workers, "N",
             "workers; the experts are spread over them, in equal runs of each layer", 1, 1024});
  flags.AddOptional({"placement", &up.placement, "PLAN.json",
                     "where experts are, instead; without --workers also how many workers there "
                     "are"});
  flags.Add({"routers", &up.routers, "R", "routers, each serving any client; ready names them all",
             1, Up::kMaxRouters});
  flags.Add({"adapter", &options.adapters, "NAME=DIR",
             "an adapter to serve from the start; may be repeated"});
  flags.Add({"state", &up.state, "DIR",
             "durable state, kept; without it a temporary directory, removed at the end unless a "
             "second signal has cut that short"});
  flags.Add(
      {"grpc", &up.grpc, "HOST:PORT",
       "where clients connect; port 0: any free one; further routers are at any free port of this "
       "host"});
  flags.Add({"http", &options.http, "HOST:PORT",
             "accepted, but this version has no HTTP gateway: ready says http=-"});
  flags.Add({"metrics", &up.metrics, "HOST:PORT",
             "where Prometheus scrapes the router; further ones as with --grpc"});
  flags.Add({"restart", &up.restart_workers, "",
             "start a worker again that has ended, as is always done for scheduler and routers"});
  flags.Add({"insecure", &options.insecure, "",
             "allow --grpc and --metrics where others can connect, without TLS"});
  flags.Add({"ready-timeout", &options.ready_timeout, "S",
             "give up if requests are not answered by then", 0.1, 86400});
  flags.Add({"drain-timeout", &options.drain_timeout, "S",
             "after SIGTERM, longest time for each process to finish what runs", 0.1, 86400});
  AddPassedOn("worker", kWorkerFlags, options.worker_values, flags);
  AddPassedOn("router", kRouterFlags, options.router_values, flags);
  AddPassedOn("scheduler", kSchedulerFlags, options.scheduler_values, flags);
  const std::string help = "a flag for its command line, --NAME=VALUE; may be repeated";
  flags.Add({"scheduler-flag", &up.scheduler_flags, "FLAG", help});
  flags.Add({"worker-flag", &up.worker_flags, "FLAG", help});
  flags.Add({"router-flag", &up.router_flags, "FLAG", help});
}

absl::Status SettleAdapters(const std::vector<std::string>& adapters, Up::Options* up) {
  std::set<std::string> names;
  for (const std::string& text : adapters) {
    absl::StatusOr<v1::AddAdapterRequest> adapter = ParseAdapter(text);
    if (!adapter.ok()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("--adapter: %s", std::string(adapter.status().message())));
    }
    if (!names.insert(adapter->name()).second) {
      return absl::InvalidArgumentError(
          absl::StrFormat("--adapter: \"%s\" is named twice", adapter->name()));
    }
    up->adapters.push_back(*std::move(adapter));
  }
  return absl::OkStatus();
}

// What is wrong with the plan is said here, not by a scheduler that then ends.
absl::Status SettlePlacement(const Flags& flags, Up::Options* up) {
  if (up->placement.empty()) return absl::OkStatus();
  CONCLAVE_ASSIGN_OR_RETURN(const Plan plan, ReadPlan(up->placement));
  if (!flags.Given("workers")) up->workers = plan.workers;
  if (up->workers == plan.workers) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("--placement: \"%s\" is for %d workers, --workers is %d", up->placement,
                      plan.workers, up->workers));
}

// Workers share this machine's CPUs, unless told how.
void ShareThreads(const Flags& flags, Up::Options* up) {
  if (up->workers == 1 || flags.Given("threads")) return;
  const int32_t cpus = static_cast<int32_t>(std::thread::hardware_concurrency());
  up->worker_flags.insert(up->worker_flags.begin(),
                          absl::StrFormat("--threads=%d", std::max(1, cpus / up->workers)));
}

absl::Status Settle(const Flags& flags, Options* options) {
  Up::Options& up = options->up;
  if (up.model.empty()) return absl::InvalidArgumentError("--model is missing");
  std::error_code error;
  if (!std::filesystem::is_directory(up.model, error)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("--model: \"%s\" is not a directory", up.model));
  }
  up.binaries = std::filesystem::read_symlink("/proc/self/exe", error).parent_path().string();
  if (error) return absl::UnavailableError("cannot tell where the other programs are");
  CONCLAVE_RETURN_IF_ERROR(SettlePlacement(flags, &up));
  CONCLAVE_RETURN_IF_ERROR(SettleAdapters(options->adapters, &up));
  ShareThreads(flags, &up);
  ProcessFlags own;
  PassOn(flags, kWorkerFlags, options->worker_values, &own.worker);
  PassOn(flags, kRouterFlags, options->router_values, &own.router);
  PassOn(flags, kSchedulerFlags, options->scheduler_values, &own.scheduler);
  if (options->insecure) own.router.push_back("--insecure");
  up.worker_flags.insert(up.worker_flags.end(), own.worker.begin(), own.worker.end());
  up.router_flags.insert(up.router_flags.end(), own.router.begin(), own.router.end());
  up.scheduler_flags.insert(up.scheduler_flags.end(), own.scheduler.begin(), own.scheduler.end());
  CONCLAVE_RETURN_IF_ERROR(
      CheckProcessFlags(own, {up.worker_flags, up.router_flags, up.scheduler_flags}));
  CONCLAVE_RETURN_IF_ERROR(CheckListens(up.grpc, up.metrics, up.router_flags));
  using Seconds = std::chrono::duration<double>;
  using std::chrono::milliseconds;
  up.ready_wait = std::chrono::ceil<milliseconds>(Seconds(options->ready_timeout));
  const auto drain = std::chrono::ceil<milliseconds>(Seconds(options->drain_timeout));
  up.router_flags.push_back(absl::StrFormat("--drain-ms=%d", drain.count()));
  up.worker_flags.push_back(absl::StrFormat("--drain-ms=%d", drain.count()));
  up.drain_wait = drain + kDrainGrace;
  return absl::OkStatus();
}

}  // namespace

int RunUp(const Arguments& arguments, Io& io) {
  Options options;
  Flags flags(
      "conclave up",
      "Runs a whole cluster on this machine until SIGTERM or Ctrl-C, which finish what runs "
      "(a second one ends it at once).\nPrints `ready grpc=HOST:PORT http=HOST:PORT "
      "metrics=HOST:PORT` once requests are answered,\nwith several routers followed by "
      "`routers=HOST:PORT,...`, all of them. Scheduler and routers\nare started "
      "again when they die, on the same ports; a worker only with --restart: without it the "
      "workers that are left\nserve on, and without any requests are refused as UNAVAILABLE.");
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

#include "loadtest/arguments.h"

#include <cstdlib>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "loadtest/arrivals.h"
#include "services/address.h"
#include "worker/status.h"

namespace conclave::loadtest {
namespace {

using services::Flags;

constexpr double kMostRequests = 10'000'000;
constexpr double kMostPerSecond = 1e6;
constexpr double kLongestRun = 7 * 86400;  // seconds
constexpr double kMostMilliseconds = 1e9;

void BindArrivals(Flags& flags, Arguments& arguments) {
  Options& o = arguments.options;
  flags.Add({"rate", &o.rate, "PER_SECOND", "open loop: arrivals, which never wait for answers", 0,
             kMostPerSecond});
  flags.AddOptional({"rate-end", &arguments.rate_end, "PER_SECOND",
                     "with --rate and --duration: the rate moves to this one in a straight line", 0,
                     kMostPerSecond});
  flags.Add({"arrival-cv", &o.variation, "CV",
             "coefficient of variation of the gaps between arrivals, which are gamma distributed: "
             "1 is a Poisson process, 0 an even beat, above 1 comes in bursts",
             0, RenewalArrivals::kMaxVariation});
  flags.Add({"trace", &arguments.trace, "FILE",
             "open loop: arrivals and lengths as recorded, in the format of Azure's LLM traces "
             "(CSV) or Mooncake's (JSON lines)"});
  flags.Add({"trace-speed", &o.trace_speed, "FACTOR", "so many times as fast", 1e-3, 1e3});
  flags.Add({"concurrency", &o.concurrency, "N",
             "closed loop, without any of the above: so many streams, one request after the other",
             1, 1e5});
  flags.Add({"requests", &o.requests, "N", "end after so many", 0, kMostRequests});
  flags.Add({"duration", &arguments.duration, "S", "end after so long", 0, kLongestRun});
  flags.Add({"max-in-flight", &o.in_flight_limit, "N",
             "open streams; an arrival beyond that is reported as not sent", 1, 1e6});
}

void BindRequests(Flags& flags, Arguments& arguments) {
  Options& o = arguments.options;
  const std::string lengths =
      " N, fixed:N, uniform:LOW:HIGH, lognormal:MEDIAN:SIGMA or file:PATH (a number a line)";
  flags.Add({"prompts", &arguments.prompts, "FILE",
             "a prompt per line: plain text or {\"prompt\"|\"token_ids\", \"max_tokens\", "
             "\"expect_text\", \"expect_token_ids\", ...}"});
  flags.Add({"prompt", &arguments.prompt, "TEXT", "a prompt; may be repeated"});
  flags.Add({"prompt-lengths", &arguments.prompt_lengths, "LENGTHS",
             "prompts of random tokens, so many:" + lengths});
  flags.Add({"output-lengths", &arguments.output_lengths, "LENGTHS",
             "max-tokens of each request, end-of-sequence tokens ignored:" + lengths});
  flags.Add({"vocabulary", &arguments.vocabulary, "N",
             "random tokens have ids below it; 0: as the server says", 0, 1 << 24});
  flags.Add({"max-prompt-tokens", &arguments.max_prompt_tokens, "N",
             "longer ones of a trace or of --prompt-lengths are cut", 1, Lengths::kMaxTokens});
  flags.Add({"max-output-tokens", &arguments.max_output_tokens, "N",
             "likewise of a trace or of --output-lengths", 1, Lengths::kMaxTokens});
  flags.Add({"adapters", &arguments.adapters, "MIX",
             "adapter of a request that names none: uniform:NAME,..., zipf:S:NAME,..., "
             "weights:NAME=W,... or file:PATH (NAME W a line); \"base\" is the base model"});
  flags.Add({"max-tokens", &o.max_tokens, "N", "of a request that says nothing else", 1, 1e6});
  flags.Add({"temperature", &arguments.temperature, "X", "likewise; 0 is greedy", 0, 100});
  flags.Add({"ignore-eos", &o.ignore_eos, "", "likewise: generate max-tokens, whatever comes"});
  flags.Add({"seed", &o.seed, "S", "of all that is random"});
}

void BindClients(Flags& flags, Arguments& arguments) {
  Options& o = arguments.options;
  flags.Add({"timeout", &arguments.timeout, "S", "deadline of one request", 0.001, 86400});
  flags.Add({"cancel-fraction", &o.cancel_fraction, "F",
             "of the requests, cancelled at a random token", 0, 1});
  flags.Add({"slow-fraction", &o.slow_fraction, "F", "of the requests, read at --slow-rate", 0, 1});
  flags.Add({"slow-rate", &o.slow_rate, "TOKENS_PER_SECOND", "of slow readers", 0.01, 1e6});
  flags.Add({"slow-readers", &o.slow_readers, "N", "further streams that are never read", 0, 1e5});
  flags.Add({"channels", &o.channels, "N", "connections", 1, 256});
  Objectives& want = o.objectives;
  const auto objective = [&](const char* name, double* target, const char* of) {
    flags.Add({name, target, "MS", std::string("goodput counts answers with at most this ") + of, 0,
               kMostMilliseconds});
  };
  objective("slo-ttft-ms", &want.ttft_ms, "time to the first token; 0, as below: any");
  objective("slo-itl-ms", &want.itl_ms, "between any two messages with tokens");
  objective("slo-tpot-ms", &want.tpot_ms, "per token behind the first, on average");
  objective("slo-e2e-ms", &want.e2e_ms, "to the end");
}

absl::Status Named(const char* flag, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrFormat("--%s: %s", flag, status.message()));
}

absl::StatusOr<std::string> ChooseServer(const Flags& flags, const std::string& given) {
  std::string server = given;
  if (!flags.Given("server")) {
    const char* const named = std::getenv("CONCLAVE_SERVER");
    if (named == nullptr) return absl::InvalidArgumentError("--server is missing");
    server = named;
  }
  CONCLAVE_ASSIGN_OR_RETURN(const services::Address address, services::Address::Parse(server));
  if (flags.Given("server") || address.loopback()) return server;
  return absl::InvalidArgumentError(absl::StrFormat(
      "CONCLAVE_SERVER names another machine (%s): give it as --server to load it", server));
}

// Flags of which at most one may be there.
absl::Status AtMostOne(const Flags& flags, const std::vector<std::string>& names) {
  std::vector<std::string> given;
  for (const std::string& name : names) {
    if (flags.Given(name)) given.push_back("--" + name);
  }
  if (given.size() < 2) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("%s exclude each other", absl::StrJoin(given, " and ")));
}

absl::Status CheckArrivals(const Flags& flags, const Arguments& arguments) {
  CONCLAVE_RETURN_IF_ERROR(AtMostOne(flags, {"rate", "concurrency", "trace"}));
  if (flags.Given("rate-end") && !(flags.Given("rate") && arguments.duration > 0)) {
    return absl::InvalidArgumentError("--rate-end wants --rate and --duration");
  }
  if (flags.Given("rate-end") && arguments.options.rate + arguments.rate_end == 0) {
    return absl::InvalidArgumentError("--rate and --rate-end are both 0");
  }
  if (flags.Given("trace")) return absl::OkStatus();
  if (arguments.options.requests == 0 && arguments.duration == 0) {
    return absl::InvalidArgumentError("give --requests or --duration");
  }
  return absl::OkStatus();
}

absl::Status TakePrompts(const Flags& flags, const Arguments& arguments,
                         Workload::Options* workload) {
  CONCLAVE_RETURN_IF_ERROR(AtMostOne(flags, {"prompts", "prompt", "prompt-lengths", "trace"}));
  if (!arguments.trace.empty()) {
    CONCLAVE_ASSIGN_OR_RETURN(workload->trace, ReadTrace(arguments.trace));
  } else if (!arguments.prompts.empty()) {
    CONCLAVE_ASSIGN_OR_RETURN(workload->prompts, ReadPrompts(arguments.prompts));
  } else if (!arguments.prompt.empty()) {
    for (const std::string& text : arguments.prompt) {
      workload->prompts.push_back({.line = workload->prompts.size() + 1, .text = text});
    }
  } else if (!arguments.prompt_lengths.empty()) {
    auto lengths = Lengths::Parse(arguments.prompt_lengths);
    CONCLAVE_RETURN_IF_ERROR(Named("prompt-lengths", lengths.status()));
    workload->prompt_lengths = *std::move(lengths);
  } else {
    return absl::InvalidArgumentError("give --prompts, --prompt, --prompt-lengths or --trace");
  }
  return absl::OkStatus();
}

absl::StatusOr<Workload::Options> MakeWorkload(const Flags& flags, const Arguments& arguments) {
  Workload::Options workload = {.seed = arguments.options.seed,
                                .vocabulary = arguments.vocabulary,
                                .prompt_tokens_limit = arguments.max_prompt_tokens,
                                .output_tokens_limit = arguments.max_output_tokens};
  CONCLAVE_RETURN_IF_ERROR(TakePrompts(flags, arguments, &workload));
  if (!arguments.output_lengths.empty()) {
    auto lengths = Lengths::Parse(arguments.output_lengths);
    CONCLAVE_RETURN_IF_ERROR(Named("output-lengths", lengths.status()));
    workload.output_lengths = *std::move(lengths);
  }
  if (!arguments.adapters.empty()) {
    auto mix = AdapterMix::Parse(arguments.adapters);
    CONCLAVE_RETURN_IF_ERROR(Named("adapters", mix.status()));
    workload.adapters = *std::move(mix);
  }
  return workload;
}

}  // namespace

void Bind(Flags& flags, Arguments& arguments) {
  flags.Add({"server", &arguments.options.server, "HOST:PORT",
             "the router; CONCLAVE_SERVER stands in for it if it names this machine"});
  BindArrivals(flags, arguments);
  BindRequests(flags, arguments);
  BindClients(flags, arguments);
  services::Credentials::AddClientFlags(flags, arguments.credentials);
  flags.Add({"strict", &arguments.strict, "", "fail on any status but OK"});
  flags.Add({"json", &arguments.json, "", "print one JSON document"});
}

absl::StatusOr<Plan> Settle(const Flags& flags, const Arguments& arguments) {
  Plan plan = {.options = arguments.options};
  Options& options = plan.options;
  CONCLAVE_ASSIGN_OR_RETURN(options.server, ChooseServer(flags, options.server));
  CONCLAVE_RETURN_IF_ERROR(CheckArrivals(flags, arguments));
  CONCLAVE_ASSIGN_OR_RETURN(options.credentials,
                            services::Credentials::Load(arguments.credentials));
  if (flags.Given("rate-end")) options.rate_end = arguments.rate_end;
  options.duration = std::chrono::duration<double>(arguments.duration);
  options.timeout = std::chrono::duration<double>(arguments.timeout);
  options.temperature = static_cast<float>(arguments.temperature);
  CONCLAVE_ASSIGN_OR_RETURN(plan.workload, MakeWorkload(flags, arguments));
  return plan;
}

}  // namespace conclave::loadtest

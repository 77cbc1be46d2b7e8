#include "loadtest/arguments.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "loadtest/arrivals.h"
#include "loadtest/scenario.h"
#include "loadtest/text.h"
#include "services/address.h"
#include "worker/status.h"

namespace conclave::loadtest {
namespace {

using services::Flags;

using Limits = Arguments::Limits;

void BindArrivals(Flags& flags, Arguments& arguments) {
  Options& o = arguments.options;
  flags.Add({"rate", &o.rate, "PER_SECOND", "open loop: arrivals, which never wait for answers", 0,
             Limits::kPerSecond});
  flags.AddOptional({"rate-end", &arguments.rate_end, "PER_SECOND",
                     "with --rate and --duration: the rate moves to this one in a straight line", 0,
                     Limits::kPerSecond});
  flags.Add({"arrival-cv", &o.variation, "CV",
             "coefficient of variation of the gaps between arrivals, which are gamma distributed: "
             "1 is a Poisson process, 0 an even beat, above 1 comes in bursts",
             0, RenewalArrivals::kMaxVariation});
  flags.Add({"trace", &arguments.trace, "FILE",
             "open loop: arrivals and lengths as recorded, in the format of Azure's LLM traces "
             "(CSV) or Mooncake's (JSON lines)"});
  flags.Add({"trace-speed", &o.trace_speed, "FACTOR", "so many times as fast",
             1 / Limits::kTraceSpeed, Limits::kTraceSpeed});
  flags.Add(
      {"scenario", &arguments.scenario, "FILE",
       "open loop: phases of a rate and a mix each, and commands run at their time (JSON; see "
       "loadtest/README.md). It runs what the file says: trust it like a script"});
  flags.Add({"set", &arguments.values, "NAME=VALUE",
             "what {NAME} stands for in the scenario's commands; {server} is --server"});
  flags.Add(
      {"concurrency", &o.concurrency, "N",
       "closed loop, without --rate, --trace and --scenario: so many streams, one request after "
       "the other",
       1, Limits::kConcurrency});
  flags.Add({"requests", &o.requests, "N", "end after so many", 0, Limits::kRequests});
  flags.Add({"duration", &arguments.duration, "S", "end after so long", 0, Limits::kDuration});
  flags.Add({"max-in-flight", &o.in_flight_limit, "N",
             "open streams; an arrival beyond that is reported as not sent", 1, Limits::kInFlight});
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
             "random tokens have ids below it; 0: as the server says", 0, Limits::kVocabulary});
  flags.Add({"max-prompt-tokens", &arguments.max_prompt_tokens, "N",
             "longer ones of a trace or of --prompt-lengths are cut", 1, Lengths::kMaxTokens});
  flags.Add({"max-output-tokens", &arguments.max_output_tokens, "N",
             "longer ones of a trace or of --output-lengths are cut", 1, Lengths::kMaxTokens});
  flags.Add({"adapters", &arguments.adapters, "MIX",
             "adapter of a request that names none: uniform:NAME,..., zipf:S:NAME,..., "
             "weights:NAME=W,... or file:PATH (NAME W a line); \"base\" is the base model"});
  flags.Add({"max-tokens", &o.max_tokens, "N", "of a request that says nothing else", 1,
             Limits::kMaxTokens});
  flags.Add({"temperature", &arguments.temperature, "X", "likewise; 0 is greedy", 0,
             Limits::kTemperature});
  flags.Add({"ignore-eos", &o.ignore_eos, "", "likewise: generate max-tokens, whatever comes"});
  flags.Add({"seed", &o.seed, "S", "of all that is random"});
}

void BindClients(Flags& flags, Arguments& arguments) {
  Options& o = arguments.options;
  flags.Add(
      {"timeout", &arguments.timeout, "S", "deadline of one request", 0.001, Limits::kTimeout});
  flags.Add({"cancel-fraction", &o.cancel_fraction, "F",
             "of the requests, cancelled at a random token", 0, 1});
  flags.Add({"slow-fraction", &o.slow_fraction, "F", "of the requests, read at --slow-rate", 0, 1});
  flags.Add(
      {"slow-rate", &o.slow_rate, "TOKENS_PER_SECOND", "of slow readers", 0.01, Limits::kSlowRate});
  flags.Add({"slow-readers", &o.slow_readers, "N", "further streams that are never read", 0,
             Limits::kSlowReaders});
  flags.Add({"channels", &o.channels, "N", "connections", 1, Limits::kChannels});
  Objectives& want = o.objectives;
  const auto objective = [&](const char* name, double* target, const char* of) {
    flags.Add({name, target, "MS", std::string("goodput counts answers with at most this ") + of, 0,
               Limits::kMilliseconds});
  };
  objective("slo-ttft-ms", &want.ttft_ms, "time to the first token; 0: any");
  objective("slo-itl-ms", &want.itl_ms, "time between any two messages with tokens; 0: any");
  objective("slo-tpot-ms", &want.tpot_ms, "time per token behind the first, on average; 0: any");
  objective("slo-e2e-ms", &want.e2e_ms, "time to the end; 0: any");
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
  CONCLAVE_RETURN_IF_ERROR(AtMostOne(flags, {"rate", "concurrency", "trace", "scenario"}));
  CONCLAVE_RETURN_IF_ERROR(AtMostOne(flags, {"scenario", "duration"}));
  CONCLAVE_RETURN_IF_ERROR(AtMostOne(flags, {"scenario", "arrival-cv"}));
  if (flags.Given("set") && !flags.Given("scenario")) {
    return absl::InvalidArgumentError("--set wants --scenario");
  }
  if (flags.Given("rate-end") && !(flags.Given("rate") && arguments.duration > 0)) {
    return absl::InvalidArgumentError("--rate-end wants --rate and --duration");
  }
  if (flags.Given("rate-end") && arguments.options.rate + arguments.rate_end == 0) {
    return absl::InvalidArgumentError("--rate and --rate-end are both 0");
  }
  if (flags.Given("trace") || flags.Given("scenario")) return absl::OkStatus();
  if (arguments.options.requests == 0 && arguments.duration == 0) {
    return absl::InvalidArgumentError("give --requests or --duration");
  }
  return absl::OkStatus();
}

template <typename T>
bool InEvery(const std::vector<Phase>& phases, T Phase::*part) {
  return std::all_of(phases.begin(), phases.end(), [&](const Phase& p) { return p.*part; });
}

template <typename T>
bool InAny(const std::vector<Phase>& phases, T Phase::*part) {
  return std::any_of(phases.begin(), phases.end(), [&](const Phase& p) { return p.*part; });
}

absl::Status TakeScenario(const Arguments& arguments, Plan* plan) {
  if (arguments.scenario.empty()) return absl::OkStatus();
  std::map<std::string, std::string> values = {{"server", plan->options.server}};
  for (const std::string& value : arguments.values) {
    const size_t equals = value.find('=');
    if (equals == value.npos) return absl::InvalidArgumentError("--set: want NAME=VALUE");
    values[value.substr(0, equals)] = value.substr(equals + 1);
  }
  CONCLAVE_ASSIGN_OR_RETURN(Scenario scenario, ReadScenario(arguments.scenario, values));
  plan->options.variation = scenario.variation;
  plan->options.actions = std::move(scenario.actions);
  plan->workload.phases = std::move(scenario.phases);
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
      if (!IsUtf8(text)) return absl::InvalidArgumentError("--prompt: not UTF-8");
      workload->prompts.push_back({.line = workload->prompts.size() + 1, .text = text});
    }
  } else if (!arguments.prompt_lengths.empty()) {
    auto lengths = Lengths::Parse(arguments.prompt_lengths);
    CONCLAVE_RETURN_IF_ERROR(Named("prompt-lengths", lengths.status()));
    workload->prompt_lengths = *std::move(lengths);
  } else if (workload->phases.empty() || !InEvery(workload->phases, &Phase::prompt_lengths)) {
    return absl::InvalidArgumentError("give --prompts, --prompt, --prompt-lengths or --trace");
  }
  if (!workload->prompts.empty() && InAny(workload->phases, &Phase::prompt_lengths)) {
    return absl::InvalidArgumentError(
        "the scenario's prompt_lengths are for random tokens, and --prompts or --prompt gives "
        "texts");
  }
  return absl::OkStatus();
}

absl::Status TakeRequests(const Flags& flags, const Arguments& arguments,
                          Workload::Options* target) {
  Workload::Options& workload = *target;
  workload.seed = arguments.options.seed;
  workload.vocabulary = arguments.vocabulary;
  workload.prompt_tokens_limit = arguments.max_prompt_tokens;
  workload.output_tokens_limit = arguments.max_output_tokens;
  CONCLAVE_RETURN_IF_ERROR(TakePrompts(flags, arguments, target));
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
  return absl::OkStatus();
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
  flags.Add({"html", &arguments.html, "FILE", "also write a page with tables and plots"});
  flags.Add({"samples", &arguments.samples, "FILE",
             "also write what each request saw, a line of JSON each (see loadtest/samples.h)"});
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
  CONCLAVE_RETURN_IF_ERROR(TakeScenario(arguments, &plan));
  CONCLAVE_RETURN_IF_ERROR(TakeRequests(flags, arguments, &plan.workload));
  return plan;
}

Setting Describe(const Options& options, const Workload& workload) {
  Setting setting = {.server = options.server,
                     .seed = options.seed,
                     .open = IsOpenLoop(options, workload),
                     .concurrency = options.concurrency,
                     .objectives = options.objectives};
  const Workload::Options& load = workload.options();
  const std::string gaps =
      options.variation == 1 ? "Poisson" : absl::StrFormat("gamma, cv %g", options.variation);
  if (!load.trace.empty()) {
    setting.arrivals = absl::StrFormat("trace, %g times as fast", options.trace_speed);
  } else if (!load.phases.empty()) {
    setting.arrivals = absl::StrFormat("%d phases, %s", load.phases.size(), gaps);
  } else if (options.rate_end) {
    setting.arrivals =
        absl::StrFormat("ramp from %g to %g per second, %s", options.rate, *options.rate_end, gaps);
  } else if (setting.open) {
    setting.arrivals = gaps;
    setting.rate = options.rate;
  } else {
    setting.arrivals = "closed loop";
  }
  if (load.adapters && !InAny(load.phases, &Phase::adapters)) {
    for (const auto& [name, share] : load.adapters->shares()) setting.weights[name] = share;
  }
  return setting;
}

}  // namespace conclave::loadtest

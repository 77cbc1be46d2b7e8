// conclave-loadtest: flags, the run, the report. Exit code 0: everything that was answered was
// right; 1: a mismatch, an incomplete stream, arrivals that could not be sent or nothing that
// succeeded (and, with --strict, any error); 2: bad flags.

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_format.h"
#include "loadtest/load.h"
#include "loadtest/prompts.h"
#include "loadtest/results.h"
#include "services/address.h"
#include "services/flags.h"
#include "services/shutdown.h"
#include "worker/status.h"

namespace conclave::loadtest {
namespace {

using services::Flags;

struct Arguments {
  Options options;
  services::Credentials::Options credentials;
  double duration = 0;  // seconds
  double temperature = 0;
  double timeout = 60;  // seconds
  std::string prompts;
  std::vector<std::string> prompt;
  bool json = false;
  bool strict = false;
};

void Bind(Flags& flags, Arguments& arguments) {
  Options& o = arguments.options;
  constexpr double kMost = 10'000'000;
  flags.Add({"server", &o.server, "HOST:PORT",
             "the router; CONCLAVE_SERVER stands in for it if it names this machine"});
  flags.Add({"rate", &o.rate, "PER_SECOND",
             "open loop: arrivals of a Poisson process, which never wait for answers", 0, 1e6});
  flags.Add({"concurrency", &o.concurrency, "N",
             "closed loop, without --rate: so many streams, one request after the other", 1, 1e5});
  flags.Add({"requests", &o.requests, "N", "end after so many", 0, kMost});
  flags.Add({"duration", &arguments.duration, "S", "end after so long", 0, 7 * 86400});
  flags.Add({"prompts", &arguments.prompts, "FILE",
             "a prompt per line: plain text or {\"prompt\"|\"token_ids\", \"max_tokens\", "
             "\"expect_text\", \"expect_token_ids\", ...}"});
  flags.Add({"prompt", &arguments.prompt, "TEXT", "a prompt; may be repeated"});
  flags.Add({"max-tokens", &o.max_tokens, "N", "of a request that says nothing else", 1, 1e6});
  flags.Add({"temperature", &arguments.temperature, "X", "likewise; 0 is greedy", 0, 100});
  flags.Add({"ignore-eos", &o.ignore_eos, "", "likewise: generate max-tokens, whatever comes"});
  flags.Add({"seed", &o.seed, "S", "of arrivals, sampling and cancellations"});
  flags.Add({"timeout", &arguments.timeout, "S", "deadline of one request", 0.001, 86400});
  flags.Add({"cancel-fraction", &o.cancel_fraction, "F",
             "of the requests, cancelled at a random token", 0, 1});
  flags.Add({"slow-readers", &o.slow_readers, "N", "further streams that are never read", 0, 1e5});
  flags.Add({"channels", &o.channels, "N", "connections", 1, 256});
  flags.Add({"max-in-flight", &o.in_flight_limit, "N",
             "open streams; an arrival beyond that is reported as not sent", 1, 1e6});
  flags.Add({"strict", &arguments.strict, "", "fail on any status but OK"});
  services::Credentials::AddClientFlags(flags, arguments.credentials);
  flags.Add({"json", &arguments.json, "", "print one JSON document"});
}

absl::Status ChooseServer(const Flags& flags, Options* options) {
  if (!flags.Given("server")) {
    const char* const named = std::getenv("CONCLAVE_SERVER");
    if (named == nullptr) return absl::InvalidArgumentError("--server is missing");
    options->server = named;
  }
  CONCLAVE_ASSIGN_OR_RETURN(const services::Address address,
                            services::Address::Parse(options->server));
  if (flags.Given("server") || address.loopback()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("CONCLAVE_SERVER names another machine (%s): give it as --server to load it",
                      options->server));
}

absl::StatusOr<std::vector<Prompt>> ChoosePrompts(const Arguments& arguments) {
  if (arguments.prompts.empty() == arguments.prompt.empty()) {
    return absl::InvalidArgumentError("give either --prompts or --prompt");
  }
  if (!arguments.prompts.empty()) return ReadPrompts(arguments.prompts);
  std::vector<Prompt> prompts;
  for (const std::string& text : arguments.prompt) {
    prompts.push_back({.line = prompts.size() + 1, .text = text});
  }
  return prompts;
}

absl::Status Settle(const Flags& flags, Arguments* arguments) {
  Options& options = arguments->options;
  CONCLAVE_RETURN_IF_ERROR(ChooseServer(flags, &options));
  if (options.rate > 0 && flags.Given("concurrency")) {
    return absl::InvalidArgumentError("--rate is an open loop, --concurrency a closed one");
  }
  if (options.requests == 0 && arguments->duration == 0) {
    return absl::InvalidArgumentError("give --requests or --duration");
  }
  CONCLAVE_ASSIGN_OR_RETURN(options.credentials,
                            services::Credentials::Load(arguments->credentials));
  options.duration = std::chrono::duration<double>(arguments->duration);
  options.timeout = std::chrono::duration<double>(arguments->timeout);
  options.temperature = static_cast<float>(arguments->temperature);
  return absl::OkStatus();
}

bool Good(const Results& results, bool strict) {
  if (results.mismatched > 0 || results.incomplete > 0 || results.unsent > 0) return false;
  if (strict) return results.completed + results.cancelled == results.sent;
  return results.completed + results.cancelled > 0;
}

int Fail(const absl::Status& status) {
  std::cerr << "conclave-loadtest: " << std::string(status.message()) << "\n";
  return 2;
}

int Main(int argc, char** argv) {
  Arguments arguments;
  Flags flags("conclave-loadtest", "Loads a Conclave router and measures its answers.");
  Bind(flags, arguments);
  if (const std::optional<int> code = flags.ParseOrExit(argc, argv)) return *code;
  if (const absl::Status status = Settle(flags, &arguments); !status.ok()) return Fail(status);
  const absl::StatusOr<std::vector<Prompt>> prompts = ChoosePrompts(arguments);
  if (!prompts.ok()) return Fail(prompts.status());

  services::Shutdown shutdown;
  std::atomic<bool> stop{false};
  std::thread watcher([&] {
    shutdown.Wait();
    stop = true;
  });
  const Options& options = arguments.options;
  const Results results = RunLoad(options, *prompts, stop);
  const bool interrupted = stop;
  shutdown.Request();
  watcher.join();

  const Setting setting = {options.server, options.seed, options.rate, options.concurrency};
  if (arguments.json) {
    using Handler = nlohmann::json::error_handler_t;
    std::cout << ToJson(setting, results).dump(2, ' ', false, Handler::replace) << "\n";
  } else {
    std::cout << ToTable(setting, results);
  }
  if (!std::cout.flush()) return 1;
  if (interrupted) return 130;
  return Good(results, arguments.strict) ? 0 : 1;
}

}  // namespace
}  // namespace conclave::loadtest

int main(int argc, char** argv) { return conclave::loadtest::Main(argc, argv); }

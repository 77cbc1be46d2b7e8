// conclave-loadtest: flags, the run, the report. Exit code 0: everything that was answered was
// right; 1: a mismatch, an incomplete stream, arrivals that could not be sent, an action that
// failed or nothing that succeeded (and, with --strict, any error); 2: bad flags.

#include <atomic>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "loadtest/arguments.h"
#include "loadtest/load.h"
#include "loadtest/report.h"
#include "loadtest/results.h"
#include "loadtest/samples.h"
#include "loadtest/vocabulary.h"
#include "loadtest/workload.h"
#include "services/flags.h"
#include "services/short_slice.h"
#include "services/shutdown.h"

namespace conclave::loadtest {
namespace {

using services::Flags;

bool Good(const Results& results, bool strict) {
  if (results.mismatched > 0 || results.incomplete > 0 || results.unsent > 0) return false;
  for (const ActionResult& action : results.actions) {
    if (!action.ok) return false;
  }
  if (strict) return results.completed + results.cancelled == results.sent;
  return results.completed + results.cancelled > 0;
}

int Fail(const absl::Status& status, const char* flag = "") {
  std::cerr << "conclave-loadtest: " << flag << std::string(status.message()) << "\n";
  return 2;
}

int Main(int argc, char** argv) {
  Arguments arguments;
  Flags flags("conclave-loadtest", "Loads a Conclave router and measures its answers.");
  Bind(flags, arguments);
  if (const std::optional<int> code = flags.ParseOrExit(argc, argv)) return *code;
  services::TakeShortSlices();  // what a busy machine makes it late by would count as the server's
  absl::StatusOr<Plan> plan = Settle(flags, arguments);
  if (plan.ok() && plan->workload.vocabulary == 0 && plan->workload.prompts.empty()) {
    const auto vocabulary = AskVocabulary(plan->options.server, plan->options.credentials);
    if (!vocabulary.ok()) return Fail(vocabulary.status());
    plan->workload.vocabulary = *vocabulary;
  }
  if (!plan.ok()) return Fail(plan.status());
  const Workload workload(std::move(plan->workload));
  std::unique_ptr<SampleFile> samples;
  if (!arguments.samples.empty()) {
    absl::StatusOr<std::unique_ptr<SampleFile>> file = SampleFile::Open(arguments.samples);
    if (!file.ok()) return Fail(file.status(), "--samples: ");
    samples = *std::move(file);
    plan->options.samples = samples.get();
  }

  services::Shutdown shutdown;
  std::atomic<bool> stop{false};
  std::thread watcher([&] {
    shutdown.Wait();
    stop = true;
  });
  const Options& options = plan->options;
  const Results results = RunLoad(options, workload, stop);
  const bool interrupted = stop;
  shutdown.Request();
  watcher.join();

  const Setting setting = Describe(options, workload);
  if (arguments.json) {
    using Handler = nlohmann::json::error_handler_t;
    std::cout << ToJson(setting, results).dump(2, ' ', false, Handler::replace) << "\n";
  } else {
    std::cout << ToTable(setting, results);
  }
  if (!std::cout.flush()) return 1;
  if (!arguments.html.empty()) {
    std::ofstream page(arguments.html, std::ios::binary);
    if (!(page << ToHtml(setting, results)).flush()) {
      std::cerr << "conclave-loadtest: --html: cannot write \"" << arguments.html << "\"\n";
      return 1;
    }
  }
  if (samples != nullptr) {
    if (const absl::Status closed = samples->Close(); !closed.ok()) {
      Fail(closed, "--samples: ");
      return 1;
    }
  }
  if (interrupted) return 130;
  return Good(results, arguments.strict) ? 0 : 1;
}

}  // namespace
}  // namespace conclave::loadtest

int main(int argc, char** argv) { return conclave::loadtest::Main(argc, argv); }

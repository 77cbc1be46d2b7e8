// Whatever a scenario says: an error that names the file, or phases and actions inside the limits,
// from which a load can be made.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/match.h"
#include "loadtest/arrivals.h"
#include "loadtest/scenario.h"
#include "loadtest/workload.h"
#include "scheduler/check.h"
#include "tests/fuzz/memory_file.h"

namespace {

using namespace conclave::loadtest;

void Check(const Scenario& scenario, const ScenarioLimits& limits) {
  CONCLAVE_CHECK(!scenario.phases.empty() && scenario.phases.size() <= limits.phases);
  CONCLAVE_CHECK(scenario.actions.size() <= limits.actions);
  double end = 0;
  for (const Phase& phase : scenario.phases) {
    CONCLAVE_CHECK(!phase.name.empty() && phase.name.size() <= limits.name_bytes);
    CONCLAVE_CHECK(phase.seconds > 0);
    for (const double rate : {phase.rate_from, phase.rate_to}) {
      CONCLAVE_CHECK(rate >= 0 && rate <= limits.rate);
    }
    end += phase.seconds;
  }
  CONCLAVE_CHECK(end <= limits.seconds);
  for (const Action& action : scenario.actions) {
    CONCLAVE_CHECK(!action.name.empty() && action.name.size() <= limits.name_bytes);
    CONCLAVE_CHECK(action.at >= 0 && action.at < end);
    CONCLAVE_CHECK(action.timeout > 0 && action.timeout <= Action::kMaxTimeout);
    CONCLAVE_CHECK(!action.command.empty() && action.command.size() <= limits.command_words);
    for (const std::string& word : action.command) CONCLAVE_CHECK(word.find('\0') == word.npos);
  }
}

// The first arrivals come in order, and each asks for something.
void Load(const Scenario& scenario) {
  std::vector<RateCurve::Piece> pieces;
  for (const Phase& phase : scenario.phases) {
    pieces.push_back({phase.seconds, phase.rate_from, phase.rate_to});
  }
  RenewalArrivals arrivals(RateCurve(pieces), scenario.variation, 1);
  // What a phase does not say is as in the whole: a prompt of one token.
  Workload::Options options = {.phases = scenario.phases, .vocabulary = 10};
  options.prompt_lengths = Lengths::Parse("1").value();
  options.prompt_tokens_limit = 100;
  const Workload workload(std::move(options));
  std::chrono::nanoseconds last{0};
  for (uint64_t i = 0; i < 20; ++i) {
    const auto at = arrivals.Next();
    if (!at) return;
    CONCLAVE_CHECK(*at >= last);
    last = *at;
    const Ask ask = workload.At(i, *at);
    CONCLAVE_CHECK(ask.phase < scenario.phases.size());
    CONCLAVE_CHECK(!ask.prompt.token_ids.empty() && ask.prompt.token_ids.size() <= 100);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const conclave::testing::MemoryFile file;
  // Mixes and lengths may name files, and not every file ends.
  if (std::string_view(reinterpret_cast<const char*>(data), size).find("file") !=
      std::string_view::npos) {
    return 0;
  }
  const std::string path = file.With(data, size);
  const ScenarioLimits limits = {.file_bytes = 4096,
                                 .phases = 4,
                                 .actions = 4,
                                 .command_words = 5,
                                 .name_bytes = 10,
                                 .seconds = 1000,
                                 .rate = 100};
  const auto scenario = ReadScenario(path, {{"server", "a"}, {"worker", ""}}, limits);
  if (!scenario.ok()) {
    CONCLAVE_CHECK(absl::StartsWith(scenario.status().message(), path));
    return 0;
  }
  CONCLAVE_CHECK(size <= limits.file_bytes);
  Check(*scenario, limits);
  Load(*scenario);
  return 0;
}

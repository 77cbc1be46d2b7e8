// conclave esft select: which experts to tune for a task, from recorded routing.

#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "scheduler/tuned_experts.h"
#include "services/cli/command.h"
#include "services/cli/json.h"
#include "services/cli/trace_reader.h"
#include "worker/model/adapter_config.h"
#include "worker/status.h"

namespace conclave::services::cli {
namespace {

constexpr char kName[] = "esft select";

struct Options {
  std::string trace, score = "token", out;
  double top_p = 0.2;
  bool json = false;
};

void Bind(Flags& flags, Options& options) {
  flags.Add({"trace", &options.trace, "DIR[/MIX]",
             "the trace directory, and which of its mixes is the task if it has several"});
  flags.Add({"score", &options.score, "WHICH",
             "of an expert: token (how many tokens chose it) or gate (the sum of the gate's "
             "weights)"});
  flags.Add({"top-p", &options.top_p, "P",
             "take experts of highest score until they have this share of a layer's", 1e-4, 1});
  flags.Add({"out", &options.out, "FILE", "the expert_cfg.json to write, instead of stdout"});
  flags.Add({"json", &options.json, "", "with --out: print what was chosen from what, as JSON"});
}

// What each slot of each layer was given: [layers, experts].
absl::StatusOr<std::vector<std::vector<double>>> Totals(TraceReader& trace, bool of_weights) {
  std::vector<std::vector<double>> totals(trace.layers().size(),
                                          std::vector<double>(trace.experts()));
  const size_t per_token = trace.layers().size() * trace.top_k();
  while (true) {
    CONCLAVE_ASSIGN_OR_RETURN(const TraceReader::Block block, trace.Next());
    if (block.tokens == 0) return totals;
    for (size_t i = 0; i < block.slots.size(); ++i) {
      const double given = of_weights ? static_cast<double>(block.weights[i]) : 1.0;
      totals[i % per_token / trace.top_k()][block.slots[i]] += given;
    }
  }
}

// A file that is there at once, whole, or not at all.
absl::Status Write(const std::string& path, const std::string& text) {
  const std::string draft = path + absl::StrFormat(".partial-%d", getpid());
  std::ofstream file(draft, std::ios::binary);
  file << text;
  file.close();
  if (!file || std::rename(draft.c_str(), path.c_str()) != 0) {
    std::remove(draft.c_str());
    return absl::UnavailableError(absl::StrFormat("cannot write \"%s\"", path));
  }
  return absl::OkStatus();
}

absl::Status Select(const Options& options, Io& io) {
  CONCLAVE_ASSIGN_OR_RETURN(TraceReader trace, TraceReader::Open(options.trace));
  if (trace.tokens() == 0) {
    return absl::FailedPreconditionError(absl::StrFormat("mix \"%s\" has no tokens", trace.mix()));
  }
  CONCLAVE_ASSIGN_OR_RETURN(const auto totals, Totals(trace, options.score == "gate"));
  worker::AdapterConfig config;
  size_t chosen = 0;
  for (size_t i = 0; i < totals.size(); ++i) {
    const std::vector<int32_t> slots = scheduler::ChooseTunedExperts(totals[i], options.top_p);
    chosen += slots.size();
    config.experts[trace.layers()[i]] = slots;
  }
  const std::string text = worker::AdapterConfigText(config);
  if (options.out.empty()) {
    io.out << text;
    return absl::OkStatus();
  }
  CONCLAVE_RETURN_IF_ERROR(Write(options.out, text));
  if (options.json) {
    Print({{"out", options.out},
           {"mix", trace.mix()},
           {"score", options.score},
           {"top_p", options.top_p},
           {"tokens", trace.tokens()},
           {"sequences", trace.sequences()},
           {"layers", totals.size()},
           {"experts", chosen}},
          io);
  } else {
    io.err << absl::StrFormat("mix %s: %d experts of %d layers, from %d tokens\n", trace.mix(),
                              chosen, totals.size(), trace.tokens());
  }
  return absl::OkStatus();
}

int RunSelect(const Arguments& arguments, Io& io) {
  Options options;
  Flags flags("conclave esft select",
              "Chooses experts that are worth tuning for a task (ESFT), from recorded routing, and "
              "writes them as expert_cfg.json.");
  Bind(flags, options);
  if (const auto code = Parse(kName, flags, arguments, io)) return *code;
  if (options.trace.empty())
    return UsageError(kName, absl::InvalidArgumentError("--trace is missing"), io);
  if (options.score != "token" && options.score != "gate") {
    return UsageError(kName,
                      absl::InvalidArgumentError(absl::StrFormat(
                          "--score: want token or gate, not \"%s\"", options.score)),
                      io);
  }
  return Finish(kName, Select(options, io), io);
}

}  // namespace

int RunEsft(const Arguments& arguments, Io& io) {
  if (!arguments.empty() && arguments[0] == "select") {
    return RunSelect({arguments.begin() + 1, arguments.end()}, io);
  }
  const bool help = !arguments.empty() && arguments[0] == "--help";
  (help ? io.out : io.err) << "usage: conclave esft select [flags]\n";
  return help ? kDone : kUsage;
}

}  // namespace conclave::services::cli

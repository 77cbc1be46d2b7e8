#include "services/cli/command.h"

#include <array>

#include "absl/strings/str_format.h"
#include "services/cli/terminal.h"

namespace conclave::services::cli {
namespace {

struct Command {
  const char* name;
  const char* summary;
  int (*run)(const Arguments&, Io&);
};

constexpr std::array kCommands = {
    Command{"up", "run a whole cluster on this machine, in the foreground", RunUp},
    Command{"generate", "continue a prompt, as text that streams or as JSON", RunGenerate},
    Command{"chat", "talk with the model: each line of stdin is a message", RunChat},
    Command{"score", "log-probabilities and perplexity of a text", RunScore},
    Command{"tokenize", "text to token ids", RunTokenize},
    Command{"detokenize", "token ids to text", RunDetokenize},
    Command{"models", "what is served", RunModels},
    Command{"status", "processes, epoch and load of a cluster", RunStatus},
    Command{"residency", "which expert is on which workers", RunResidency},
    Command{"apply", "set a placement of experts while requests run", RunApply},
    Command{"adapters", "list, add or remove adapters while requests run", RunAdapters},
    Command{"trace", "record: which experts the tokens of texts go to", RunTrace},
    Command{"esft", "select: which experts to tune for a task, from recorded routing", RunEsft},
    Command{"quantise", "write a checkpoint anew with its experts in 8 or 4 bits", RunQuantise},
};

std::string Help() {
  std::string text = "usage: conclave COMMAND [flags]\n\n";
  for (const Command& command : kCommands) {
    absl::StrAppendFormat(&text, "  %-12s%s\n", command.name, command.summary);
  }
  return text +
         "\n`conclave COMMAND --help` lists a command's flags. CONCLAVE_SERVER stands in for "
         "--server.\n";
}

std::string Names() {
  std::string names;
  for (const Command& command : kCommands) {
    names += (names.empty() ? "" : ", ") + std::string(command.name);
  }
  return names;
}

}  // namespace

int Run(const Arguments& arguments, Io& io) {
  if (arguments.empty()) {
    io.err << Help();
    return kUsage;
  }
  const std::string& name = arguments[0];
  if (name == "--help" || name == "help") {
    io.out << Help();
    return kDone;
  }
  if (name == "--version") {
    io.out << "conclave " << Version() << "\n";
    return kDone;
  }
  for (const Command& command : kCommands) {
    if (name == command.name) return command.run({arguments.begin() + 1, arguments.end()}, io);
  }
  io.err << "conclave: unknown command \"" << Printable(name) << "\"; there are " << Names()
         << "\n";
  return kUsage;
}

std::optional<int> Parse(const std::string& command, Flags& flags, const Arguments& arguments,
                         Io& io) {
  const std::string help = flags.Help();  // before Parse, for it shows the defaults
  const absl::Status status = flags.Parse(arguments);
  if (!status.ok()) return UsageError(command, status, io);
  switch (flags.request()) {
    case Flags::Request::kHelp:
      io.out << help;
      return kDone;
    case Flags::Request::kVersion:
      io.out << "conclave " << Version() << "\n";
      return kDone;
    case Flags::Request::kRun:
      return std::nullopt;
  }
  return std::nullopt;
}

int UsageError(const std::string& command, const absl::Status& status, Io& io) {
  io.err << "conclave " << command << ": " << Printable(std::string(status.message())) << "\n";
  return kUsage;
}

int Finish(const std::string& command, const absl::Status& status, Io& io) {
  if (status.ok()) {
    if (io.out.flush()) return kDone;
    io.err << "conclave " << command << ": cannot write the output\n";
    return kFailed;
  }
  io.out.flush();
  io.err << "conclave " << command << ": " << absl::StatusCodeToString(status.code()) << ": "
         << Printable(std::string(status.message())) << "\n";
  return kFailed;
}

}  // namespace conclave::services::cli

#pragma once
// The command-line tool `conclave`: its commands, what they write to, and how they end. Exit codes:
// 0 done; 1 it failed, and stderr says with which gRPC code; 2 the command line is wrong; 130
// interrupted. Main thread.

#include <iostream>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "services/flags.h"

namespace conclave::services::cli {

struct Io {
  std::ostream& out;
  std::ostream& err;
  bool terminal = false;  // out is one: nothing that comes from outside may steer it
  std::istream& in = std::cin;
  bool interactive = false;  // in is a terminal: somebody types
};

using Arguments = std::vector<std::string>;

inline constexpr int kDone = 0;
inline constexpr int kFailed = 1;
inline constexpr int kUsage = 2;
inline constexpr int kInterrupted = 130;

// The whole tool; arguments without the program's name.
int Run(const Arguments& arguments, Io& io);

// The commands; arguments without the command's name.
int RunUp(const Arguments& arguments, Io& io);
int RunGenerate(const Arguments& arguments, Io& io);
int RunChat(const Arguments& arguments, Io& io);
int RunScore(const Arguments& arguments, Io& io);
int RunTokenize(const Arguments& arguments, Io& io);
int RunDetokenize(const Arguments& arguments, Io& io);
int RunModels(const Arguments& arguments, Io& io);
int RunStatus(const Arguments& arguments, Io& io);
int RunResidency(const Arguments& arguments, Io& io);
int RunApply(const Arguments& arguments, Io& io);
int RunAdapters(const Arguments& arguments, Io& io);
int RunTrace(const Arguments& arguments, Io& io);
int RunEsft(const Arguments& arguments, Io& io);
int RunQuantise(const Arguments& arguments, Io& io);

// Parses; the exit code if that is all, for --help, --version or an error.
std::optional<int> Parse(const std::string& command, Flags& flags, const Arguments& arguments,
                         Io& io);

// The exit code of a command line that cannot be meant. Says why.
int UsageError(const std::string& command, const absl::Status& status, Io& io);
// The exit code of a command that ended like this. Says why, if it failed.
int Finish(const std::string& command, const absl::Status& status, Io& io);

}  // namespace conclave::services::cli

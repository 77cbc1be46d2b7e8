#pragma once
// A program's options: variables bound to names, filled from `--config FILE` (a JSON object whose
// keys are the names) and then from the command line, which wins. An unknown name, a bad value or a
// value out of range is an error that says so. Main thread.

#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"

namespace conclave::services {

struct Flag {
  // Where the value goes; what it holds when the flag is added is the default. A vector takes every
  // repetition.
  using Target = std::variant<std::string*, int32_t*, int64_t*, uint32_t*, uint64_t*, double*,
                              bool*, std::vector<std::string>*>;

  std::string name;  // without dashes, words joined by '-'
  Target target;
  std::string unit;  // "HOST:PORT", "ms", "bytes": what stands for the value in the help
  std::string help;
  double min = std::numeric_limits<double>::lowest();  // of numbers
  double max = std::numeric_limits<double>::max();
};

class Flags {
 public:
  enum class Request { kRun, kHelp, kVersion };

  Flags(std::string program, std::string summary);

  void Add(Flag flag);
  // A flag whose absence means something of its own, which its help says: there is no default to
  // show.
  void AddOptional(Flag flag);
  // Arguments that are not flags, at most `limit` of them, named NAME in the help. Without this
  // they are errors.
  void AddPositional(std::vector<std::string>* target, size_t limit, std::string name);

  // Fills the variables. INVALID_ARGUMENT or NOT_FOUND (the file), naming flag or key; variables
  // are then undefined.
  absl::Status Parse(const std::vector<std::string>& arguments);
  // What the arguments asked for; after Parse.
  Request request() const { return request_; }
  // Whether file or arguments named the flag; after Parse.
  bool Given(const std::string& name) const { return given_.count(name) > 0; }

  // For main: parses, prints help, version or the error. The exit code if the program is to end
  // now.
  std::optional<int> ParseOrExit(int argc, char** argv);

  std::string Help() const;

 private:
  struct Setting {
    std::string name;
    std::string value;
  };
  // Arguments as names and values, in order; positional ones go to their place.
  absl::Status Split(const std::vector<std::string>& arguments, std::vector<Setting>& settings);
  // Takes the flag at arguments[at], moving `at` to the last argument it used.
  absl::Status SplitOne(const std::vector<std::string>& arguments, size_t& at,
                        std::vector<Setting>& settings);
  absl::Status ParseFile(const std::string& path);
  absl::Status Apply(const Setting& setting);

  std::string program_;
  std::string summary_;
  std::map<std::string, Flag> flags_;
  std::set<std::string> optional_;
  std::vector<std::string>* positional_ = nullptr;
  size_t positional_limit_ = 0;
  std::string positional_name_;
  std::set<std::string> given_;
  Request request_ = Request::kRun;
};

// The version of this build, "0.1.0" say.
std::string Version();

}  // namespace conclave::services

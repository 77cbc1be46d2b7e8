#pragma once
// Text of a stream on stdout as it comes, ending in a line break; nothing in it steers a terminal.
// Main thread.

#include <string>

#include "services/cli/command.h"
#include "services/cli/terminal.h"

namespace conclave::services::cli {

class TextPrinter {
 public:
  explicit TextPrinter(Io& io) : io_(io) {}

  void Add(const std::string& text);
  void End();

 private:
  void Put(const std::string& text);

  Io& io_;
  TerminalText terminal_;
  bool in_line_ = false;
};

}  // namespace conclave::services::cli

#pragma once
// Runs the tool's commands as a person or a script meets them: arguments in, stdout, stderr and
// exit code out, against a scripted router.

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "services/cli/command.h"
#include "tests/services/cli/fake_router.h"

namespace conclave::services::cli {

class Commands : public ::testing::Test {
 protected:
  // Runs a command against the router; the exit code.
  int Call(Arguments arguments) {
    arguments.push_back("--server=" + router_.address());
    return RunAlone(arguments);
  }
  int RunAlone(const Arguments& arguments) {
    out_.str("");
    err_.str("");
    Io io = {out_, err_, terminal_};
    return cli::Run(arguments, io);
  }
  // stdout as the one JSON document it has to be.
  nlohmann::json Document() { return nlohmann::json::parse(out_.str()); }

  conclave::testing::FakeRouter router_;
  std::ostringstream out_, err_;
  bool terminal_ = false;
};

}  // namespace conclave::services::cli

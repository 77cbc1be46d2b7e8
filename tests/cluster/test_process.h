#pragma once
// A program of ours as a process, from its start to the line that says where it listens. One
// thread, whose end ends it.

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "services/child.h"

namespace conclave::services::testing {

class TestProcess {
 public:
  // Of `binaries`. Waits for its first line, which is empty if it ends before.
  TestProcess(const std::string& binaries, const std::string& name,
              const std::vector<std::string>& arguments);

  const std::string& ready() const { return ready_; }
  // The value of a key of that line.
  std::string Word(const std::string& key) const;
  std::string grpc() const { return Word("grpc"); }
  std::string metrics() const { return Word("metrics"); }

  pid_t pid() const { return child_->pid(); }
  void Signal(int signal) { child_->Signal(signal); }
  // What wait() says of it.
  int WaitForEnd();
  // Everything it said on stderr; after its end.
  std::string Log();

 private:
  std::unique_ptr<Child> child_;
  std::string ready_;
};

}  // namespace conclave::services::testing

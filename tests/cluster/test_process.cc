#include "tests/cluster/test_process.h"

#include <poll.h>

#include "scheduler/check.h"

namespace conclave::services::testing {
namespace {

void WaitFor(int fd) {
  pollfd poll_fd = {.fd = fd, .events = POLLIN};
  poll(&poll_fd, 1, -1);
}

}  // namespace

TestProcess::TestProcess(const std::string& binaries, const std::string& name,
                         const std::vector<std::string>& arguments) {
  auto child = Child::Start(binaries + "/" + name, arguments);
  CONCLAVE_CHECK(child.ok());
  child_ = *std::move(child);
  while (child_->out().fd() >= 0 && ready_.empty()) {
    WaitFor(child_->out().fd());
    for (const std::string& line : child_->out().Take()) ready_ += line;
  }
}

std::string TestProcess::Word(const std::string& key) const {
  const size_t at = ready_.find(" " + key + "=");
  if (at == std::string::npos) return "";
  const size_t begin = at + key.size() + 2;
  return ready_.substr(begin, ready_.find(' ', begin) - begin);
}

int TestProcess::WaitForEnd() {
  WaitFor(child_->exit_fd());
  return *child_->Reap();
}

std::string TestProcess::Log() {
  std::string log;
  while (child_->err().fd() >= 0) {
    for (const std::string& line : child_->err().Take()) log += line + "\n";
  }
  return log;
}

}  // namespace conclave::services::testing

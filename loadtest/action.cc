#include "loadtest/action.h"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <optional>
#include <string_view>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "loadtest/text.h"
#include "services/child.h"

namespace conclave::loadtest {
namespace {

using Clock = std::chrono::steady_clock;

// The path of the program, or nothing.
std::optional<std::string> PathOf(const std::string& program) {
  const auto executable = [](const std::string& path) { return access(path.c_str(), X_OK) == 0; };
  if (program.find('/') != program.npos) {
    return executable(program) ? std::optional(program) : std::nullopt;
  }
  const char* const path = std::getenv("PATH");
  for (const std::string_view folder : Split(path == nullptr ? "" : path, ':')) {
    std::string candidate = std::string(folder.empty() ? "." : folder) + "/" + program;
    if (executable(candidate)) return candidate;
  }
  return std::nullopt;
}

void Keep(const std::vector<std::string>& lines, std::string* output) {
  for (const std::string& line : lines) {
    const size_t room = ActionEnd::kOutputBytesKept - output->size();
    output->append((absl::Utf8SafeCHexEscape(line) + "\n").substr(0, room));
  }
}

void WaitForNews(services::Child& child) {
  constexpr int kStopCheckMs = 100;
  pollfd fds[] = {
      {child.exit_fd(), POLLIN, 0}, {child.out().fd(), POLLIN, 0}, {child.err().fd(), POLLIN, 0}};
  poll(fds, 3, kStopCheckMs);
}

}  // namespace

absl::Status FindProgram(const Action& action) {
  if (PathOf(action.command.front())) return absl::OkStatus();
  return absl::NotFoundError(
      absl::StrFormat("\"%s\" is no program that can be executed", action.command.front()));
}

ActionEnd RunAction(const Action& action, const std::function<bool()>& stopping) {
  const std::optional<std::string> program = PathOf(action.command.front());
  if (!program) return {.outcome = std::string(FindProgram(action).message())};
  const auto started = services::Child::Start(
      *program, std::vector<std::string>(action.command.begin() + 1, action.command.end()));
  if (!started.ok()) return {.outcome = started.status().ToString()};
  services::Child& child = **started;

  ActionEnd end;
  const auto limit = std::chrono::duration<double>(action.timeout);
  const Clock::time_point begin = Clock::now();
  std::optional<int> status;
  while (!(status = child.Reap())) {
    const bool late = Clock::now() - begin >= limit;
    if (late || stopping()) {
      end.outcome = late ? absl::StrFormat("stopped after %g s", action.timeout)
                         : std::string("stopped with the load");
      kill(-child.pid(), SIGKILL);  // not reaped yet, so the group is still its own
      break;
    }
    WaitForNews(child);
    Keep(child.out().Take(), &end.output);
    Keep(child.err().Take(), &end.output);
  }
  Keep(child.out().Take(), &end.output);
  Keep(child.err().Take(), &end.output);
  if (status) {
    end.outcome = services::DescribeEnd(*status);
    end.ok = *status == 0;
  }
  return end;
}

}  // namespace conclave::loadtest

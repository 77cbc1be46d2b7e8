#include "services/log.h"

#include <grpc/support/log.h>
#include <sys/time.h>
#include <unistd.h>

#include <ctime>

namespace conclave::services {
namespace {

constexpr size_t kMaxMessageBytes = 2048;

// Set before threads start, constant afterwards.
std::string& Process() {
  static std::string* const process = new std::string("conclave");
  return *process;
}
LogLevel g_least = LogLevel::kInfo;

const char* NameOf(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return "debug";
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kWarning:
      return "warning";
    case LogLevel::kError:
      return "error";
  }
  return "error";
}

std::string Now() {
  timeval now;
  gettimeofday(&now, nullptr);
  tm utc;
  gmtime_r(&now.tv_sec, &utc);
  char text[64];
  const size_t size = std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &utc);
  return absl::StrFormat("%s.%03dZ", std::string(text, size), static_cast<int>(now.tv_usec / 1000));
}

std::string Quoted(const std::string& message) {
  std::string quoted = "\"";
  for (const char c : message.substr(0, kMaxMessageBytes)) {
    if (c == '"' || c == '\\') {
      quoted += {'\\', c};
    } else if (c == '\n') {
      quoted += "\\n";
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      quoted += absl::StrFormat("\\x%02x", c);
    } else {
      quoted += c;
    }
  }
  return quoted + '"';
}

void FromGrpc(gpr_log_func_args* args) {
  if (args->severity == GPR_LOG_SEVERITY_ERROR)
    WriteLog(LogLevel::kError, absl::StrFormat("grpc: %s", args->message));
}

}  // namespace

void StartLog(const std::string& process, LogLevel least) {
  Process() = process;
  g_least = least;
}

void CaptureGrpcLog() { gpr_set_log_function(FromGrpc); }

void WriteLog(LogLevel level, const std::string& message) {
  if (level < g_least) return;
  const std::string line =
      absl::StrFormat("time=%s level=%s process=%s pid=%d msg=%s\n", Now(), NameOf(level),
                      Process(), static_cast<int>(getpid()), Quoted(message));
  // One write per line keeps lines of several threads apart; a log that cannot be written has
  // nowhere to complain.
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace conclave::services

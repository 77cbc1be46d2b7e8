#pragma once
// One line per event on stderr, as key=value pairs: time, level, process, pid, msg. Any thread;
// lines never interleave. A message is quoted and escaped, so nothing from outside can forge a
// line. Prompts and generated text are never logged.

#include <string>

#include "absl/strings/str_format.h"

namespace conclave::services {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

// The process's name in every line, and the least level that is written (kInfo until called).
// Before threads start.
void StartLog(const std::string& process, LogLevel least);

// Lines of gRPC itself in our form, errors only: its warnings tell of peers that went away, which
// we report ourselves.
void CaptureGrpcLog();

void WriteLog(LogLevel level, const std::string& message);

template <typename... Args>
void LogInfo(const absl::FormatSpec<Args...>& format, const Args&... args) {
  WriteLog(LogLevel::kInfo, absl::StrFormat(format, args...));
}
template <typename... Args>
void LogWarning(const absl::FormatSpec<Args...>& format, const Args&... args) {
  WriteLog(LogLevel::kWarning, absl::StrFormat(format, args...));
}
template <typename... Args>
void LogError(const absl::FormatSpec<Args...>& format, const Args&... args) {
  WriteLog(LogLevel::kError, absl::StrFormat(format, args...));
}

}  // namespace conclave::services

#pragma once
// What every request of a run saw, a line of JSON each as it ends, for whoever wants other figures
// than the report's:
//   {"index": 3, "due": 1500000, "sent": 1500210, "messages": [[1512345, 1], [1513400, 2]],
//    "end": 1513420, "status": "OK", "complete": true, "prompt_tokens": 7, "adapter": "law"}
// Times are microseconds since the start; messages are those with tokens, and how many each had.
// "due" is what the report's times count from. Any thread.

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace conclave::loadtest {

struct Sample {
  struct Message {
    int64_t at_us = 0;
    uint64_t tokens = 0;
  };
  uint64_t index = 0;
  int64_t due_us = 0;
  int64_t sent_us = 0;
  std::vector<Message> messages;
  int64_t end_us = 0;
  std::string status;  // "OK", "RESOURCE_EXHAUSTED"
  bool complete = false;
  uint32_t prompt_tokens = 0;  // as the server counts them; 0 if it did not say
  std::string adapter;
};

class SampleFile {
 public:
  // INVALID_ARGUMENT if it cannot be written.
  static absl::StatusOr<std::unique_ptr<SampleFile>> Open(const std::string& path);

  void Write(const Sample& sample);
  // DATA_LOSS if something could not be written; nothing may be written after it.
  absl::Status Close();

 private:
  explicit SampleFile(const std::string& path) : path_(path), file_(path, std::ios::binary) {}

  const std::string path_;
  std::mutex mutex_;
  std::ofstream file_;
};

// One line, without its end.
std::string ToLine(const Sample& sample);

}  // namespace conclave::loadtest

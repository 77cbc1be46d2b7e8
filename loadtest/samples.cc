#include "loadtest/samples.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace conclave::loadtest {

std::string ToLine(const Sample& sample) {
  // By hand but for the texts: a message is a few tokens, and a run has millions.
  std::string messages;
  for (const Sample::Message& message : sample.messages) {
    absl::StrAppend(&messages, messages.empty() ? "[" : ", [", message.at_us, ", ", message.tokens,
                    "]");
  }
  using Json = nlohmann::json;
  const std::string adapter =
      Json(sample.adapter).dump(-1, ' ', false, Json::error_handler_t::replace);
  return absl::StrCat(
      "{\"index\": ", sample.index, ", \"due\": ", sample.due_us, ", \"sent\": ", sample.sent_us,
      ", \"messages\": [", messages, "], \"end\": ", sample.end_us, ", \"status\": \"",
      sample.status, "\", \"complete\": ", sample.complete ? "true" : "false",
      ", \"prompt_tokens\": ", sample.prompt_tokens, ", \"adapter\": ", adapter, "}");
}

absl::StatusOr<std::unique_ptr<SampleFile>> SampleFile::Open(const std::string& path) {
  auto file = std::unique_ptr<SampleFile>(new SampleFile(path));
  if (file->file_) return file;
  return absl::InvalidArgumentError(absl::StrFormat("cannot write \"%s\"", path));
}

void SampleFile::Write(const Sample& sample) {
  const std::string line = ToLine(sample) + "\n";
  const std::lock_guard lock(mutex_);
  file_ << line;
}

absl::Status SampleFile::Close() {
  const std::lock_guard lock(mutex_);
  file_.close();
  if (file_) return absl::OkStatus();
  return absl::DataLossError(absl::StrFormat("\"%s\" could not be written whole", path_));
}

}  // namespace conclave::loadtest

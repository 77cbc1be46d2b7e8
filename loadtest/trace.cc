#include "loadtest/trace.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "loadtest/file.h"
#include "loadtest/text.h"
#include "worker/status.h"

namespace conclave::loadtest {
namespace {

using Json = nlohmann::json;
using Nanos = std::chrono::nanoseconds;

constexpr std::string_view kAzureHeader = "TIMESTAMP,ContextTokens,GeneratedTokens";

absl::Status Bad(std::string_view field, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrFormat("field \"%s\": %s", field, what));
}

// Takes lines one by one; a line's own fields are checked before what they mean together.
class Reader {
 public:
  explicit Reader(const TraceLimits& limits) : limits_(limits) {}

  absl::Status Take(const std::string& line) {
    if (!azure_) {
      azure_ = line.front() != '{';
      if (*azure_) return TakeHeader(line);
    }
    if (requests_.size() == limits_.requests) {
      return absl::InvalidArgumentError(absl::StrFormat("more than %d requests", limits_.requests));
    }
    return *azure_ ? TakeAzure(line) : TakeMooncake(line);
  }

  std::vector<TraceRequest>& requests() { return requests_; }

 private:
  static absl::Status TakeHeader(const std::string& line) {
    if (line == kAzureHeader) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrFormat(
        "neither the header \"%s\" nor a JSON object: \"%s\"", kAzureHeader, Excerpt(line)));
  }

  absl::Status TakeAzure(const std::string& line) {
    const std::vector<std::string_view> fields = Split(line, ',');
    if (fields.size() != 3) {
      return absl::InvalidArgumentError(absl::StrFormat("want 3 fields, got %d", fields.size()));
    }
    absl::Time time;
    if (!ParseTime(std::string(fields[0]), &time)) {
      return Bad("TIMESTAMP", absl::StrFormat("\"%s\" is no time such as 2023-11-16 18:17:03.97",
                                              Excerpt(fields[0])));
    }
    TraceRequest request;
    CONCLAVE_ASSIGN_OR_RETURN(request.prompt_tokens, Tokens("ContextTokens", fields[1]));
    CONCLAVE_ASSIGN_OR_RETURN(request.output_tokens, Tokens("GeneratedTokens", fields[2]));
    if (!epoch_) epoch_ = time;
    return Add(std::move(request), time - *epoch_, "TIMESTAMP");
  }

  static bool ParseTime(const std::string& text, absl::Time* time) {
    std::string error;
    // ParseTime also knows "infinite-future".
    if (text.empty() || text.front() < '0' || text.front() > '9') return false;
    return absl::ParseTime("%Y-%m-%d %H:%M:%E*S", text, time, &error) ||
           absl::ParseTime("%Y-%m-%d %H:%M:%E*S%Ez", text, time, &error);
  }

  absl::StatusOr<uint32_t> Tokens(std::string_view field, std::string_view text) const {
    if (text.empty() || text.find_first_not_of("0123456789") != text.npos) {
      return Bad(field, absl::StrFormat("\"%s\" is no whole number", Excerpt(text)));
    }
    return Tokens(field, ParseNumber<uint64_t>(text).value_or(UINT64_MAX));
  }

  absl::StatusOr<uint32_t> Tokens(std::string_view field, uint64_t value) const {
    if (value < 1 || value > limits_.tokens) {
      return Bad(field, absl::StrFormat("out of range [1, %d]", limits_.tokens));
    }
    return static_cast<uint32_t>(value);
  }

  absl::StatusOr<uint32_t> TokensOf(const Json& json, const char* field) const {
    const auto found = json.find(field);
    if (found == json.end()) return Bad(field, "missing");
    if (!found->is_number_unsigned()) return Bad(field, "want a whole number above 0");
    return Tokens(field, found->get<uint64_t>());
  }

  absl::Status TakeMooncake(const std::string& line) {
    const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object()) return absl::InvalidArgumentError("want a JSON object");
    const auto timestamp = json.find("timestamp");
    if (timestamp == json.end()) return Bad("timestamp", "missing");
    const double ms = timestamp->is_number() ? timestamp->get<double>() : -1;
    if (!(ms >= 0) || !std::isfinite(ms)) return Bad("timestamp", "want milliseconds from 0 on");
    TraceRequest request;
    CONCLAVE_ASSIGN_OR_RETURN(request.prompt_tokens, TokensOf(json, "input_length"));
    CONCLAVE_ASSIGN_OR_RETURN(request.output_tokens, TokensOf(json, "output_length"));
    CONCLAVE_RETURN_IF_ERROR(TakeBlocks(json, &request));
    if (!epoch_) epoch_ = absl::UnixEpoch() + absl::Milliseconds(ms);
    return Add(std::move(request), absl::UnixEpoch() + absl::Milliseconds(ms) - *epoch_,
               "timestamp");
  }

  static absl::Status TakeBlocks(const Json& json, TraceRequest* request) {
    const auto found = json.find("hash_ids");
    if (found == json.end()) return absl::OkStatus();
    if (!found->is_array()) return Bad("hash_ids", "want an array");
    const size_t most = (request->prompt_tokens + kTraceBlockTokens - 1) / kTraceBlockTokens;
    if (found->size() > most) {
      return Bad("hash_ids", absl::StrFormat("%d ids, but input_length has %d blocks of %d tokens",
                                             found->size(), most, kTraceBlockTokens));
    }
    for (const Json& id : *found) {
      if (!id.is_number_unsigned()) return Bad("hash_ids", "want whole numbers from 0 on");
      request->blocks.push_back(id.get<uint64_t>());
    }
    return absl::OkStatus();
  }

  absl::Status Add(TraceRequest request, absl::Duration at, std::string_view time_field) {
    const absl::Duration last =
        requests_.empty() ? absl::ZeroDuration() : absl::FromChrono(requests_.back().at);
    if (at < last) return Bad(time_field, "before the line above");
    if (at > absl::FromChrono(limits_.span)) {
      return Bad(time_field,
                 absl::StrFormat("more than %d hours after the first", limits_.span.count()));
    }
    request.at = absl::ToChronoNanoseconds(at);
    requests_.push_back(std::move(request));
    return absl::OkStatus();
  }

  const TraceLimits& limits_;
  std::optional<bool> azure_;  // known from the first line on
  std::optional<absl::Time> epoch_;
  std::vector<TraceRequest> requests_;
};

}  // namespace

absl::StatusOr<std::vector<TraceRequest>> ReadTrace(const std::string& path,
                                                    const TraceLimits& limits) {
  CONCLAVE_ASSIGN_OR_RETURN(const std::string text, ReadWhole(path, limits.file_bytes));
  Reader reader(limits);
  CONCLAVE_RETURN_IF_ERROR(
      ForEachLine(path, text, [&](size_t, const std::string& line) { return reader.Take(line); }));
  if (reader.requests().empty()) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: no requests", path));
  }
  return std::move(reader.requests());
}

}  // namespace conclave::loadtest

// Whatever a trace of arrivals says, in Azure's format or Mooncake's: an error that names the file,
// or requests in order and inside the limits.

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/match.h"
#include "loadtest/arrivals.h"
#include "loadtest/trace.h"
#include "scheduler/check.h"
#include "tests/fuzz/memory_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace conclave::loadtest;
  static const conclave::testing::MemoryFile file;
  const std::string path = file.With(data, size);
  const TraceLimits limits = {
      .file_bytes = 4096, .requests = 20, .tokens = 5000, .span = std::chrono::hours(24)};
  const auto trace = ReadTrace(path, limits);
  if (!trace.ok()) {
    CONCLAVE_CHECK(absl::StartsWith(trace.status().message(), path));
    return 0;
  }
  CONCLAVE_CHECK(size <= limits.file_bytes);
  CONCLAVE_CHECK(!trace->empty() && trace->size() <= limits.requests);
  std::chrono::nanoseconds last{0};
  CONCLAVE_CHECK(trace->front().at == last);
  for (const TraceRequest& request : *trace) {
    CONCLAVE_CHECK(request.at >= last && request.at <= limits.span);
    CONCLAVE_CHECK(request.prompt_tokens >= 1 && request.prompt_tokens <= limits.tokens);
    CONCLAVE_CHECK(request.output_tokens >= 1 && request.output_tokens <= limits.tokens);
    CONCLAVE_CHECK(request.blocks.empty() ||
                   (request.blocks.size() - 1) * kTraceBlockTokens < request.prompt_tokens);
    last = request.at;
  }
  TraceArrivals arrivals(*trace, 0.001);
  std::chrono::nanoseconds before{0};
  for (size_t i = 0; i < trace->size(); ++i) {
    const auto at = arrivals.Next();
    CONCLAVE_CHECK(at && *at >= before);
    before = *at;
  }
  CONCLAVE_CHECK(!arrivals.Next());
  return 0;
}

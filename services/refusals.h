#pragma once
// Why the router does not take a request, in the words its client reads: judged before anything is
// queued, by what it says of itself, then by its tokens. No state; any thread.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "conclave/v1/worker.pb.h"
#include "router/admission.h"
#include "router/request.h"
#include "router/request_limits.h"
#include "router/stop_strings.h"
#include "scheduler/types.h"
#include "services/homes.h"
#include "services/router_metrics.h"
#include "services/text_codec.h"

namespace conclave::services {

absl::Status NoWorker();
absl::Status NoTokenizer();
absl::Status Draining();
// With a Pushback, unless no time helps.
absl::Status ToStatus(const router::Admission::Refusal& refusal);
RouterMetrics::Rejection RejectionOf(const router::Admission::Refusal& refusal);
// Of one that names no adapter that can be had.
RouterMetrics::Rejection RejectionOf(const absl::Status& status);

// OK for what may be admitted and tokenised, as far as the request itself says.
absl::Status JudgeRequest(const router::Request& request,
                          const std::optional<scheduler::Micros>& deadline,
                          const router::RequestLimits& limits, const ServedModel& served,
                          const TextCodec& codec);
// OK unless the output cannot be told again without the seed it was sampled with.
absl::Status JudgeResume(const router::Request& request, const v1::ModelInfo& model);
absl::StatusOr<router::StopStrings> JudgeStops(std::vector<std::string> stops,
                                               const router::RequestLimits& limits);
// How many tokens it may generate behind these.
absl::StatusOr<int32_t> JudgeTokens(const router::Request& request,
                                    const std::vector<scheduler::TokenId>& tokens,
                                    const router::RequestLimits& limits,
                                    const v1::ModelInfo& model);

}  // namespace conclave::services

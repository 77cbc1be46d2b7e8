#pragma once
// How the tool tells of an adapter that was left to the router.

#include <string>

#include "conclave/v1/inference.pb.h"
#include "services/cli/json.h"

namespace conclave::services::cli {

// {"best", "share", "margin", "least_margin", "tokens", "probe_ms"}.
Json ChoiceOf(const v1::AutoChoice& choice);
// For a line of text: what answered, and why it. adapter: as the first message names it.
std::string Remark(const v1::AutoChoice& choice, const std::string& adapter);

}  // namespace conclave::services::cli

#pragma once
// What a process tells Prometheus.

#include <string>

#include "services/address.h"

namespace conclave::services::testing {

// The answer to GET /metrics, headers and all; empty if nobody answers.
std::string Scrape(const Address& address);

}  // namespace conclave::services::testing

#pragma once
// How many token ids the served model has, asked of the router: for prompts that are made of them.

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "services/credentials.h"

namespace conclave::loadtest {

// What the server answers, within ten seconds, or its error; FAILED_PRECONDITION if it does not
// say. Blocks.
absl::StatusOr<uint32_t> AskVocabulary(const std::string& server,
                                       const services::Credentials& credentials);

}  // namespace conclave::loadtest

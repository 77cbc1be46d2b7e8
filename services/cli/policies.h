#pragma once
// How the tool names what a cluster was told to do that changes results.

#include <google/protobuf/repeated_field.h>

#include <string>

#include "services/cli/json.h"

namespace conclave::services::cli {

// A list of names, "partial_sums" say; empty: nothing.
Json NamesOf(const google::protobuf::RepeatedField<int>& policies);
// For a line of text: ", partial_sums".
std::string Marks(const google::protobuf::RepeatedField<int>& policies);
// The same for people who may not know them: "partial_sums (results depend on the placement of
// experts too)"; empty: nothing.
std::string Remark(const google::protobuf::RepeatedField<int>& policies);

}  // namespace conclave::services::cli

#pragma once
// How the tool shows adapters. Pure functions; any thread.

#include <string>

#include "conclave/v1/cluster.pb.h"
#include "services/cli/json.h"

namespace conclave::services::cli {

Json AdaptersToJson(const google::protobuf::RepeatedPtrField<v1::Adapter>& adapters);
std::string AdapterLine(const v1::Adapter& adapter);

}  // namespace conclave::services::cli

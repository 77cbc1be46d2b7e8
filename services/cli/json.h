#pragma once
// JSON as the tool prints it: one document on one line, keys in the documented order.

#include <nlohmann/json.hpp>

#include "services/cli/command.h"

namespace conclave::services::cli {

using Json = nlohmann::ordered_json;

// Rounded to nine significant digits, from which every float32 can be read back exactly; null if
// not finite, for which JSON has no word.
Json Number(float value);
// Null if not finite.
Json Number(double value);

// What is not UTF-8 becomes U+FFFD.
void Print(const Json& json, Io& io);

}  // namespace conclave::services::cli

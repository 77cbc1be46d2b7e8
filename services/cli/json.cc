#include "services/cli/json.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace conclave::services::cli {

Json Number(float value) {
  if (!std::isfinite(value)) return nullptr;
  char digits[32];
  std::snprintf(digits, sizeof(digits), "%.9g", static_cast<double>(value));
  // The double nearest to those digits prints so that it, and so the float, reads back.
  return std::strtod(digits, nullptr);
}

Json Number(double value) {
  if (!std::isfinite(value)) return nullptr;
  return value;
}

void Print(const Json& json, Io& io) {
  io.out << json.dump(-1, ' ', false, Json::error_handler_t::replace) << "\n";
}

}  // namespace conclave::services::cli

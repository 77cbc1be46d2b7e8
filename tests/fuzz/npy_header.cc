// Whatever the header of a .npy file says: an error, or a type and a shape inside the limits.

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "scheduler/check.h"
#include "services/cli/npy_reader.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace conclave::services::cli;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const NpyLimits limits;
  const auto header = ParseNpyHeader(text, "a file", limits);
  if (!header.ok()) return 0;
  CONCLAVE_CHECK(header->shape.size() <= limits.rank);
  CONCLAVE_CHECK(text.find(header->type) != text.npos);
  return 0;
}

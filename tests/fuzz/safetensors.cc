// Whatever the header says: an error, or tensors that fill the data exactly.

#include "worker/model/safetensors.h"

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "scheduler/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view file(reinterpret_cast<const char*>(data), size);
  const auto first = file.substr(0, conclave::worker::kSafetensorsLengthBytes);
  const auto length = conclave::worker::SafetensorsHeaderBytes(first, size, "a file");
  if (!length.ok()) return 0;
  CONCLAVE_CHECK(*length <= size - conclave::worker::kSafetensorsLengthBytes);

  const auto header = file.substr(conclave::worker::kSafetensorsLengthBytes, *length);
  const auto tensors = conclave::worker::ParseSafetensorsHeader(header, size, "a file");
  if (!tensors.ok()) return 0;
  uint64_t filled = conclave::worker::kSafetensorsLengthBytes + *length;
  for (const conclave::worker::TensorEntry& tensor : *tensors) {
    CONCLAVE_CHECK(tensor.begin == filled);
    CONCLAVE_CHECK(tensor.end >= tensor.begin);
    filled = tensor.end;
  }
  CONCLAVE_CHECK(filled == size);
  return 0;
}

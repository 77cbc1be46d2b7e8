// Whatever expert_cfg.json says: an error, or a config inside the limits that reads back as itself.

#include "worker/model/adapter_config.h"

#include <cstddef>
#include <cstdint>
#include <set>
#include <string_view>

#include "scheduler/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace conclave::worker;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const AdapterConfigLimits limits = {.bytes = 4096, .layers = 100, .slots = 64, .entries = 200};
  const auto config = ParseAdapterConfig(text, "expert_cfg.json", limits);
  if (!config.ok()) return 0;
  size_t entries = 0;
  for (const auto& [layer, slots] : config->experts) {
    CONCLAVE_CHECK(layer >= 0 && layer < limits.layers);
    CONCLAVE_CHECK(std::set(slots.begin(), slots.end()).size() == slots.size());
    for (const int32_t slot : slots) CONCLAVE_CHECK(slot >= 0 && slot < limits.slots);
    entries += slots.size();
  }
  CONCLAVE_CHECK(entries <= limits.entries);
  const auto again = ParseAdapterConfig(AdapterConfigText(*config), "its text");
  CONCLAVE_CHECK(again.ok() && *again == *config);
  return 0;
}

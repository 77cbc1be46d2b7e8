// Whatever config.json says: an error, or a spec inside the limits.

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>

#include "scheduler/check.h"
#include "worker/model/config.h"
#include "worker/model/families.h"
#include "worker/model/json.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto document = conclave::worker::ParseJson(text, "config.json");
  if (!document.ok()) return 0;
  conclave::worker::FamilyOptions options;
  options.limits.rope_bytes = 1 << 20;  // they are computed: keep it fast
  conclave::worker::Config config(*document, "config.json");
  const auto family = conclave::worker::MakeFamily(config, options);
  if (!family.ok()) return 0;

  const conclave::worker::ModelSpec& spec = family->spec;
  CONCLAVE_CHECK(spec.vocab >= 1 && spec.vocab <= options.limits.vocab);
  CONCLAVE_CHECK(spec.dim >= 1 && spec.dim <= options.limits.dim);
  CONCLAVE_CHECK(!spec.layers.empty());
  CONCLAVE_CHECK(spec.layers.size() <= static_cast<size_t>(options.limits.layers));
  CONCLAVE_CHECK(spec.gate.top_k >= 1 && spec.gate.top_k <= spec.gate.slots);
  CONCLAVE_CHECK(spec.gate.slots <= options.limits.experts);
  const auto& [fp8, packed] = family->quantization;
  CONCLAVE_CHECK(!packed || (!fp8 && conclave::worker::IsPacked(*packed)));
  CONCLAVE_CHECK(!fp8 || (fp8->rows >= 1 && fp8->cols >= 1));
  CONCLAVE_CHECK(spec.context_limit >= 1 && spec.context_limit <= options.limits.context);
  return 0;
}

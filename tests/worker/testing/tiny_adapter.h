#pragma once
// Random ESFT adapters of any checkpoint, and the checkpoints that they amount to when they are
// merged. Written independently of worker/model: what an expert is here is said by the names of the
// tensors alone. Every function aborts on an I/O error.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tests/worker/testing/tiny_checkpoint.h"

namespace conclave::worker::testing {

struct TinyAdapterOptions {
  // Of experts that are replaced: of a layer none to all, so that layers are uneven and some empty.
  enum class Which : uint8_t { kSome, kAll, kNone };
  Which which = Which::kSome;
  bool shared = false;
  // "F32", "F16" or "BF16": of the adapter's tensors. "": the base's; "mixed": any of them for
  // each.
  std::string type;
  bool prefix = true;  // names begin with "model."
  // Where the checkpoint has a layer's experts in one tensor: so does the adapter, of those that it
  // replaces. Else with a tensor for each.
  bool stacked = false;
};

struct TinyAdapter {
  std::map<int, std::vector<int>> experts;  // layer -> slots, in the order in which they are listed
  bool shared = false;
  std::vector<TinyTensor> tensors;
  std::string config;  // expert_cfg.json

  // expert_cfg.json anew, from the members above it.
  void WriteConfig();
};

// A function of the seed, the options and the names and shapes of the checkpoint. Replaces one
// expert at least.
TinyAdapter MakeTinyAdapter(const std::string& checkpoint, uint64_t seed,
                            const TinyAdapterOptions& options = {});
// expert_cfg.json and model-00001-of-000001.safetensors, in an existing directory.
void WriteAdapter(const TinyAdapter& adapter, const std::string& directory);
// The checkpoint with the adapter's numbers in place of its own, in its own types; what was FP8
// becomes BF16 or F32, as the embedding is. Weights are in one file.
void WriteMerged(const std::string& checkpoint, const TinyAdapter& adapter,
                 const std::string& directory);

}  // namespace conclave::worker::testing

#pragma once
// An ESFT adapter as its directory has it: expert_cfg.json, and safetensors that hold the experts
// it replaces, whole ones, and nothing else. Everything is verified when it is opened; then it says
// which experts they are and gives the bytes of each as the base model would hold them, so that an
// adapter's expert and a base expert of the same layer are one kind of page.
//
// Files are never mapped, as one that shrank under a mapping would end the process: they are held
// open and read, and an expert is verified again whenever it is read. So what a directory has
// become since shows as DATA_LOSS, and a new adapter that was renamed to the old one's place does
// not touch it.
//
// What the tensors may be called, with `model.` before all of them or before none: as in the base's
// family, or as ESFT was released, layers.{L}.mlp.experts.{slot}.gate_proj.weight and so on. Where
// a family keeps a layer's experts in one tensor, also ..experts.{slot}.{rest} with the share of
// one of them, or one tensor of all that are replaced, if expert_cfg.json lists them in ascending
// order. Types are F32, F16 and BF16, whichever the base has; numbers are rounded to the base's to
// nearest even, and packed as the base's are where those are: then the version is of packed bytes.
//
// Immutable after Open; any thread, several at once.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/model/adapter_config.h"
#include "worker/model/adapter_tensors.h"
#include "worker/model/expert_layout.h"
#include "worker/model/model.h"

namespace conclave::worker {

class AdapterFiles {
 public:
  struct Limits {
    AdapterConfigLimits config;
    AdapterTensors::Limits tensors;
    size_t manifest_bytes = size_t{1} << 20;
    uint64_t bytes = uint64_t{256} << 30;  // of its experts, as Read gives them
  };

  struct Expert {
    int32_t moe_layer = 0;  // counting layers that have experts
    int32_t layer = 0;      // counting all
    int32_t slot = 0;       // of the gate; gate.slots: the layer's shared expert
    bool shared = false;
    std::string sha256;  // of its bytes, Sha256::kBytes
  };

  // Reads all of it once, on this thread: may take its time. INVALID_ARGUMENT, NOT_FOUND (a file),
  // RESOURCE_EXHAUSTED (more than limits.bytes; no descriptor left) or DATA_LOSS (changed
  // meanwhile), naming file and tensor or the place in expert_cfg.json, expected and found. Where
  // there is a SHA256SUMS, in the format of sha256sum, it must name every file that is read, and be
  // true of every file that it names. `base` need not outlive it. rest: called between experts.
  static absl::StatusOr<std::shared_ptr<const AdapterFiles>> Open(
      const std::string& directory, const Model& base, const Limits& limits,
      const std::function<void()>& rest = nullptr);
  static absl::StatusOr<std::shared_ptr<const AdapterFiles>> Open(const std::string& directory,
                                                                  const Model& base) {
    return Open(directory, base, Limits());
  }
  ~AdapterFiles();
  AdapterFiles(const AdapterFiles&) = delete;
  AdapterFiles& operator=(const AdapterFiles&) = delete;

  // What it replaces, ascending by layer and slot; one or more.
  std::span<const Expert> experts() const { return experts_; }
  // How the bytes of experts()[index] lie; the same for all but shared ones.
  const ExpertLayout& layout(size_t index) const;
  // Of all experts.
  uint64_t bytes() const { return bytes_; }
  // SHA-256, in hex, of which experts these are and of their bytes: the same for files of other
  // names, types or order that replace the same by the same.
  const std::string& version() const { return version_; }

  // into = the bytes of experts()[index], layout(index).bytes() of them. DATA_LOSS if they are no
  // longer what was verified.
  absl::Status Read(size_t index, std::span<std::byte> into) const;

 private:
  struct Contents;  // the files, and where in them an expert is
  AdapterFiles();
  absl::Status Verify(uint64_t bytes_limit, const std::function<void()>& rest);

  std::string directory_;
  std::unique_ptr<Contents> contents_;
  std::vector<Expert> experts_;
  uint64_t bytes_ = 0;
  std::string version_;
};

}  // namespace conclave::worker

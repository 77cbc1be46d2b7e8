#pragma once
// A loaded model: its spec and its mapped weights. Immutable after Load; read by any thread.
// Everything in the directory is untrusted: validated, by name, before memory is taken or a kernel
// sees it.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "scheduler/types.h"
#include "worker/device/tensor.h"
#include "worker/model/spec.h"

namespace conclave::worker {

struct AttentionWeights {
  // kGqa: q [heads*head_dim, dim], k, v [kv_heads*head_dim, dim], o [dim, heads*head_dim], norms
  // over q and k rows or, [head_dim], each head's. kMla: q [heads*(nope+rope), dim] or q_a [q_rank,
  // dim], q_a_norm, q_b [heads*(nope+rope), q_rank];
  //       kv_a [kv_rank + rope, dim], kv_a_norm [kv_rank], kv_b [heads*(nope+value), kv_rank], o
  //       [dim, heads*value].
  Weight q, k, v, o;
  Weight q_bias, k_bias, v_bias, o_bias;
  Weight q_norm, k_norm;
  Weight q_a, q_a_norm, q_b, q_a_bias;
  Weight kv_a, kv_a_norm, kv_b, kv_a_bias;
  std::vector<float> sinks;  // kGqa: [heads] or empty
};

struct LayerWeights {
  Weight attention_norm;
  AttentionWeights attention;
  Weight ffn_norm;
  FfnWeights dense;                 // layers without experts
  Weight gate;                      // [slots, dim]
  Weight gate_logit_bias;           // [slots], part of that product; or none
  std::vector<float> gate_bias;     // [slots], of selection alone; or empty
  FfnWeights shared;                // if the spec has a shared expert
  Weight shared_gate;               // [1, dim]: how much of its result counts; or none: all of it
  std::vector<FfnWeights> experts;  // [slots], the base model's
};

class MappedFiles;       // the checkpoint's files, held open and mapped
class ConvertedWeights;  // memory for the weights that cannot be used as they are mapped
class AbsentExperts;     // address space for the experts that the files lack
class TensorTable;       // how its family names tensors

// What tells checkpoints apart: settings, and of every tensor its shape and a sample
// (MappedFiles::Digest). By layer, so that one that lacks experts knows which.
struct CheckpointDigest {
  static constexpr size_t kLayerBytes = 16;

  std::string dense;                // of all but experts, in hex
  std::vector<std::string> layers;  // of each MoE layer's experts, kLayerBytes each

  // Of both, in hex.
  std::string Whole() const;
};

struct ModelOptions {
  int32_t context_limit =
      0;  // above 0: lowers the checkpoint's, and with it the memory of rotary tables and caches
  // For weights that cannot be used as they are mapped: FP8, transposed layouts, what is packed.
  int64_t converted_bytes = int64_t{64} << 30;
  // Matrices of experts, also of shared ones, are packed like this when they are held, from BF16 or
  // what is dequantised to it. Nothing: they are as they are stored, packed or not.
  std::optional<DType> experts_as;
  // Likewise attention's projections (but those of heads from a latent), dense layers' nets and the
  // head, those whose sizes allow it.
  std::optional<DType> dense_as;
  // Experts that must be converted are ready once it is loaded. False: once they are held.
  bool hold_experts = true;
  // If not empty, experts may be absent: it is asked, for a checkpoint with this dense digest, what
  // the layers' digests are, and may take its time. Its error is Load's.
  std::function<absl::StatusOr<std::vector<std::string>>(const std::string& dense)> ask_layers;
};

struct Model {
  ModelSpec spec;
  CheckpointDigest checkpoint;
  std::string digest;  // checkpoint.Whole()
  Weight embedding;    // [vocab, dim]
  Weight final_norm;
  Weight head;  // [vocab, dim]; the embedding if tied and not stored beside it
  std::vector<LayerWeights> layers;
  std::shared_ptr<const MappedFiles> files;
  std::shared_ptr<const ConvertedWeights> converted;  // null: everything is used as it is mapped
  std::shared_ptr<const AbsentExperts> absent;        // null: the files have all experts
  std::shared_ptr<const TensorTable> tensors;         // what files of its family hold

  std::vector<std::string> remarks;  // to whoever loads it: settings that are not applied
  // Brings what every token needs into memory, in the order of use, while all else starts.
  std::jthread reading;

  // What `converted` takes, with all experts.
  int64_t converted_bytes() const;

  // Weights by expert id.
  std::vector<const FfnWeights*> Experts() const;

  // Both of experts that are not absent.
  // Makes experts ready to be computed, by id: (MoE layer) * slots + slot. Whoever computes them
  // has seen this return OK. DATA_LOSS, INVALID_ARGUMENT as Load.
  absl::Status HoldExperts(std::span<const scheduler::ExpertId> experts) const;
  // Brings what of it is in files into memory, before it is computed with the first time.
  void Bring(const FfnWeights& expert) const;
  // Gives back the memory of experts that nobody computes; pages of the files, too, that are theirs
  // alone.
  void DropExperts(std::span<const scheduler::ExpertId> experts) const;

  // Maps a Hugging Face directory; pages are touched only of tensors that must be converted, and,
  // behind its back, of those that every token needs.
  // NOT_FOUND, INVALID_ARGUMENT (bad or unsupported, naming file and tensor or setting), DATA_LOSS
  // (a file shrank meanwhile), RESOURCE_EXHAUSTED (conversions beyond converted_bytes),
  // FAILED_PRECONDITION (experts at hand that are not of the checkpoint others speak of; experts
  // that are stored in another packed form than they are to be held in).
  static absl::StatusOr<std::shared_ptr<const Model>> Load(const std::string& directory,
                                                           const ModelOptions& options = {});
};

}  // namespace conclave::worker

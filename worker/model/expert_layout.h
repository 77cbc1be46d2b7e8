#pragma once
// An expert's numbers in one run of bytes, as they travel between workers and lie where they were
// received: gate, up and down in the type that experts are held as, packed ones each followed by
// its scales, then the biases, if there are any, in F32. Each begins at a multiple of 64 bytes,
// with zeros before it. How the checkpoint had them (a tensor each, a layer's in one, transposed,
// FP8) no longer shows, and the bits that kernels compute are the same: they widen biases before
// they add them. Immutable; any thread.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "worker/model/spec.h"

namespace conclave::worker {

class ExpertLayout {
 public:
  struct Part {
    Weight FfnWeights::*member;
    DType type;
    int64_t rows, cols;
    uint64_t begin;
    uint64_t scales = 0;  // where they begin, if it is packed

    // It, of the expert whose bytes begin at `data`.
    Weight At(const char* data) const;
  };

  // Of the experts that the gate chooses.
  explicit ExpertLayout(const ModelSpec& spec);
  // Of a layer's shared one.
  static ExpertLayout OfShared(const ModelSpec& spec);

  uint64_t bytes() const { return bytes_; }
  // The expert whose bytes begin at `data`.
  FfnWeights At(const char* data) const;
  const std::vector<Part>& parts() const { return parts_; }

 private:
  ExpertLayout(const ModelSpec& spec, int64_t ffn_dim, bool bias);

  FfnActivation activation_;
  std::vector<Part> parts_;
  uint64_t bytes_ = 0;
};

// An expert read in that order. The weights stay where they are and must outlive it.
class ExpertBytes {
 public:
  ExpertBytes(const ExpertLayout& layout, const FfnWeights& weights);

  uint64_t size() const { return size_; }
  // to = bytes [offset, offset + count), within size().
  void Read(uint64_t offset, size_t count, char* to) const;
  std::string Sha256() const;

 private:
  void Add(uint64_t begin, std::string_view bytes);

  std::vector<std::vector<float>> widened_;
  std::vector<std::string_view> pieces_;
  uint64_t size_ = 0;
};

}  // namespace conclave::worker

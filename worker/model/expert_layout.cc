#include "worker/model/expert_layout.h"

#include <algorithm>
#include <cstring>

#include "scheduler/check.h"
#include "worker/model/widen.h"
#include "worker/sha256.h"

namespace conclave::worker {
namespace {

constexpr uint64_t kAlignment = 64;  // of a weight: a line of the cache
constexpr char kZeros[kAlignment] = {};

uint64_t Aligned(uint64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

uint64_t SizeOf(DType type, int64_t rows, int64_t cols) {
  return static_cast<uint64_t>(rows) * static_cast<uint64_t>(cols) * SizeOf(type);
}

}  // namespace

ExpertLayout::ExpertLayout(const ModelSpec& spec)
    : ExpertLayout(spec, spec.expert_ffn_dim, spec.expert_bias) {}

ExpertLayout ExpertLayout::OfShared(const ModelSpec& spec) {
  return {spec, spec.shared_ffn_dim, spec.ffn_bias};
}

ExpertLayout::ExpertLayout(const ModelSpec& spec, int64_t ffn_dim, bool bias)
    : activation_(spec.activation) {
  const auto add = [this](Weight FfnWeights::*member, DType type, int64_t rows, int64_t cols) {
    parts_.push_back({member, type, rows, cols, Aligned(bytes_)});
    bytes_ = parts_.back().begin + SizeOf(type, rows, cols);
  };
  add(&FfnWeights::gate, spec.type, ffn_dim, spec.dim);
  add(&FfnWeights::up, spec.type, ffn_dim, spec.dim);
  add(&FfnWeights::down, spec.type, spec.dim, ffn_dim);
  if (!bias) return;
  add(&FfnWeights::gate_bias, DType::kF32, 1, ffn_dim);
  add(&FfnWeights::up_bias, DType::kF32, 1, ffn_dim);
  add(&FfnWeights::down_bias, DType::kF32, 1, spec.dim);
}

FfnWeights ExpertLayout::At(const char* data) const {
  FfnWeights weights;
  weights.activation = activation_;
  for (const Part& part : parts_) {
    weights.*part.member = {data + part.begin, part.type, part.rows, part.cols};
  }
  return weights;
}

ExpertBytes::ExpertBytes(const ExpertLayout& layout, const FfnWeights& weights) {
  widened_.reserve(layout.parts().size());
  for (const ExpertLayout::Part& part : layout.parts()) {
    const Weight& weight = weights.*part.member;
    CONCLAVE_CHECK(weight.rows * weight.cols == part.rows * part.cols);
    if (part.begin > size_) pieces_.emplace_back(kZeros, part.begin - size_);
    const uint64_t bytes = SizeOf(part.type, part.rows, part.cols);
    if (weight.type == part.type) {
      pieces_.emplace_back(static_cast<const char*>(weight.data), bytes);
    } else {
      CONCLAVE_CHECK(part.type == DType::kF32);
      widened_.push_back(Widen(weight));
      pieces_.emplace_back(reinterpret_cast<const char*>(widened_.back().data()), bytes);
    }
    size_ = part.begin + bytes;
  }
}

void ExpertBytes::Read(uint64_t offset, size_t count, char* to) const {
  CONCLAVE_CHECK(offset <= size_ && count <= size_ - offset);
  for (const std::string_view piece : pieces_) {
    if (offset >= piece.size()) {
      offset -= piece.size();
      continue;
    }
    const size_t taken = std::min(count, piece.size() - offset);
    std::memcpy(to, piece.data() + offset, taken);
    to += taken;
    count -= taken;
    offset = 0;
    if (count == 0) return;
  }
}

std::string ExpertBytes::Sha256() const {
  worker::Sha256 hash;
  for (const std::string_view piece : pieces_) hash.Add(piece);
  return hash.Finish();
}

}  // namespace conclave::worker

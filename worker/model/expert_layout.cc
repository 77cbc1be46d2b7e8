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
    Part& part = parts_.back();
    const Weight like = part.At(nullptr);
    bytes_ = part.begin + like.bytes();
    if (!IsPacked(type)) return;
    part.scales = Aligned(bytes_);
    bytes_ = part.scales + like.scale_bytes();
  };
  add(&FfnWeights::gate, spec.expert_type, ffn_dim, spec.dim);
  add(&FfnWeights::up, spec.expert_type, ffn_dim, spec.dim);
  add(&FfnWeights::down, spec.expert_type, spec.dim, ffn_dim);
  if (!bias) return;
  add(&FfnWeights::gate_bias, DType::kF32, 1, ffn_dim);
  add(&FfnWeights::up_bias, DType::kF32, 1, ffn_dim);
  add(&FfnWeights::down_bias, DType::kF32, 1, spec.dim);
}

Weight ExpertLayout::Part::At(const char* data) const {
  Weight weight = {data + begin, type, rows, cols};
  if (IsPacked(type)) weight.scales = reinterpret_cast<const uint8_t*>(data + scales);
  return weight;
}

FfnWeights ExpertLayout::At(const char* data) const {
  FfnWeights weights;
  weights.activation = activation_;
  for (const Part& part : parts_) weights.*part.member = part.At(data);
  return weights;
}

ExpertBytes::ExpertBytes(const ExpertLayout& layout, const FfnWeights& weights) {
  widened_.reserve(layout.parts().size());
  for (const ExpertLayout::Part& part : layout.parts()) {
    const Weight& weight = weights.*part.member;
    CONCLAVE_CHECK(weight.rows * weight.cols == part.rows * part.cols);
    const uint64_t bytes = part.At(nullptr).bytes();
    if (weight.type == part.type) {
      Add(part.begin, {static_cast<const char*>(weight.data), bytes});
    } else {
      CONCLAVE_CHECK(part.type == DType::kF32);
      widened_.push_back(Widen(weight));
      Add(part.begin, {reinterpret_cast<const char*>(widened_.back().data()), bytes});
    }
    if (IsPacked(part.type)) {
      Add(part.scales, {reinterpret_cast<const char*>(weight.scales), weight.scale_bytes()});
    }
  }
}

void ExpertBytes::Add(uint64_t begin, std::string_view bytes) {
  if (begin > size_) pieces_.emplace_back(kZeros, begin - size_);
  pieces_.push_back(bytes);
  size_ = begin + bytes.size();
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

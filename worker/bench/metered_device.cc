#include "worker/bench/metered_device.h"

#include <algorithm>

namespace conclave::worker {
namespace {

double BytesOf(Weight weight) { return static_cast<double>(weight.bytes() + weight.scale_bytes()); }

}  // namespace

MeteredDevice::Meter& MeteredDevice::Meter::operator+=(const Meter& other) {
  seconds += other.seconds;
  bytes += other.bytes;
  bf16_operations += other.bf16_operations;
  fp32_operations += other.fp32_operations;
  return *this;
}

void MeteredDevice::Reset() {
  meters_ = {};
  gated_.clear();
}

bool MeteredDevice::Before() {
  began_ = Clock::now();
  return !blank_;
}

void MeteredDevice::After() {
  meters_[kind_].seconds += std::chrono::duration<double>(Clock::now() - began_).count();
  kind_ = kRest;
}

void MeteredDevice::CountProduct(Kind kind, double rows, Weight weight, Inputs inputs) {
  const bool bf16 = inputs == Inputs::kActivationType &&
                    (weight.type == DType::kBF16 || IsPacked(weight.type)) &&
                    activation_type() == DType::kBF16;
  const double operations = 2 * rows * static_cast<double>(weight.rows * weight.cols);
  meters_[kind].bytes += BytesOf(weight);
  (bf16 ? meters_[kind].bf16_operations : meters_[kind].fp32_operations) += operations;
}

void MeteredDevice::Embed(Weight table, std::span<const int32_t> ids, Rows out) {
  meters_[kRest].bytes += BytesOf(table.Slice(0, static_cast<int64_t>(ids.size())));
  ForwardingDevice::Embed(table, ids, out);
}

void MeteredDevice::MatMul(ConstRows x, Weight weight, Weight bias, Inputs inputs, Rows out) {
  CountProduct(kMatMul, static_cast<double>(x.rows), weight, inputs);
  kind_ = kMatMul;
  ForwardingDevice::MatMul(x, weight, bias, inputs, out);
}

void MeteredDevice::MatMulPerHead(ConstRows x, Weight weight, const HeadMatMul& shape, Rows out) {
  const int64_t rows = shape.transposed ? shape.out_dim : shape.in_dim;
  CountProduct(kPerHead, static_cast<double>(x.rows), weight.Slice(0, shape.heads * rows),
               Inputs::kFloat);
  kind_ = kPerHead;
  ForwardingDevice::MatMulPerHead(x, weight, shape, out);
}

void MeteredDevice::Attention(ConstRows q, const AttentionShape& shape, const BatchPlaces& places,
                              KvLayer cache, Rows out) {
  double positions = 0, pairs = 0;  // of the cache, once for each sequence; seen by all rows
  int32_t first = 0;                // that a sequence's first row sees
  for (size_t r = 0; r < places.rows.size(); ++r) {
    const RowPlace& place = places.rows[r];
    const int32_t begin = shape.window > 0 ? std::max(0, place.position - shape.window + 1) : 0;
    pairs += place.position + 1 - begin;
    const bool last = r + 1 == places.rows.size() || places.rows[r + 1].sequence != place.sequence;
    if (r == 0 || places.rows[r - 1].sequence != place.sequence) first = begin;
    if (last) positions += place.position + 1 - first;
  }
  meters_[kAttention].bytes +=
      positions * static_cast<double>(cache.width) * static_cast<double>(SizeOf(cache.type));
  meters_[kAttention].fp32_operations +=
      2 * pairs * shape.heads * (shape.key_dim + shape.value_dim);
  kind_ = kAttention;
  ForwardingDevice::Attention(q, shape, places, cache, out);
}

void MeteredDevice::Gate(ConstRows logits, const GateShape& shape, const float* bias,
                         std::span<int32_t> slots, std::span<float> weights) {
  ForwardingDevice::Gate(logits, shape, bias, slots, weights);
  if (blank_) {
    for (size_t i = 0; i < slots.size(); ++i) {
      slots[i] = static_cast<int32_t>(i) % shape.top_k;
      weights[i] = 0;
    }
  }
  gated_.emplace_back(slots.begin(), slots.end());
}

void MeteredDevice::Experts(ConstRows x, std::span<const ExpertWork> work, Rows out) {
  for (const ExpertWork& item : work) {
    const auto rows = static_cast<double>(item.inputs.size());
    if (rows == 0) continue;
    for (const Weight& weight : {item.weights->gate, item.weights->up, item.weights->down}) {
      CountProduct(kExperts, rows, weight, Inputs::kActivationType);
    }
  }
  kind_ = kExperts;
  ForwardingDevice::Experts(x, work, out);
}

void MeteredDevice::Sample(Rows logits, std::span<const SampleRow> rows,
                           std::span<SampledToken> out) {
  ForwardingDevice::Sample(logits, rows, out);
  if (!blank_) return;
  for (SampledToken& token : out)
    token = {.token = static_cast<int32_t>(chance_() % static_cast<uint32_t>(logits.cols))};
}

}  // namespace conclave::worker

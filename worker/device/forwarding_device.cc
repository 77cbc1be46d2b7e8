#include "worker/device/forwarding_device.h"

namespace conclave::worker {

class ForwardingDevice::Around {
 public:
  explicit Around(ForwardingDevice& device) : device_(device), wanted_(device.Before()) {}
  ~Around() { device_.After(); }
  explicit operator bool() const { return wanted_; }
  Around(const Around&) = delete;
  Around& operator=(const Around&) = delete;

 private:
  ForwardingDevice& device_;
  const bool wanted_;
};

void ForwardingDevice::Embed(Weight table, std::span<const int32_t> ids, Rows out) {
  if (const Around around{*this}) device_->Embed(table, ids, out);
}

void ForwardingDevice::RmsNorm(ConstRows x, Weight weight, float eps, Rows out) {
  if (const Around around{*this}) device_->RmsNorm(x, weight, eps, out);
}

void ForwardingDevice::MatMul(ConstRows x, Weight weight, Weight bias, Inputs inputs, Rows out) {
  if (const Around around{*this}) device_->MatMul(x, weight, bias, inputs, out);
}

void ForwardingDevice::MatMulPerHead(ConstRows x, Weight weight, const HeadMatMul& shape,
                                     Rows out) {
  if (const Around around{*this}) device_->MatMulPerHead(x, weight, shape, out);
}

void ForwardingDevice::Clip(Rows x, float limit) {
  if (const Around around{*this}) device_->Clip(x, limit);
}

void ForwardingDevice::ScaleBySigmoid(ConstRows logits, Rows x) {
  if (const Around around{*this}) device_->ScaleBySigmoid(logits, x);
}

void ForwardingDevice::Rope(ConstRows x, const RopeColumns& columns, const BatchPlaces& places,
                            const RopeTable& table, Rows out) {
  if (const Around around{*this}) device_->Rope(x, columns, places, table, out);
}

void ForwardingDevice::StoreKv(ConstRows x, const BatchPlaces& places, int64_t column,
                               KvLayer cache) {
  if (const Around around{*this}) device_->StoreKv(x, places, column, cache);
}

void ForwardingDevice::CopyKv(KvLayer cache, int32_t from, int32_t to) {
  if (const Around around{*this}) device_->CopyKv(cache, from, to);
}

void ForwardingDevice::Attention(ConstRows q, const AttentionShape& shape,
                                 const BatchPlaces& places, KvLayer cache, Rows out) {
  if (const Around around{*this}) device_->Attention(q, shape, places, cache, out);
}

void ForwardingDevice::Gate(ConstRows logits, const GateShape& shape, const float* bias,
                            std::span<int32_t> slots, std::span<float> weights) {
  if (const Around around{*this}) device_->Gate(logits, shape, bias, slots, weights);
}

void ForwardingDevice::Experts(ConstRows x, std::span<const ExpertWork> work, Rows out) {
  if (const Around around{*this}) device_->Experts(x, work, out);
}

void ForwardingDevice::Combine(ConstRows outputs, std::span<const float> weights, int32_t top_k,
                               ConstRows shared, Rows hidden) {
  if (const Around around{*this}) device_->Combine(outputs, weights, top_k, shared, hidden);
}

void ForwardingDevice::Add(ConstRows y, Rows x) {
  if (const Around around{*this}) device_->Add(y, x);
}

void ForwardingDevice::Gather(ConstRows x, std::span<const int32_t> rows, Rows out) {
  if (const Around around{*this}) device_->Gather(x, rows, out);
}

void ForwardingDevice::Sample(Rows logits, std::span<const SampleRow> rows,
                              std::span<SampledToken> out) {
  if (const Around around{*this}) device_->Sample(logits, rows, out);
}

}  // namespace conclave::worker

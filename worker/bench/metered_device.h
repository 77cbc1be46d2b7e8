#pragma once
// A device that times every operation of another one and counts what it must read and compute: the
// weights and cache rows of a call once each, two operations for each product of a sum. It can make
// contexts without computing them: blank, it chooses tokens by lot and does nothing else.
// One thread.

#include <array>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "worker/device/device.h"

namespace conclave::worker {

class MeteredDevice final : public Device {
 public:
  enum Kind { kMatMul, kPerHead, kExperts, kAttention, kRest, kKinds };
  static constexpr const char* kNames[kKinds] = {"products", "per head", "experts", "attention",
                                                 "rest"};
  struct Meter {
    double seconds = 0;
    double bytes = 0;
    double bf16_operations = 0;  // of BF16 by BF16, as the model's types are
    double fp32_operations = 0;  // of attention, too, however a level makes it
    Meter& operator+=(const Meter& other);
  };
  using Meters = std::array<Meter, kKinds>;

  explicit MeteredDevice(std::unique_ptr<Device> device) : device_(std::move(device)) {}

  const Meters& meters() const { return meters_; }
  // What the gate chose, call after call: [rows, top_k] slots each.
  const std::vector<std::vector<int32_t>>& gated() const { return gated_; }
  void Reset();

  void SetBlank(bool blank) { blank_ = blank; }

  std::string numerics() const override { return device_->numerics(); }
  DType activation_type() const override { return device_->activation_type(); }
  void Embed(Weight table, std::span<const int32_t> ids, Rows out) override;
  void RmsNorm(ConstRows x, Weight weight, float eps, Rows out) override;
  void MatMul(ConstRows x, Weight weight, Weight bias, Inputs inputs, Rows out) override;
  void MatMulPerHead(ConstRows x, Weight weight, const HeadMatMul& shape, Rows out) override;
  void Clip(Rows x, float limit) override;
  void ScaleBySigmoid(ConstRows logits, Rows x) override;
  void Rope(ConstRows x, const RopeColumns& columns, const BatchPlaces& places,
            const RopeTable& table, Rows out) override;
  void StoreKv(ConstRows x, const BatchPlaces& places, int64_t column, KvLayer cache) override;
  void CopyKv(KvLayer cache, int32_t from, int32_t to) override;
  void Attention(ConstRows q, const AttentionShape& shape, const BatchPlaces& places, KvLayer cache,
                 Rows out) override;
  void Gate(ConstRows logits, const GateShape& shape, const float* bias, std::span<int32_t> slots,
            std::span<float> weights) override;
  void Experts(ConstRows x, std::span<const ExpertWork> work, Rows out) override;
  void Combine(ConstRows outputs, std::span<const float> weights, int32_t top_k, ConstRows shared,
               Rows hidden) override;
  void Add(ConstRows y, Rows x) override;
  void Gather(ConstRows x, std::span<const int32_t> rows, Rows out) override;
  void Sample(Rows logits, std::span<const SampleRow> rows, std::span<SampledToken> out) override;
  absl::StatusOr<void*> Allocate(size_t bytes, std::string_view name, Take take) override {
    return device_->Allocate(bytes, name, take);
  }

 private:
  template <typename Call>
  void Time(Kind kind, Call call);
  void CountProduct(Kind kind, double rows, Weight weight, Inputs inputs);

  const std::unique_ptr<Device> device_;
  Meters meters_;
  std::vector<std::vector<int32_t>> gated_;
  bool blank_ = false;
  std::mt19937 chance_{2};
};

}  // namespace conclave::worker

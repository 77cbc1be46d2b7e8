#pragma once
// A device that times every operation of another one and counts what it must read and compute: the
// weights and cache rows of a call once each, two operations for each product of a sum. It can make
// contexts without computing them: blank, it chooses tokens by lot and does nothing else.
// One thread.

#include <array>
#include <chrono>
#include <memory>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "worker/device/forwarding_device.h"

namespace conclave::worker {

class MeteredDevice final : public ForwardingDevice {
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

  explicit MeteredDevice(std::unique_ptr<Device> device) : ForwardingDevice(std::move(device)) {}

  const Meters& meters() const { return meters_; }
  // What the gate chose, call after call: [rows, top_k] slots each.
  const std::vector<std::vector<int32_t>>& gated() const { return gated_; }
  void Reset();
  void SetBlank(bool blank) { blank_ = blank; }

  // What has more to count than time.
  void Embed(Weight table, std::span<const int32_t> ids, Rows out) override;
  void MatMul(ConstRows x, Weight weight, Weight bias, Inputs inputs, Rows out) override;
  void MatMulPerHead(ConstRows x, Weight weight, const HeadMatMul& shape, Rows out) override;
  void Attention(ConstRows q, const AttentionShape& shape, const BatchPlaces& places, KvLayer cache,
                 Rows out) override;
  void Gate(ConstRows logits, const GateShape& shape, const float* bias, std::span<int32_t> slots,
            std::span<float> weights) override;
  void Experts(ConstRows x, std::span<const ExpertWork> work, Rows out) override;
  void Sample(Rows logits, std::span<const SampleRow> rows, std::span<SampledToken> out) override;

 private:
  using Clock = std::chrono::steady_clock;

  bool Before() override;
  void After() override;
  void CountProduct(Kind kind, double rows, Weight weight, Inputs inputs);

  Meters meters_;
  Kind kind_ = kRest;  // of the operation that comes next, or runs
  Clock::time_point began_;
  std::vector<std::vector<int32_t>> gated_;
  bool blank_ = false;
  std::mt19937 chance_{2};
};

}  // namespace conclave::worker

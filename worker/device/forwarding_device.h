#pragma once
// A device that hands every operation on to another one and does something before and after it.
//
// Threads: as the derived class says.

#include <memory>
#include <string>
#include <utility>

#include "worker/device/device.h"

namespace conclave::worker {

class ForwardingDevice : public Device {
 public:
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

  // No operation: nothing is done around it.
  absl::StatusOr<void*> Allocate(size_t bytes, std::string_view name, Take take) override {
    return device_->Allocate(bytes, name, take);
  }

 protected:
  explicit ForwardingDevice(std::unique_ptr<Device> device) : device_(std::move(device)) {}

  // Around each operation, on the thread that asks for it. False: it is left out.
  virtual bool Before() = 0;
  virtual void After() = 0;

 private:
  class Around;

  const std::unique_ptr<Device> device_;
};

}  // namespace conclave::worker

#include "worker/device/shared_device.h"

namespace conclave::worker {
namespace {

class Turn {
 public:
  explicit Turn(Turnstile& turnstile) : turnstile_(turnstile) { turnstile_.Enter(); }
  ~Turn() { turnstile_.Leave(); }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  Turnstile& turnstile_;
};

// About a microsecond: an operation is seldom longer, and a sleep costs many.
constexpr int kWatches = 64;

}  // namespace

void Turnstile::Enter() {
  const uint32_t mine = next_.fetch_add(1, std::memory_order_relaxed);
  for (int i = 0; i < kWatches; ++i) {
    if (serving_.load(std::memory_order_acquire) == mine) return;
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
  for (uint32_t now = serving_.load(std::memory_order_acquire); now != mine;
       now = serving_.load(std::memory_order_acquire)) {
    serving_.wait(now);
  }
}

void Turnstile::Leave() {
  serving_.fetch_add(1, std::memory_order_release);
  serving_.notify_all();
}

void SharedDevice::Embed(Weight table, std::span<const int32_t> ids, Rows out) {
  const Turn turn(turn_);
  device_->Embed(table, ids, out);
}

void SharedDevice::RmsNorm(ConstRows x, Weight weight, float eps, Rows out) {
  const Turn turn(turn_);
  device_->RmsNorm(x, weight, eps, out);
}

void SharedDevice::MatMul(ConstRows x, Weight weight, Weight bias, Inputs inputs, Rows out) {
  const Turn turn(turn_);
  device_->MatMul(x, weight, bias, inputs, out);
}

void SharedDevice::MatMulPerHead(ConstRows x, Weight weight, const HeadMatMul& shape, Rows out) {
  const Turn turn(turn_);
  device_->MatMulPerHead(x, weight, shape, out);
}

void SharedDevice::Clip(Rows x, float limit) {
  const Turn turn(turn_);
  device_->Clip(x, limit);
}

void SharedDevice::ScaleBySigmoid(ConstRows logits, Rows x) {
  const Turn turn(turn_);
  device_->ScaleBySigmoid(logits, x);
}

void SharedDevice::Rope(ConstRows x, const RopeColumns& columns, const BatchPlaces& places,
                        const RopeTable& table, Rows out) {
  const Turn turn(turn_);
  device_->Rope(x, columns, places, table, out);
}

void SharedDevice::StoreKv(ConstRows x, const BatchPlaces& places, int64_t column, KvLayer cache) {
  const Turn turn(turn_);
  device_->StoreKv(x, places, column, cache);
}

void SharedDevice::CopyKv(KvLayer cache, int32_t from, int32_t to) {
  const Turn turn(turn_);
  device_->CopyKv(cache, from, to);
}

void SharedDevice::Attention(ConstRows q, const AttentionShape& shape, const BatchPlaces& places,
                             KvLayer cache, Rows out) {
  const Turn turn(turn_);
  device_->Attention(q, shape, places, cache, out);
}

void SharedDevice::Gate(ConstRows logits, const GateShape& shape, const float* bias,
                        std::span<int32_t> slots, std::span<float> weights) {
  const Turn turn(turn_);
  device_->Gate(logits, shape, bias, slots, weights);
}

void SharedDevice::Experts(ConstRows x, std::span<const ExpertWork> work, Rows out) {
  const Turn turn(turn_);
  device_->Experts(x, work, out);
}

void SharedDevice::Combine(ConstRows outputs, std::span<const float> weights, int32_t top_k,
                           ConstRows shared, Rows hidden) {
  const Turn turn(turn_);
  device_->Combine(outputs, weights, top_k, shared, hidden);
}

void SharedDevice::Add(ConstRows y, Rows x) {
  const Turn turn(turn_);
  device_->Add(y, x);
}

void SharedDevice::Gather(ConstRows x, std::span<const int32_t> rows, Rows out) {
  const Turn turn(turn_);
  device_->Gather(x, rows, out);
}

void SharedDevice::Sample(Rows logits, std::span<const SampleRow> rows,
                          std::span<SampledToken> out) {
  const Turn turn(turn_);
  device_->Sample(logits, rows, out);
}

}  // namespace conclave::worker

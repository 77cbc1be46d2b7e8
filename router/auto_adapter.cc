#include "router/auto_adapter.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace conclave::router {
namespace {

// A value of a routing's bytes, which are little-endian as we are.
template <typename T>
T ValueAt(const std::string& bytes, size_t index) {
  T value;
  std::memcpy(&value, bytes.data() + index * sizeof(T), sizeof(T));
  return value;
}

bool Fits(const Routing& routing, const GateShape& gate, size_t tokens) {
  if (uint64_t{gate.layers} * gate.slots > kMostGateSlots || gate.top_k > gate.slots) return false;
  if (routing.layers != gate.layers || routing.top_k != gate.top_k ||
      routing.experts != gate.slots) {
    return false;
  }
  const size_t chosen = tokens * gate.layers * gate.top_k;
  return chosen > 0 && routing.slots.size() == chosen * sizeof(uint16_t) &&
         routing.weights.size() == chosen * sizeof(float);
}

// Each layer counts as much as another, whatever its weights sum to.
void Normalise(GateShares& gate) {
  const auto slots = static_cast<ptrdiff_t>(gate.slots);
  for (auto layer = gate.shares.begin(); layer != gate.shares.end(); layer += slots) {
    double total = 0.0;
    for (auto share = layer; share != layer + slots; ++share) total += *share;
    if (total <= 0.0) continue;
    for (auto share = layer; share != layer + slots; ++share) *share /= total;
  }
}

// Over layers in the mean: what falls on the signature, and what would if all experts were alike.
struct Weight {
  double share = 0.0;
  double chance = 0.0;
};

Weight WeightOf(const GateShares& gate, AdapterSignature signature) {
  Weight weight;
  for (const uint32_t expert : signature) {
    if (expert >= gate.shares.size()) continue;
    weight.share += gate.shares[expert];
    weight.chance += 1.0 / gate.slots;
  }
  weight.share /= gate.layers;
  weight.chance /= gate.layers;
  return weight;
}

}  // namespace

std::optional<GateShares> SharesOf(const Routing& routing, const GateShape& gate, size_t tokens) {
  if (!Fits(routing, gate, tokens)) return std::nullopt;
  GateShares shares{.layers = static_cast<int32_t>(gate.layers),
                    .slots = static_cast<int32_t>(gate.slots),
                    .shares = std::vector<double>(size_t{gate.layers} * gate.slots)};
  const size_t chosen = routing.slots.size() / sizeof(uint16_t);
  for (size_t i = 0; i < chosen; ++i) {
    const auto slot = ValueAt<uint16_t>(routing.slots, i);
    const auto weight = ValueAt<float>(routing.weights, i);
    if (slot >= gate.slots || !std::isfinite(weight) || weight < 0.0f) return std::nullopt;
    const size_t layer = i / gate.top_k % gate.layers;
    shares.shares[layer * gate.slots + slot] += static_cast<double>(weight);
  }
  Normalise(shares);
  return shares;
}

AutoChoice ChooseAdapter(const GateShares& gate, std::span<const AdapterSignature> signatures) {
  AutoChoice choice;
  double next = 0.0, chance = 0.0;
  for (size_t i = 0; i < signatures.size(); ++i) {
    const Weight weight = WeightOf(gate, signatures[i]);
    if (choice.best && weight.share <= choice.share) {
      next = std::max(next, weight.share);
      continue;
    }
    next = choice.best ? choice.share : 0.0;
    choice.best = i;
    choice.share = weight.share;
    chance = weight.chance;
  }
  choice.margin = choice.share - std::max(next, chance);
  return choice;
}

}  // namespace conclave::router

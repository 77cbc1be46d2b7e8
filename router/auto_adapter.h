#pragma once
// Which adapter a prompt is for, by how the base model's gate routes it: the one on whose experts
// most of the gate's weight falls. An adapter was made of the experts that its domain activates
// most, so its list of experts is the domain's signature, and nothing has to be learned or stored.
// Pure; any thread. Idea: expert-specialised fine-tuning (arXiv:2407.01906) read backwards.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "router/delta.h"

namespace conclave::router {

// Of each layer's weight the part that falls on each slot.
struct GateShares {
  int32_t layers = 0;          // those that have experts
  int32_t slots = 0;           // the gate chooses among, in a layer
  std::vector<double> shares;  // [layers * slots], each layer's sum to 1, or to 0 without weight
};

// What a model's gate has, as its workers say.
struct GateShape {
  uint32_t layers = 0;
  uint32_t top_k = 0;
  uint32_t slots = 0;
};

constexpr uint64_t kMostGateSlots = 1 << 20;  // of all layers together

// Of the routing of so many tokens, summed in their order. Nothing where it is that of another
// number of tokens or another gate, or has a slot or a weight that no gate chooses.
std::optional<GateShares> SharesOf(const Routing& routing, const GateShape& gate, size_t tokens);

// layer * slots + slot of each expert it replaces; what is beyond (shared experts) does not count.
using AdapterSignature = std::span<const uint32_t>;

struct AutoChoice {
  std::optional<size_t> best;  // index among the signatures, of equals the first; nothing: none
  // Of the gate's weight, the mean over layers, what falls on the best one's experts; and by how
  // much that is more than what falls on the next one's or than a gate without preferences would
  // put on as many experts, whichever is more. At most 1; the margin may be below 0.
  double share = 0.0;
  double margin = 0.0;
};

AutoChoice ChooseAdapter(const GateShares& gate, std::span<const AdapterSignature> signatures);

// How the adapter of a request was chosen, as its client is told.
struct AutoRecord {
  std::string best;  // NAME@DIGEST; empty: there was none to choose from
  double share = 0.0;
  double margin = 0.0;
  double least_margin = 0.0;  // with less the base model answers
  uint32_t tokens = 0;        // of the prompt, that the gate was asked about
  uint64_t probe_us = 0;      // that the client waited for it
};

}  // namespace conclave::router

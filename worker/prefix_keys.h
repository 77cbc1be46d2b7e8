#pragma once
// Names for what full KV blocks hold: SHA-256, chained from block to block and rooted in all else
// that the numbers depend on. Immutable; any thread.
//
// Tokens may be hostile, and a wrong match would be a wrong answer or another tenant's text. With a
// collision-resistant hash nobody can find two prefixes of one name, so a match needs no second
// look; a secret drawn per process keeps names from being computed elsewhere and aimed at one
// bucket of a table, or recognised. Names mean nothing outside the process.

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "scheduler/types.h"

namespace conclave::worker {

class PrefixKeys {
 public:
  // All that a key says besides tokens. Blocks are shared only where every field is equal.
  struct Scope {
    std::string_view adapter;  // digest of its name and version; empty: the base model
    std::string_view salt;     // the tenant's
    // Of the placement that its sequence found, where results depend on it; else 0. Blocks of
    // requests from before a change are then no others' beginning.
    scheduler::Epoch epoch = 0;
  };

  // model: its digest; numerics: the engine's.
  PrefixKeys(std::string_view model, std::string_view numerics, int32_t block_size);

  // Where the chain of a sequence begins.
  scheduler::BlockKey Root(const Scope& scope) const;
  // The key of the block with these tokens [block_size], behind the block `parent` names.
  scheduler::BlockKey Next(const scheduler::BlockKey& parent,
                           std::span<const scheduler::TokenId> tokens) const;
  // Of all full blocks of `tokens`.
  std::vector<scheduler::BlockKey> Chain(const scheduler::BlockKey& root,
                                         std::span<const scheduler::TokenId> tokens) const;

  int32_t block_size() const { return block_size_; }

 private:
  const int32_t block_size_;
  std::array<uint8_t, 32> base_;  // of the secret, the model and the numerics
};

}  // namespace conclave::worker

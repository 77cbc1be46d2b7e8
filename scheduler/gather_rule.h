#pragma once
// How long an owner keeps what a home asks for waiting for other homes that are about to ask of the
// same layer, so that one read of an expert's weights serves them all.
//
// Homes go round the layers at much the same pace. One that is ahead of another, by less than half
// a round, waits for it; the one behind is served at once. So homes that have drifted apart meet
// within a few layers, and stay together. Nobody waits longer than a pass takes in the mean, which
// is what it may save, nor for a home that has not asked for a while, or that asks with so many
// rows that it is worth a read of its own. When something is served never changes a bit.
//
// Pure and deterministic: the moment is an argument. One thread at a time.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "scheduler/types.h"

namespace conclave::scheduler {

class GatherRule {
 public:
  struct Options {
    Micros longest{20000};        // a home waits; 0: never
    Micros worthwhile{200};       // shorter passes are not waited for: waking costs as much
    int32_t rows = 64;            // of a home that waits or is waited for, at most
    int32_t patience = 4;         // a home is expected for so many times what it takes to ask again
    size_t homes = 64;            // known ones; further ones neither wait nor are waited for
    Micros forgotten{1'000'000};  // a home that has not asked for so long
  };
  using Home = int32_t;

  // layers: of one round, at least 1.
  GatherRule(const Options& options, int32_t layers);

  // A home asks for rows of a layer. Until they are served it asks for no others.
  void Ask(Home home, int32_t layer, int32_t rows, Micros now);
  // Until when what it asked for waits; not after `now`: no longer.
  Micros Due(Home home, Micros now) const;
  // What it asked for is being served, or was taken back.
  void Serve(Home home);
  // What serving small asks took.
  void Took(Micros pass);

 private:
  struct Known {
    Home home = 0;
    int32_t layer = 0;
    bool few = false;      // rows
    bool waiting = false;  // to be served
    Micros asked{};
    Micros interval{};  // from ask to ask, in the mean; 0: it asked once
  };
  std::optional<size_t> Find(Home home) const;  // in homes_
  // `other` is about to ask of the layer that `home` has asked of.
  bool Comes(const Known& other, const Known& home, Micros now) const;
  Micros Window() const;

  const Options options_;
  const int32_t layers_;
  std::vector<Known> homes_;
  Micros pass_{};  // takes in the mean; 0: not known
};

}  // namespace conclave::scheduler

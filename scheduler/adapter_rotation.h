#pragma once
// Which versions of adapters are in memory where not all may be: the rule by which they take turns.
// A request for one on disk brings it back. Room is made by who has been idle for longest and, if
// all are busy, by who has been in memory for longest; each has its turn first. Who was asked for
// first goes first, so that none starves: with room for K of N busy versions one waits for N / K
// turns at most, each as long as Options::turn and the requests that run at its end. Who has to
// leave and still runs after another turn is left alone: the next one makes room in its place.
//
// Part of AdapterCatalogue, which does what is decided here, a step at a time. Pure; time is an
// argument. Owned by one thread (or one lock).

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "scheduler/adapter_register.h"
#include "scheduler/placement.h"
#include "scheduler/types.h"

namespace conclave::scheduler {

class AdapterRotation {
 public:
  struct Options {
    // That experts of adapters may take on each worker; 0: any number. A death may exceed it, as
    // others take over at once, until enough have left.
    uint64_t bytes = 0;
    Micros turn = std::chrono::seconds(2);  // that a version stays in memory at least
    // After one could not be brought back; twice as long each time, up to the longest.
    Micros again = std::chrono::seconds(1);
    Micros again_longest = std::chrono::minutes(1);
  };
  using Versions = std::map<std::string, AdapterVersion>;  // by digest

  explicit AdapterRotation(const Options& options) : options_(options) {}

  // What is known of a version's requests now. wanted: some wait for its memory.
  struct Use {
    bool runs = false, wanted = false;
  };
  // True if what WhyNot says has changed. placement: null: there is none.
  bool Note(const Placement* placement, const Versions& versions,
            const std::map<std::string, Use>& uses, Micros now);

  // Whether the versions of adapters that are placed are within the limit on each worker.
  bool Fits(const Placement& placement, const Versions& versions) const;
  // Why it cannot be in memory even if it is alone there; empty if it can.
  std::string ProblemOf(const Placement& placement, const PlacedAdapter& adapter,
                        const AdapterVersion& version) const;

  // Who is to leave memory next, by the placement there is; nothing: nobody has to, or all that
  // could have their turn.
  std::optional<std::string> Leaver(const Placement& placement, const Versions& versions,
                                    Micros now) const;
  // Who was to leave, has not yet, and need not any more; nothing: nobody.
  std::optional<std::string> Stayer(const Placement& placement, const Versions& versions,
                                    Micros now) const;
  // Who is to come back now: it is wanted, and there is room.
  std::optional<std::string> Comer(const Placement& placement, const Versions& versions,
                                   Micros now) const;
  // It could not, because of that: not tried again for a while.
  void Failed(const std::string& digest, std::string why, Micros now);
  // Why it could not, last time; empty: it could, or was not tried.
  std::string WhyNot(const std::string& digest) const;

 private:
  struct Known {
    bool in_memory = false;
    Micros since{};                // in memory, or on disk or about to be
    Micros used{};                 // last
    bool busy = false;             // runs or is wanted
    std::optional<Micros> wanted;  // since when, on disk
    Micros not_before{};           // is brought back
    int32_t failed = 0;            // times in a row
    std::string why_not;
    Epoch judged = 0;  // of a placement where it has room if it is alone
  };
  // Without those that are on their way to disk and may be there soon.
  Placement Staying(const Placement& placement, const Versions& versions, Micros now) const;
  // Whether all of them fit, and with them who is to come first, if anybody is.
  bool Suffices(const Placement& placement, const Versions& versions, Micros now) const;
  // Who wants to come back and may be tried, in the order in which they go.
  std::vector<std::string> Wanted(const Versions& versions, Micros now) const;
  std::optional<std::string> Victim(const Placement& placement, const Versions& versions,
                                    Micros now) const;

  const Options options_;
  std::map<std::string, Known> known_;  // by digest
};

// What the version is to be placed as; first and owners are open.
PlacedAdapter ToBePlaced(const std::string& digest, const AdapterVersion& version);

// Bytes of adapters' experts on each of the placement's workers, [workers]. What `versions` does
// not know counts as nothing.
std::vector<uint64_t> AdapterBytes(const Placement& placement,
                                   const AdapterRotation::Versions& versions);

}  // namespace conclave::scheduler

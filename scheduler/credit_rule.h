#pragma once
// How many sequences a worker lets its routers submit: as many as it can compute at once, and a few
// more that wait, so that the next step is full whoever ends. The rest wait in their routers, where
// they can still go to any worker.
//
// A worker grants each link a number of sequences that counts from the link's beginning and only
// grows, so what is on its way is never too much. What links were granted and have not used is not
// kept from the others: idle routers must not keep a worker idle. Nothing is taken back either, so
// links that all begin to use theirs at once can bring more than there is room for: of links that
// came one by one the n-th has an n-th of the room, and never less than one. What then waits is the
// worker's to refuse by its limits.
//
// Pure and deterministic; any thread. Idea: flow control by credits, of InfiniBand and HTTP/2.

#include <cstdint>
#include <optional>

namespace conclave::scheduler {

class CreditRule {
 public:
  struct Options {
    int32_t waiting_percent = 25;  // of what runs at once, rounded up: may wait for it
  };

  // A worker as it is now.
  struct Load {
    int32_t batch = 0;                    // sequences it computes at once, at most
    int32_t limit = 0;                    // it has at all, at most
    int32_t sequences = 0;                // it has: that run, wait or are paused
    int32_t paused = 0;                   // of them; they make room for others
    int32_t running = 0;                  // of them, those that hold KV blocks
    int32_t blocks = 0, blocks_used = 0;  // of the KV pool
  };

  explicit CreditRule(const Options& options);

  // How many more sequences there is room for, 0 if for none. Where the KV pool holds fewer of the
  // size of those that run now than the batch has places, it is the pool that counts.
  int32_t Room(const Load& load) const;
  // Of the room, what each of so many links may use: an equal share, and at least one where there
  // is any.
  int32_t Share(const Load& load, int32_t links) const;

 private:
  const Options options_;
};

// What one link was granted and has used.
class LinkCredit {
 public:
  // A sequence was submitted; whether it was within what had been granted. One that had to be taken
  // anyway counts like any other.
  bool Take() { return ++submitted_ <= granted_; }
  // From now on it may submit so many more; what was granted before stays.
  void Grant(int32_t share);
  // Its router has used up more than half of what it knows of, and there is more.
  bool urgent() const;
  // What to tell the router: all that was ever granted, if that is news. It is told then.
  std::optional<uint64_t> Tell();

  uint64_t granted() const { return granted_; }

 private:
  uint64_t submitted_ = 0;
  uint64_t granted_ = 0;
  std::optional<uint64_t> told_;
};

}  // namespace conclave::scheduler

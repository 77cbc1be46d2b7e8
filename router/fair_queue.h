#pragma once
// Who goes next of those who wait: a lane for each adapter, the base model's among them; first come
// first served within a lane, deficit round-robin between lanes.
//
// A round gives each lane that waits `quantum` tokens times its weight; a lane sends while it has
// any left, and may overdraw them by its last request, so that no request is too large for its
// lane. What a request is charged may be a guess that is put right later: a lane works off what it
// owes. Promised, Q being the quantum and C the largest charge:
//   * Of two lanes that wait all the time, and are not passed over, what each was charged per
//     weight differs by at most 2 * Q + C / weight of one + C / weight of the other.
//   * A lane that comes with a request and owes nothing goes before all that have used up their
//     round: at most Q * weight + C of each other lane goes before it.
//   * Rounds pass as fast as those who wait can use them. A lane that sends nothing delays nobody
//     and saves up no more than one round; a lane alone goes on without a pause.
// Not promised: anything about requests that run already (none is interrupted), or to a lane whose
// next request is passed over: it misses the rounds that pass meanwhile.
//
// Pure; its owner brings the lock. A decision costs a walk over the lanes that wait, at most.
// Ideas: Shreedhar and Varghese, "Efficient Fair Queuing using Deficit Round Robin" (1995); new
// lanes before old ones as in RFC 8290, section 4.2; charging what was served, by tokens: Sheng et
// al., "Fairness in Serving Large Language Models" (OSDI 2024).

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

namespace conclave::router {

class FairQueue {
 public:
  struct Weight {
    std::string lane;
    int32_t weight = 1;  // at least 1
  };
  struct Options {
    // Tokens that a lane of weight 1 gets in a round: about a short request, so that lanes take
    // turns by single ones.
    int64_t quantum = 256;
    std::vector<Weight> weights;  // 1 for a lane that is not there
    int64_t lately = 1024;        // rounds that a lane is remembered after its last request
    int32_t idle_lanes = 1024;    // of those, at most; the oldest are forgotten first
  };

  // What became of a request that was offered.
  enum class Answer : uint8_t {
    kGoes,
    kLaneWaits,      // nobody of its lane goes now
    kAway,           // likewise, and it does not hold up others, even if it is first
    kNeedsCredit,    // of its lane only those that go on may go now
    kAllNeedCredit,  // of all lanes only those
    kNobodyGoes,     // there is no room for anybody
  };
  using Offer = std::function<Answer(uint64_t key)>;

  explicit FairQueue(const Options& options) : options_(options) {}

  // To the end of its lane. The key must be new, as for PushFirst. goes_on: as Demand's.
  void Push(uint64_t key, const std::string& lane, bool goes_on);
  // Before everybody: it has had its turn. While there is no room for it, nobody goes.
  void PushFirst(uint64_t key, const std::string& lane, bool goes_on);
  void Erase(uint64_t key);

  // Offers one after another who is due, until all that are left have been told to wait. Who goes
  // is erased; he is to be charged during the offer. Who goes on is not to be told that he needs
  // credit.
  void Serve(const Offer& offer);

  // This one is held up while smaller ones are not: until it goes it is offered before all lanes.
  // One at a time, and none of those that are first anyway.
  void HoldUp(uint64_t key);
  std::optional<uint64_t> held_up() const { return held_up_; }
  // It is not what holds it up any more that does.
  void LetGo() { held_up_.reset(); }

  // The lane's request that is or was offered costs so much; negative gives back.
  void Charge(const std::string& lane, int64_t tokens);
  // One more, or one less, of the lane's requests runs.
  void Started(const std::string& lane);
  void Ended(const std::string& lane);

  // Of what runs the lane has more than its weight's share among the lanes that are there: that
  // have requests, or had one lately.
  bool HasMoreThanItsShare(const std::string& lane) const;

  size_t size() const { return places_.size(); }
  size_t lanes() const { return lanes_.size(); }
  std::vector<uint64_t> Waiting() const;  // those that go first, then by arrival

  // Walks all state and aborts on a broken promise. For tests.
  void CheckInvariants() const;

 private:
  using Queue = std::map<int64_t, uint64_t>;  // tickets, in order of arrival, to keys
  struct Lane;
  using Lanes = std::list<Lane*>;
  struct Lane {
    std::string name;
    int64_t weight = 1;
    Queue waiting, going_on;
    int32_t first = 0;  // of first_
    int32_t running = 0;
    int64_t balance = 0;  // tokens left of its rounds; what it owes if negative
    int64_t round = 0;    // up to which it has got what is due, while it waits for nothing
    // fresh_ or ring_ while something waits for its turn, idle_ while it has no request at all.
    Lanes* list = nullptr;
    Lanes::iterator at;
    uint64_t passed_over = 0, needs_credit = 0;  // numbers of the last Serve in which it was
  };
  struct Place {
    Lane* lane = nullptr;
    int64_t ticket = 0;
    bool first = false, goes_on = false;
  };

  int64_t Quantum(const Lane& lane) const { return options_.quantum * lane.weight; }
  Lane& Find(const std::string& name);
  void MoveTo(Lane& lane, Lanes* list);
  void Settle(Lane& lane);  // to the list where it belongs
  void Collect(Lane& lane) const;
  void ForgetIdle();
  bool OnlyGoingOn(const Lane& lane) const;
  bool MayOffer(const Lane& lane) const;
  bool ServeFirst(const Offer& offer);
  bool ServeOne(Lane& lane, uint64_t key, bool goes_on, const Offer& offer);
  Lane* Due();
  bool NextRound();

  const Options options_;
  std::unordered_map<std::string, Lane> lanes_;
  std::unordered_map<uint64_t, Place> places_;
  Queue first_;
  Lanes fresh_;  // came owing nothing, and have some of the round left
  Lanes ring_;   // the other lanes that wait
  Lanes idle_;   // by the time of their last request
  int64_t round_ = 0;
  int64_t last_ticket_ = 0, first_ticket_ = 0;
  size_t going_on_ = 0;
  std::optional<uint64_t> held_up_;
  int64_t weights_ = 0;  // of all lanes
  int64_t running_ = 0;
  uint64_t serving_ = 0;  // number of the last Serve
  bool only_going_on_ = false;
};

}  // namespace conclave::router

#include "router/fair_queue.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "scheduler/check.h"

namespace conclave::router {

FairQueue::Lane& FairQueue::Find(const std::string& name) {
  const auto [found, is_new] = lanes_.try_emplace(name);
  Lane& lane = found->second;
  if (!is_new) return lane;
  lane.name = name;
  for (const Weight& weight : options_.weights) {
    if (weight.lane == name) lane.weight = std::max(weight.weight, 1);
  }
  lane.balance = Quantum(lane);
  lane.round = round_;
  weights_ += lane.weight;
  return lane;
}

void FairQueue::MoveTo(Lane& lane, Lanes* list) {
  if (lane.list == list) return;
  if (lane.list != nullptr) lane.list->erase(lane.at);
  lane.list = list;
  if (list != nullptr) lane.at = list->insert(list->end(), &lane);
}

void FairQueue::Settle(Lane& lane) {
  const bool waited = lane.list == &fresh_ || lane.list == &ring_;
  if (!lane.waiting.empty() || !lane.going_on.empty()) {
    if (!waited) Collect(lane);
    if (!waited || lane.balance <= 0) MoveTo(lane, lane.balance > 0 ? &fresh_ : &ring_);
    return;
  }
  lane.balance = std::min(lane.balance, Quantum(lane));
  if (waited) lane.round = round_;
  MoveTo(lane, lane.first == 0 && lane.running == 0 ? &idle_ : nullptr);
  ForgetIdle();
}

// What the rounds brought while it waited for nothing: work it off, save up one.
void FairQueue::Collect(Lane& lane) const {
  const int64_t full = Quantum(lane);
  const int64_t missed = round_ - std::exchange(lane.round, round_);
  const int64_t enough = (full - lane.balance + full - 1) / full;
  lane.balance = missed >= enough ? full : lane.balance + missed * full;
}

void FairQueue::ForgetIdle() {
  while (!idle_.empty() && (std::ssize(idle_) > options_.idle_lanes ||
                            idle_.front()->round + options_.lately < round_)) {
    const Lane& lane = *idle_.front();
    weights_ -= lane.weight;
    idle_.pop_front();
    lanes_.erase(lanes_.find(lane.name));
  }
}

void FairQueue::Push(uint64_t key, const std::string& name, bool goes_on) {
  Lane& lane = Find(name);
  const int64_t ticket = ++last_ticket_;
  CONCLAVE_CHECK(places_.emplace(key, Place{&lane, ticket, false, goes_on}).second);
  (goes_on ? lane.going_on : lane.waiting).emplace(ticket, key);
  going_on_ += goes_on;
  Settle(lane);
}

void FairQueue::PushFirst(uint64_t key, const std::string& name, bool goes_on) {
  Lane& lane = Find(name);
  const int64_t ticket = --first_ticket_;
  CONCLAVE_CHECK(places_.emplace(key, Place{&lane, ticket, true, goes_on}).second);
  first_.emplace(ticket, key);
  going_on_ += goes_on;
  ++lane.first;
  Settle(lane);
}

void FairQueue::Erase(uint64_t key) {
  const auto found = places_.find(key);
  CONCLAVE_CHECK(found != places_.end());
  const Place place = found->second;
  places_.erase(found);
  if (held_up_ == key) held_up_.reset();
  Lane& lane = *place.lane;
  Queue& queue = place.first ? first_ : (place.goes_on ? lane.going_on : lane.waiting);
  queue.erase(place.ticket);
  lane.first -= place.first;
  going_on_ -= place.goes_on;
  Settle(lane);
}

void FairQueue::HoldUp(uint64_t key) {
  CONCLAVE_CHECK(!held_up_ && !places_.at(key).first);
  held_up_ = key;
}

void FairQueue::Charge(const std::string& name, int64_t tokens) {
  Lane& lane = lanes_.at(name);
  lane.balance -= tokens;
  Settle(lane);
}

void FairQueue::Started(const std::string& name) {
  Lane& lane = lanes_.at(name);
  ++lane.running;
  ++running_;
  Settle(lane);
}

void FairQueue::Ended(const std::string& name) {
  Lane& lane = lanes_.at(name);
  --lane.running;
  --running_;
  Settle(lane);
}

bool FairQueue::HasMoreThanItsShare(const std::string& name) const {
  const auto found = lanes_.find(name);
  if (found == lanes_.end()) return false;
  return found->second.running * weights_ > running_ * found->second.weight;
}

bool FairQueue::OnlyGoingOn(const Lane& lane) const {
  return only_going_on_ || lane.needs_credit == serving_;
}

bool FairQueue::MayOffer(const Lane& lane) const {
  return lane.passed_over != serving_ && (!OnlyGoingOn(lane) || !lane.going_on.empty());
}

void FairQueue::Serve(const Offer& offer) {
  ++serving_;
  only_going_on_ = false;
  if (!ServeFirst(offer)) return;
  if (held_up_) {
    const Place& place = places_.at(*held_up_);
    const bool may = place.goes_on || !only_going_on_;
    if (may && !ServeOne(*place.lane, *held_up_, place.goes_on, offer)) return;
  }
  while (!only_going_on_ || going_on_ > 0) {
    Lane* const lane = Due();
    if (lane == nullptr) return;
    const bool goes_on =
        !lane->going_on.empty() && (OnlyGoingOn(*lane) || lane->waiting.empty() ||
                                    lane->going_on.begin()->first < lane->waiting.begin()->first);
    const uint64_t key = (goes_on ? lane->going_on : lane->waiting).begin()->second;
    if (!ServeOne(*lane, key, goes_on, offer)) return;
  }
}

// Whether anybody may go behind it.
bool FairQueue::ServeOne(Lane& lane, uint64_t key, bool goes_on, const Offer& offer) {
  const Answer answer = offer(key);
  CONCLAVE_CHECK(!goes_on || (answer != Answer::kNeedsCredit && answer != Answer::kAllNeedCredit));
  if (answer == Answer::kGoes) {
    Erase(key);
  } else if (answer == Answer::kNeedsCredit || answer == Answer::kAllNeedCredit) {
    lane.needs_credit = serving_;
    only_going_on_ = only_going_on_ || answer == Answer::kAllNeedCredit;
  } else {
    lane.passed_over = serving_;
  }
  return answer != Answer::kNobodyGoes;
}

// Whether anybody may go behind them.
bool FairQueue::ServeFirst(const Offer& offer) {
  for (auto next = first_.begin(); next != first_.end();) {
    const uint64_t key = (next++)->second;
    if (only_going_on_ && !places_.at(key).goes_on) continue;
    const Answer answer = offer(key);
    if (answer == Answer::kGoes) {
      Erase(key);
    } else if (answer == Answer::kNeedsCredit || answer == Answer::kAllNeedCredit) {
      only_going_on_ = true;
    } else if (answer != Answer::kAway) {
      return false;
    }
  }
  return true;
}

FairQueue::Lane* FairQueue::Due() {
  do {
    for (const Lanes* lanes : {&fresh_, &ring_}) {
      // What goes on without a credit takes nobody's place, so it need not wait for a round.
      const auto due = std::find_if(lanes->begin(), lanes->end(), [this](const Lane* lane) {
        return (lane->balance > 0 || only_going_on_) && MayOffer(*lane);
      });
      if (due != lanes->end()) return *due;
    }
  } while (NextRound());
  return nullptr;
}

// As many rounds as it takes until one of those who may be offered has something left. False if
// there are none.
bool FairQueue::NextRound() {
  int64_t rounds = std::numeric_limits<int64_t>::max();
  for (const Lane* const lane : ring_) {
    const int64_t full = Quantum(*lane);
    if (MayOffer(*lane)) rounds = std::min(rounds, (full - lane->balance) / full);
  }
  if (rounds == std::numeric_limits<int64_t>::max()) return false;
  for (Lane* const lane : ring_) {
    if (MayOffer(*lane)) lane->balance += rounds * Quantum(*lane);
  }
  round_ += rounds;
  return true;
}

std::vector<uint64_t> FairQueue::Waiting() const {
  std::vector<std::pair<int64_t, uint64_t>> tickets;
  for (const auto& [key, place] : places_) tickets.emplace_back(place.ticket, key);
  std::sort(tickets.begin(), tickets.end());
  std::vector<uint64_t> keys;
  for (const auto& [ticket, key] : tickets) keys.push_back(key);
  return keys;
}

void FairQueue::CheckInvariants() const {
  size_t waiting = first_.size(), going_on = 0;
  int64_t weights = 0, running = 0;
  for (const auto& [name, lane] : lanes_) {
    const bool waits = !lane.waiting.empty() || !lane.going_on.empty();
    CONCLAVE_CHECK(waits == (lane.list == &fresh_ || lane.list == &ring_));
    CONCLAVE_CHECK((lane.list == &idle_) == (!waits && lane.first == 0 && lane.running == 0));
    CONCLAVE_CHECK(lane.list == nullptr || *lane.at == &lane);
    CONCLAVE_CHECK(lane.list != &fresh_ || lane.balance > 0);
    CONCLAVE_CHECK(waits || lane.balance <= Quantum(lane));
    CONCLAVE_CHECK(lane.running >= 0 && lane.weight >= 1);
    waiting += lane.waiting.size() + lane.going_on.size();
    weights += lane.weight;
    running += lane.running;
  }
  for (const auto& [key, place] : places_) {
    going_on += place.goes_on;
    const Lane& lane = *place.lane;
    const Queue& queue = place.first ? first_ : (place.goes_on ? lane.going_on : lane.waiting);
    CONCLAVE_CHECK(queue.at(place.ticket) == key);
    CONCLAVE_CHECK(&lanes_.at(lane.name) == &lane);
  }
  CONCLAVE_CHECK(waiting == places_.size() && going_on == going_on_);
  CONCLAVE_CHECK(!held_up_ || !places_.at(*held_up_).first);
  CONCLAVE_CHECK(weights == weights_ && running == running_);
  CONCLAVE_CHECK(fresh_.size() + ring_.size() + idle_.size() <= lanes_.size());
  CONCLAVE_CHECK(std::ssize(idle_) <= options_.idle_lanes);
}

}  // namespace conclave::router

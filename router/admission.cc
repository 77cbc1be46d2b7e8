#include "router/admission.h"

#include <algorithm>

#include "scheduler/check.h"

namespace conclave::router {
namespace {

constexpr double kDepartureWeight = 0.1;  // of the newest interval: about the last twenty count

}  // namespace

Admission::Admission(const Options& options) : options_(options) {}

std::optional<Admission::Refusal> Admission::Reserve(uint64_t key, const std::string& id,
                                                     std::optional<uint64_t> from) {
  CONCLAVE_CHECK(entries_.count(key) == 0);
  const std::optional<uint64_t> holder = KeyOf(id);
  if (holder && holder != from) return Refusal{.reason = Reason::kDuplicateId};
  if (static_cast<int32_t>(entries_.size()) >= options_.max_requests) {
    return Refusal{Reason::kRequests, options_.max_requests, Pushback()};
  }
  if (preparing_ + static_cast<int32_t>(queue_.size()) >= options_.max_waiting) {
    return Refusal{Reason::kWaiting, options_.max_waiting, Pushback()};
  }
  if (holder) entries_.at(*holder).id.reset();
  entries_[key].id = id;
  ids_[id] = key;
  ++preparing_;
  return std::nullopt;
}

std::optional<Admission::Refusal> Admission::Enqueue(uint64_t key, int64_t tokens, bool goes_on) {
  Entry& entry = entries_.at(key);
  CONCLAVE_CHECK(entry.state == State::kPreparing);
  if (tokens_ > 0 && tokens_ + tokens > options_.max_tokens) {
    return Refusal{Reason::kTokens, options_.max_tokens, Pushback()};
  }
  --preparing_;
  entry.state = State::kWaiting;
  entry.tokens = tokens;
  entry.goes_on = goes_on;
  tokens_ += tokens;
  queue_.push_back(key);
  going_on_ += goes_on;
  return std::nullopt;
}

std::optional<uint64_t> Admission::KeyOf(const std::string& id) const {
  const auto found = ids_.find(id);
  return found == ids_.end() ? std::nullopt : std::optional(found->second);
}

std::optional<uint64_t> Admission::HomeOf(uint64_t key) const {
  const auto found = entries_.find(key);
  if (found == entries_.end() || found->second.state != State::kHome) return std::nullopt;
  return found->second.worker;
}

void Admission::Prefer(uint64_t key, uint64_t worker) { entries_.at(key).preferred = worker; }

std::vector<Admission::Start> Admission::Dispatch(std::vector<WorkerView> workers,
                                                  const std::string& model, uint64_t seed) {
  for (WorkerView& worker : workers) {
    if (auto home = homes_.find(worker.key); home != homes_.end()) {
      worker.requests = home->second.requests;
      worker.tokens = home->second.tokens;
    }
  }
  std::vector<Start> starts;
  lacks_credit_ = false;
  for (auto next = queue_.begin(); next != queue_.end();) {
    if (lacks_credit_ && going_on_ == 0) break;
    const uint64_t key = *next;
    const Entry& entry = entries_.at(key);
    if (lacks_credit_ && !entry.goes_on) {
      ++next;
      continue;
    }
    Demand demand{model, entry.tokens, entry.preferred, entry.goes_on};
    const auto pick = PickHome(workers, demand, options_.home, seed ^ key);
    if (pick) {
      next = queue_.erase(next);
      SendHome(key, workers[*pick]);
      starts.push_back({key, workers[*pick].key});
      continue;
    }
    demand.goes_on = true;
    if (entry.goes_on || !PickHome(workers, demand, options_.home, seed ^ key)) break;
    lacks_credit_ = true;
  }
  return starts;
}

void Admission::SendHome(uint64_t key, WorkerView& worker) {
  Entry& entry = entries_.at(key);
  Home& home = homes_[worker.key];
  worker.requests = ++home.requests;
  worker.tokens = home.tokens += entry.tokens;
  if (worker.credit && *worker.credit > 0) --*worker.credit;
  entry.state = State::kHome;
  entry.worker = worker.key;
  entry.preferred.reset();  // once: if it comes back, another is better
  ++running_;
  going_on_ -= entry.goes_on;
}

void Admission::LeaveHome(uint64_t key, Micros now) {
  auto found = entries_.find(key);
  if (found == entries_.end() || found->second.state != State::kHome) return;
  Entry& entry = found->second;
  auto home = homes_.find(entry.worker);
  CONCLAVE_CHECK(home != homes_.end());
  SetPaused(key, false);
  home->second.tokens -= entry.tokens;
  if (--home->second.requests == 0 && home->second.paused == 0) homes_.erase(home);
  tokens_ -= entry.tokens;
  --running_;
  entry.state = State::kFinished;
  Departed(now);
}

void Admission::SetPaused(uint64_t key, bool paused) {
  auto found = entries_.find(key);
  if (found == entries_.end() || found->second.state != State::kHome) return;
  Entry& entry = found->second;
  Home& home = homes_.at(entry.worker);
  if (entry.paused == paused || (paused && home.paused >= options_.home.paused)) return;
  entry.paused = paused;
  const int sign = paused ? 1 : -1;
  home.paused += sign;
  home.requests -= sign;
  home.tokens -= sign * entry.tokens;
}

void Admission::Requeue(uint64_t key, bool goes_on) {
  Entry& entry = entries_.at(key);
  CONCLAVE_CHECK(entry.state == State::kFinished);
  entry.state = State::kWaiting;
  entry.goes_on = goes_on;
  tokens_ += entry.tokens;
  queue_.push_front(key);
  going_on_ += goes_on;
}

void Admission::Remove(uint64_t key, Micros now) {
  LeaveHome(key, now);
  auto found = entries_.find(key);
  if (found == entries_.end()) return;
  const Entry& entry = found->second;
  if (entry.state == State::kPreparing) --preparing_;
  if (entry.state == State::kWaiting) {
    tokens_ -= entry.tokens;
    going_on_ -= entry.goes_on;
    queue_.erase(std::find(queue_.begin(), queue_.end(), key));
  }
  ReleaseId(key);
  entries_.erase(found);
}

void Admission::ReleaseId(uint64_t key) {
  auto found = entries_.find(key);
  if (found == entries_.end() || !found->second.id) return;
  ids_.erase(*found->second.id);
  found->second.id.reset();
}

std::vector<uint64_t> Admission::Waiting() const { return {queue_.begin(), queue_.end()}; }

void Admission::Departed(Micros now) {
  const bool busy = !queue_.empty();
  if (busy && last_departure_) {
    const double interval =
        static_cast<double>(std::max(now - *last_departure_, Micros(0)).count());
    departure_us_ =
        departure_us_ ? *departure_us_ + kDepartureWeight * (interval - *departure_us_) : interval;
  }
  last_departure_ = busy ? std::optional(now) : std::nullopt;
}

Admission::Micros Admission::Pushback() const {
  if (!departure_us_) return options_.pushback_default;
  // By then half of those who wait have gone home, so that not everybody returns for the one place.
  const size_t places = queue_.size() / 2 + 1;
  const double wait = std::min(static_cast<double>(places) * *departure_us_,
                               static_cast<double>(options_.pushback_max.count()));
  return std::clamp(Micros(static_cast<int64_t>(wait)), options_.pushback_min,
                    options_.pushback_max);
}

Admission::Stats Admission::stats() const {
  return {.requests = static_cast<int32_t>(entries_.size()),
          .preparing = preparing_,
          .waiting = static_cast<int32_t>(queue_.size()),
          .waiting_for_credit = lacks_credit_ ? static_cast<int32_t>(queue_.size()) : 0,
          .running = running_,
          .tokens = tokens_};
}

void Admission::CheckInvariants() const {
  int32_t preparing = 0, waiting = 0, going_on = 0, running = 0;
  size_t ids = 0;
  int64_t tokens = 0;
  std::unordered_map<uint64_t, Home> homes;
  for (const auto& [key, entry] : entries_) {
    if (entry.id) {
      CONCLAVE_CHECK(ids_.at(*entry.id) == key);
      ++ids;
    }
    if (entry.state == State::kPreparing) ++preparing;
    if (entry.state == State::kWaiting) ++waiting;
    if (entry.state == State::kWaiting && entry.goes_on) ++going_on;
    if (entry.state == State::kHome) {
      ++running;
      Home& home = homes[entry.worker];
      if (entry.paused) {
        ++home.paused;
      } else {
        ++home.requests;
        home.tokens += entry.tokens;
      }
    }
    if (entry.state == State::kWaiting || entry.state == State::kHome) tokens += entry.tokens;
  }
  CONCLAVE_CHECK(ids_.size() == ids);
  CONCLAVE_CHECK(static_cast<int32_t>(entries_.size()) <= options_.max_requests);
  CONCLAVE_CHECK(preparing == preparing_ && running == running_ && tokens == tokens_);
  CONCLAVE_CHECK(waiting == static_cast<int32_t>(queue_.size()) && going_on == going_on_);
  CONCLAVE_CHECK(homes.size() == homes_.size());
  for (const auto& [key, home] : homes) {
    const Home& counted = homes_.at(key);
    CONCLAVE_CHECK(home.requests == counted.requests && home.tokens == counted.tokens);
    CONCLAVE_CHECK(home.paused == counted.paused && home.paused <= options_.home.paused);
    CONCLAVE_CHECK(home.requests <= options_.home.requests + options_.home.paused);
  }
}

}  // namespace conclave::router

#include "router/admission.h"

#include <algorithm>
#include <utility>

#include "scheduler/check.h"

namespace conclave::router {

using Answer = FairQueue::Answer;

// What a Dispatch knows.
struct Admission::Round {
  std::vector<WorkerView> workers;
  const std::string& model;
  uint64_t seed = 0;
  std::vector<Start> starts;

  std::optional<size_t> Pick(uint64_t key, const Demand& demand, const HomeLimits& limits) const {
    return PickHome(workers, demand, limits, seed ^ key);
  }
  // Somebody goes on with a request of no tokens, if nobody else.
  bool AnyRoom(const HomeLimits& limits) const {
    return Pick(0, {.model = model, .goes_on = true}, limits).has_value();
  }
  bool AnyCredit() const {
    return std::any_of(workers.begin(), workers.end(), [&](const WorkerView& worker) {
      return worker.ready && worker.model == model && worker.credit != 0;
    });
  }
};

Admission::Admission(const Options& options) : options_(options), queue_(options.fair) {}

std::optional<Admission::Refusal> Admission::Reserve(uint64_t key, const std::string& id,
                                                     std::optional<uint64_t> from,
                                                     const std::string& adapter) {
  CONCLAVE_CHECK(entries_.count(key) == 0);
  const std::optional<uint64_t> holder = KeyOf(id);
  if (holder && holder != from) return Refusal{.reason = Reason::kDuplicateId};
  const auto known = accounts_.find(adapter);
  const Account none{.adapter = adapter};
  if (auto refusal = RefusePlace(known == accounts_.end() ? none : known->second)) return refusal;
  if (holder) entries_.at(*holder).id.reset();
  Account& account = AccountOf(adapter);
  Entry& entry = entries_[key];
  entry.id = id;
  entry.account = &account;
  ids_[id] = key;
  CountPreparing(account, 1);
  return std::nullopt;
}

std::optional<Admission::Refusal> Admission::MoveTo(uint64_t key, const std::string& adapter) {
  Entry& entry = entries_.at(key);
  CONCLAVE_CHECK(entry.state == State::kPreparing);
  Account& from = *entry.account;
  if (from.adapter == adapter) return std::nullopt;
  Account& to = AccountOf(adapter);
  CountPreparing(from, -1);  // of what all have, it has its place already
  std::optional<Refusal> refusal = RefusePlace(to);
  CountPreparing(refusal ? from : to, 1);
  if (!refusal) entry.account = &to;
  ForgetIfIdle(refusal ? to : from);
  return refusal;
}

Admission::Account& Admission::AccountOf(const std::string& adapter) {
  Account& account = accounts_[adapter];
  account.adapter = adapter;
  return account;
}

void Admission::ForgetIfIdle(Account& account) {
  if (account.has.requests == 0 && std::ssize(accounts_) > options_.known_adapters)
    accounts_.erase(accounts_.find(account.adapter));
}

void Admission::CountPreparing(Account& account, int32_t change) {
  account.has.requests += change;
  has_.requests += change;
  Count(account, State::kPreparing, change);
}

std::optional<Admission::Refusal> Admission::RefusePlace(const Account& account) const {
  const Stats& own = account.has;
  if (has_.requests >= options_.max_requests) {
    return Refusal{Reason::kRequests, options_.max_requests, Pushback()};
  }
  const int32_t waiting = has_.preparing + has_.waiting;
  if (waiting >= options_.max_waiting) {
    return Refusal{Reason::kWaiting, options_.max_waiting, Pushback()};
  }
  if (const int64_t share = ShareOf(options_.max_requests, has_.requests, own.requests);
      own.requests >= share) {
    return Refused(Reason::kRequests, share, account);
  }
  const int32_t own_waiting = own.preparing + own.waiting;
  const int64_t share = std::min<int64_t>(options_.max_waiting_each,
                                          ShareOf(options_.max_waiting, waiting, own_waiting));
  if (own_waiting >= share) return Refused(Reason::kWaiting, share, account);
  return std::nullopt;
}

int64_t Admission::ShareOf(int64_t limit, int64_t all, int64_t own) const {
  return shared_ ? (limit - (all - own) + 1) / 2 : limit;
}

Admission::Refusal Admission::Refused(Reason reason, int64_t limit, const Account& account) const {
  return {reason, limit, Pushback(account.departures, static_cast<size_t>(account.has.waiting)),
          account.adapter};
}

std::optional<Admission::Refusal> Admission::Enqueue(uint64_t key, const Need& need, bool goes_on,
                                                     const std::string& version) {
  Entry& entry = entries_.at(key);
  CONCLAVE_CHECK(entry.state == State::kPreparing);
  Account& account = *entry.account;
  if (has_.tokens > 0 && has_.tokens + need.all() > options_.max_tokens) {
    return Refusal{Reason::kTokens, options_.max_tokens, Pushback()};
  }
  const int64_t own = account.has.tokens;
  const int64_t share = ShareOf(options_.max_tokens, has_.tokens, own);
  if (own > 0 && own + need.all() > share) return Refused(Reason::kTokens, share, account);
  Count(account, State::kPreparing, -1);
  entry.state = State::kWaiting;
  entry.need = need;
  entry.goes_on = goes_on;
  entry.version = version;
  Count(account, State::kWaiting, 1);
  CountTokens(account, need.all());
  queue_.Push(key, account.adapter, goes_on);
  return std::nullopt;
}

void Admission::Count(Account& account, State state, int32_t change) {
  for (Stats* const has : {&account.has, &has_}) {
    if (state == State::kPreparing) has->preparing += change;
    if (state == State::kWaiting) has->waiting += change;
    if (state == State::kHome) has->running += change;
  }
}

void Admission::CountTokens(Account& account, int64_t change) {
  account.has.tokens += change;
  has_.tokens += change;
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
  Round round{.workers = std::move(workers), .model = model, .seed = seed};
  lacks_credit_ = false;
  queue_.Serve([&](uint64_t key) { return Offer(key, round); });
  return std::move(round.starts);
}

Answer Admission::Offer(uint64_t key, Round& round) {
  const Entry& entry = entries_.at(key);
  if (IsAway(entry)) {
    if (queue_.held_up() == key) queue_.LetGo();
    return Answer::kAway;
  }
  if (MustWait(key)) return Answer::kLaneWaits;
  Demand demand{.model = round.model,
                .tokens = entry.need.all(),
                .preferred = entry.preferred,
                .goes_on = entry.goes_on};
  if (entry.requeued) demand.left = entry.worker;
  if (LeavesSomeToOthers(key)) demand.kept_percent = options_.kept_percent;
  if (const auto pick = round.Pick(key, demand, options_.home)) {
    SendHome(key, round.workers[*pick]);
    round.starts.push_back({key, round.workers[*pick].key});
    return Answer::kGoes;
  }
  // There would be room but for what is kept: it waits until its adapter has less.
  if (std::exchange(demand.kept_percent, 0) > 0 && round.Pick(key, demand, options_.home))
    return Answer::kNeedsCredit;
  const bool needs_credit =
      !std::exchange(demand.goes_on, true) && round.Pick(key, demand, options_.home).has_value();
  lacks_credit_ = lacks_credit_ || needs_credit;
  if (needs_credit && !round.AnyCredit()) return Answer::kAllNeedCredit;
  if (!round.AnyRoom(options_.home)) return Answer::kNobodyGoes;
  if (!entry.requeued) HoldUp(key);
  return needs_credit ? Answer::kNeedsCredit : Answer::kLaneWaits;
}

bool Admission::IsAway(const Entry& entry) const {
  if (entry.version.empty()) return false;
  const auto away = away_.find(entry.version);
  return away != away_.end() && !(entry.requeued && away->second);
}

bool Admission::WaitsForMemory(uint64_t key) const {
  const auto found = entries_.find(key);
  return found != entries_.end() && found->second.state == State::kWaiting && IsAway(found->second);
}

std::set<std::string> Admission::versions_waited_for() const {
  std::set<std::string> waiting;
  if (away_.empty()) return waiting;
  std::set<std::string> running;
  for (const auto& [key, entry] : entries_) {
    const bool waits = entry.state == State::kWaiting && IsAway(entry);
    if (!entry.version.empty()) (waits ? waiting : running).insert(entry.version);
  }
  std::erase_if(waiting, [&](const std::string& digest) { return running.contains(digest); });
  return waiting;
}

int32_t Admission::waiting_for_memory() const {
  if (away_.empty()) return 0;
  return static_cast<int32_t>(
      std::count_if(entries_.begin(), entries_.end(), [this](const auto& entry) {
        return entry.second.state == State::kWaiting && IsAway(entry.second);
      }));
}

bool Admission::LeavesSomeToOthers(uint64_t key) const {
  const Entry& entry = entries_.at(key);
  return !entry.goes_on && !entry.requeued && queue_.held_up() != key &&
         queue_.HasMoreThanItsShare(entry.account->adapter);
}

void Admission::HoldUp(uint64_t key) {
  if (queue_.held_up()) return;
  queue_.HoldUp(key);
  passed_ = 0;
}

// Enough have gone past another one.
bool Admission::MustWait(uint64_t key) const {
  const std::optional<uint64_t> other = queue_.held_up();
  if (!other || other == key || entries_.at(key).requeued) return false;
  return passed_ + entries_.at(key).need.all() > entries_.at(*other).need.all();
}

void Admission::SendHome(uint64_t key, WorkerView& worker) {
  Entry& entry = entries_.at(key);
  Account& account = *entry.account;
  Home& home = homes_[worker.key];
  worker.requests = ++home.requests;
  worker.tokens = home.tokens += entry.need.all();
  if (worker.credit && *worker.credit > 0) --*worker.credit;
  entry.state = State::kHome;
  entry.worker = worker.key;
  entry.preferred.reset();  // once: if it comes back, another is better
  Count(account, State::kWaiting, -1);
  Count(account, State::kHome, 1);
  passed_ += entry.need.all();
  const int64_t guess = entry.need.prompt + account.estimate.Of(entry.need.output);
  if (const int64_t rest = guess - entry.charged; rest > 0) {
    queue_.Charge(account.adapter, rest);
    entry.charged = guess;
  }
  queue_.Started(account.adapter);
}

void Admission::LeaveHome(uint64_t key, Micros now, std::optional<int64_t> served) {
  auto found = entries_.find(key);
  if (found == entries_.end() || found->second.state != State::kHome) return;
  Entry& entry = found->second;
  Account& account = *entry.account;
  auto home = homes_.find(entry.worker);
  CONCLAVE_CHECK(home != homes_.end());
  SetPaused(key, false);
  home->second.tokens -= entry.need.all();
  if (--home->second.requests == 0 && home->second.paused == 0) homes_.erase(home);
  CountTokens(account, -entry.need.all());
  Count(account, State::kHome, -1);
  entry.state = State::kFinished;
  if (served) {
    queue_.Charge(account.adapter, *served - entry.charged);
    entry.charged = *served;
    entry.served = true;
  }
  queue_.Ended(account.adapter);
  departures_.Note(now, has_.waiting > 0);
  account.departures.Note(now, account.has.waiting > 0);
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
  home.tokens -= sign * entry.need.all();
}

void Admission::Requeue(uint64_t key, bool goes_on) {
  Entry& entry = entries_.at(key);
  CONCLAVE_CHECK(entry.state == State::kFinished);
  entry.state = State::kWaiting;
  entry.goes_on = goes_on;
  entry.requeued = true;
  Count(*entry.account, State::kWaiting, 1);
  CountTokens(*entry.account, entry.need.all());
  queue_.PushFirst(key, entry.account->adapter, goes_on);
}

void Admission::Remove(uint64_t key, Micros now) {
  LeaveHome(key, now);
  auto found = entries_.find(key);
  if (found == entries_.end()) return;
  const Entry& entry = found->second;
  Account& account = *entry.account;
  if (entry.state == State::kPreparing) Count(account, State::kPreparing, -1);
  if (entry.state == State::kWaiting) {
    Count(account, State::kWaiting, -1);
    CountTokens(account, -entry.need.all());
    queue_.Erase(key);
  }
  // One that was lost before its prompt was computed says nothing of its output.
  if (entry.served && entry.charged >= entry.need.prompt)
    account.estimate.Learn(entry.charged - entry.need.prompt, entry.need.output);
  ReleaseId(key);
  entries_.erase(found);
  --has_.requests;
  --account.has.requests;
  ForgetIfIdle(account);
}

void Admission::ReleaseId(uint64_t key) {
  auto found = entries_.find(key);
  if (found == entries_.end() || !found->second.id) return;
  ids_.erase(*found->second.id);
  found->second.id.reset();
}

Admission::Micros Admission::Pushback(const Departures& departures, size_t waiting) const {
  const std::optional<double> wait = departures.UntilHalfHaveGone(waiting);
  if (!wait) return options_.pushback_default;
  const double most = static_cast<double>(options_.pushback_max.count());
  return std::clamp(Micros(static_cast<int64_t>(std::min(*wait, most))), options_.pushback_min,
                    options_.pushback_max);
}

Admission::Stats Admission::stats() const {
  Stats stats = has_;
  if (lacks_credit_) stats.waiting_for_credit = stats.waiting;
  return stats;
}

std::unordered_map<std::string, Admission::Stats> Admission::adapters() const {
  std::unordered_map<std::string, Stats> adapters;
  for (const auto& [name, account] : accounts_) {
    if (account.has.requests > 0) adapters[name] = account.has;
  }
  return adapters;
}

void Admission::CheckInvariants() const {
  size_t ids = 0;
  Stats all;
  std::unordered_map<std::string, Stats> adapters;
  std::unordered_map<uint64_t, Home> homes;
  for (const auto& [key, entry] : entries_) {
    if (entry.id) {
      CONCLAVE_CHECK(ids_.at(*entry.id) == key);
      ++ids;
    }
    if (entry.state == State::kHome) {
      Home& home = homes[entry.worker];
      if (entry.paused) {
        ++home.paused;
      } else {
        ++home.requests;
        home.tokens += entry.need.all();
      }
    }
    for (Stats* const has : {&all, &adapters[entry.account->adapter]}) {
      ++has->requests;
      has->preparing += entry.state == State::kPreparing;
      has->waiting += entry.state == State::kWaiting;
      has->running += entry.state == State::kHome;
      const bool counts = entry.state == State::kWaiting || entry.state == State::kHome;
      has->tokens += counts ? entry.need.all() : 0;
    }
  }
  const auto same = [](const Stats& a, const Stats& b) {
    return a.requests == b.requests && a.preparing == b.preparing && a.waiting == b.waiting &&
           a.running == b.running && a.tokens == b.tokens;
  };
  CONCLAVE_CHECK(same(all, has_));
  for (const auto& [name, account] : accounts_) CONCLAVE_CHECK(same(adapters[name], account.has));
  CONCLAVE_CHECK(ids_.size() == ids);
  CONCLAVE_CHECK(has_.requests <= options_.max_requests);
  CONCLAVE_CHECK(std::ssize(queue_.Waiting()) == has_.waiting);
  queue_.CheckInvariants();
  CONCLAVE_CHECK(homes.size() == homes_.size());
  for (const auto& [key, home] : homes) {
    const Home& counted = homes_.at(key);
    CONCLAVE_CHECK(home.requests == counted.requests && home.tokens == counted.tokens);
    CONCLAVE_CHECK(home.paused == counted.paused && home.paused <= options_.home.paused);
    CONCLAVE_CHECK(home.requests <= options_.home.requests + options_.home.paused);
  }
}

}  // namespace conclave::router

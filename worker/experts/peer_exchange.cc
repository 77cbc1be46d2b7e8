#include "worker/experts/peer_exchange.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "scheduler/check.h"
#include "worker/status.h"

namespace conclave::worker {

absl::Status PeerExchange::NoOwner(scheduler::ExpertId expert) {
  return absl::UnavailableError(absl::StrCat("no live owner for expert ", expert));
}

scheduler::Micros PeerExchange::Now() {
  return std::chrono::duration_cast<scheduler::Micros>(Clock::now().time_since_epoch());
}

PeerExchange::PeerExchange(const Options& options, const FrameLimits& limits, ExpertServer& server,
                           Transport* transport)
    : options_(options),
      limits_(limits),
      server_(server),
      transport_(transport),
      row_index_(limits.rows, -1),
      lateness_(options.lateness) {
  workers_.reserve(limits.routes);
  arrived_.reserve(limits.routes);
  local_routes_.reserve(limits.routes);
  local_outputs_.reserve(limits.routes);
  body_rows_.reserve(limits.rows);
}

void PeerExchange::BeginStep(uint64_t step, const Table& table) {
  step_ = step;
  const bool another = table.placement != table_.placement;
  table_ = table;
  if (table_.placement == nullptr) {
    rule_.reset();
    return;
  }
  const size_t workers = table_.placement->workers.size();
  CONCLAVE_CHECK(table_.peers.size() == workers);
  if (another) {
    rule_.emplace(options_.rule, workers, table_.self);
    routes_of_.resize(workers);
  }
  for (size_t i = 0; i < workers; ++i) {
    const auto worker = static_cast<int32_t>(i);
    const PeerIndex peer = table_.peers[i];
    rule_->SetAlive(worker, worker == table_.self ||
                                (peer >= 0 && transport_ != nullptr && transport_->up(peer)));
    rule_->SetLate(worker, Avoids(peer));
    if (peer >= 0 && transport_ != nullptr) rule_->SetDistance(worker, transport_->distance(peer));
  }
}

absl::Status PeerExchange::Dispatch(int32_t layer, ConstRows x,
                                    std::span<const scheduler::ExpertId> experts, int32_t top_k) {
  CONCLAVE_CHECK(experts.size() == static_cast<size_t>(x.rows * top_k));
  CONCLAVE_CHECK(experts.size() <= limits_.routes && x.rows <= static_cast<int64_t>(limits_.rows));
  CONCLAVE_CHECK(questions_.empty());
  layer_ = layer;
  top_k_ = top_k;
  x_ = x;
  experts_ = experts;
  local_routes_.clear();
  local_outputs_.clear();
  unasked_.clear();
  missing_ = 0;
  redo_ = absl::OkStatus();
  CONCLAVE_RETURN_IF_ERROR(Choose());
  if (missing_ == 0) return absl::OkStatus();
  {
    const std::lock_guard lock(mutex_);
    waiting_ = true;
  }
  for (size_t worker = 0; worker < routes_of_.size(); ++worker) {
    if (!routes_of_[worker].empty()) Ask(static_cast<int32_t>(worker), routes_of_[worker], 0);
  }
  return absl::OkStatus();
}

// Every route to this worker's own server, or to a peer's list.
absl::Status PeerExchange::Choose() {
  const auto keep = [this](size_t route) {
    local_routes_.push_back(
        {static_cast<uint32_t>(route) / static_cast<uint32_t>(top_k_), experts_[route]});
    local_outputs_.push_back(static_cast<int32_t>(route));
  };
  if (!rule_) {
    if (table_.waits) return absl::UnavailableError("the worker has no placement yet");
    for (size_t route = 0; route < experts_.size(); ++route) keep(route);
    return absl::OkStatus();
  }
  workers_.resize(experts_.size());
  arrived_.assign(experts_.size(), 0);
  asked_.assign(experts_.size(), 0);
  for (std::vector<int32_t>& routes : routes_of_) routes.clear();
  const auto k = static_cast<size_t>(top_k_);
  for (size_t token = 0; token < experts_.size(); token += k) {
    rule_->Choose(*table_.placement, experts_.subspan(token, k), {workers_.data() + token, k});
  }
  for (size_t route = 0; route < experts_.size(); ++route) {
    const int32_t worker = workers_[route];
    if (worker == scheduler::DispatchRule::kNobody) return NoOwner(experts_[route]);
    if (worker == table_.self) {
      keep(route);
      continue;
    }
    routes_of_[static_cast<size_t>(worker)].push_back(static_cast<int32_t>(route));
    ++missing_;
  }
  return absl::OkStatus();
}

void PeerExchange::Ask(int32_t worker, std::span<const int32_t> routes, uint32_t attempt) {
  const PeerIndex peer = table_.peers[static_cast<size_t>(worker)];
  body_rows_.clear();
  for (const int32_t route : routes) {
    int32_t& index = row_index_[static_cast<size_t>(route / top_k_)];
    if (index >= 0) continue;
    index = static_cast<int32_t>(body_rows_.size());
    body_rows_.push_back(static_cast<uint32_t>(route / top_k_));
  }
  FrameHeader header = {.kind = FrameKind::kRows,
                        .type = limits_.type,
                        .layer = static_cast<uint32_t>(layer_),
                        .epoch = table_.placement->epoch,
                        .plan = table_.placement->plan,
                        .request = next_number_++,
                        .step = step_,
                        .attempt = attempt,
                        .rows = static_cast<uint32_t>(body_rows_.size()),
                        .routes = static_cast<uint32_t>(routes.size()),
                        .dim = limits_.dim};
  header.body_bytes = BodyBytes(header);
  std::optional<FrameBody> body = transport_->Reserve(peer, header.body_bytes);
  if (body) FillBody(header, routes, body->bytes());
  for (const uint32_t row : body_rows_) row_index_[row] = -1;
  if (!body || !transport_->Send(peer, header, *std::move(body))) {
    rule_->SetAlive(worker, false);
    for (const int32_t route : routes) {
      const auto r = static_cast<size_t>(route);
      if (asked_[r] == 0 && !arrived_[r]) unasked_.push_back(route);
    }
    return;
  }
  questions_.push_back({.number = header.request,
                        .worker = worker,
                        .peer = peer,
                        .attempt = attempt,
                        .asked = Clock::now(),
                        .late = false,
                        .routes = {routes.begin(), routes.end()}});
  for (const int32_t route : routes) ++asked_[static_cast<size_t>(route)];
  const std::lock_guard lock(mutex_);
  ++stats_.frames;
  stats_.rows += header.rows;
  stats_.routes += header.routes;
  stats_.bytes += header.body_bytes;
}

void PeerExchange::FillBody(const FrameHeader& header, std::span<const int32_t> routes,
                            std::span<std::byte> body) {
  const std::span<FrameRoute> to = MutableRoutesOf(header, body);
  for (size_t i = 0; i < routes.size(); ++i) {
    to[i] = {static_cast<uint32_t>(row_index_[static_cast<size_t>(routes[i] / top_k_)]),
             experts_[static_cast<size_t>(routes[i])]};
  }
  std::byte* out = MutableRowsOf(header, body).data();
  for (const uint32_t row : body_rows_) {
    PackRow(x_.row(row), limits_.dim, limits_.type, out);
    out += limits_.dim * SizeOf(limits_.type);
  }
}

absl::Status PeerExchange::Combine(Rows outputs) {
  if (!local_routes_.empty()) {
    local_.layer = layer_;
    local_.x = x_;
    local_.routes = local_routes_;
    local_.outputs = local_outputs_;
    local_.out = outputs;
    server_.Submit(&local_);
  }
  absl::Status status;
  if (missing_ > 0) {
    server_.SetWatcher(this);
    transport_->BeginPolling();
    status = AwaitAnswers(outputs);
    transport_->EndPolling();
    server_.SetWatcher(nullptr);
  }
  if (status.ok()) {
    server_.Finish(&local_);
  } else {
    server_.Withdraw(&local_);
  }
  questions_.clear();  // an answer that still comes is nobody's
  const std::lock_guard lock(mutex_);
  waiting_ = false;
  stats_.stale += inbox_.size();
  inbox_.clear();
  lost_.clear();
  stats_.own_routes += local_routes_.size();
  return status;
}

absl::Status PeerExchange::AwaitAnswers(Rows outputs) {
  while (true) {
    while (TakeNews(outputs)) {
    }
    CONCLAVE_RETURN_IF_ERROR(redo_);
    if (closed_) return absl::CancelledError("the worker ends");
    if (!unasked_.empty()) CONCLAVE_RETURN_IF_ERROR(AskUnasked(outputs));
    if (missing_ == 0 && !server_.Waits(local_)) return absl::OkStatus();
    if (server_.Serve() || transport_->Poll()) continue;
    AskReplicasOfLate(outputs);
    AwaitNews();
  }
}

// Watches, then sleeps, until there is news or it is time to look at the clock.
void PeerExchange::AwaitNews() {
  const auto end = Clock::now() + std::chrono::microseconds(options_.spin_us);
  while (!news_.load(std::memory_order_acquire)) {
    if (transport_->Poll()) return;
    if (Clock::now() >= end) break;
  }
  transport_->EndPolling();
  if (!transport_->Poll()) {
    Clock::time_point look = Clock::now() + options_.look;
    if (const auto due = server_.NextDue()) look = std::min(look, *due);
    std::unique_lock lock(mutex_);
    bell_.wait_until(lock, look, [this] { return news_.load(std::memory_order_relaxed); });
  }
  transport_->BeginPolling();
}

bool PeerExchange::TakeNews(Rows outputs) {
  {
    const std::lock_guard lock(mutex_);
    news_.store(false, std::memory_order_relaxed);
    answers_.swap(inbox_);
    losses_.swap(lost_);
  }
  const bool any = !answers_.empty() || !losses_.empty();
  for (const Answer& answer : answers_) Take(answer, outputs);
  answers_.clear();  // their bodies go back
  for (const PeerIndex peer : losses_) Lose(peer);
  losses_.clear();
  return any;
}

void PeerExchange::Take(const Answer& answer, Rows outputs) {
  const FrameHeader& header = answer.header;
  const auto found =
      std::find_if(questions_.begin(), questions_.end(), [&](const Question& question) {
        return question.number == header.request && question.peer == answer.from;
      });
  const bool refused = header.kind == FrameKind::kRefusal;
  const bool fits = found != questions_.end() && header.step == step_ &&
                    (refused || header.routes == found->routes.size());
  {
    const std::lock_guard lock(mutex_);
    stats_.bytes += header.body_bytes;
    stats_.stale += !fits;
    stats_.refusals += fits && refused;
    if (fits && !found->late) lateness_.NotePrompt(answer.from);
  }
  if (!fits) return;
  const auto index = static_cast<size_t>(found - questions_.begin());
  if (refused) {
    if (header.refusal != Refusal::kBusy) {
      redo_ = absl::AbortedError(
          absl::StrCat("worker ", table_.placement->workers[static_cast<size_t>(found->worker)],
                       " refused rows of epoch ", table_.placement->epoch, ", its own is ",
                       header.epoch, ": ", std::string(NameOf(header.refusal))));
    }
    return Drop(index);
  }
  const double seconds = std::chrono::duration<double>(Clock::now() - found->asked).count();
  mean_seconds_ += (seconds - mean_seconds_) / 32;
  const std::byte* row = RowsOf(header, answer.body.bytes()).data();
  for (const int32_t route : found->routes) {
    const auto r = static_cast<size_t>(route);
    if (!std::exchange(arrived_[r], uint8_t{1})) {
      UnpackRow(row, limits_.dim, limits_.type, outputs.row(route));
      --missing_;
    }
    row += limits_.dim * SizeOf(limits_.type);
  }
  Drop(index);
}

void PeerExchange::AwaitChange(std::chrono::microseconds longest) {
  std::unique_lock lock(mutex_);
  bell_.wait_for(lock, longest, [this] { return news_.load(std::memory_order_relaxed); });
  news_.store(false, std::memory_order_relaxed);
}

void PeerExchange::OnAnswer(PeerIndex from, const FrameHeader& header, FrameBody body) {
  const std::lock_guard lock(mutex_);
  if (!waiting_) {
    ++stats_.stale;
    return;
  }
  inbox_.push_back({from, header, std::move(body)});
  news_.store(true, std::memory_order_release);
  bell_.notify_one();
}

void PeerExchange::OnDown(PeerIndex peer) {
  const std::lock_guard lock(mutex_);
  lost_.push_back(peer);
  news_.store(true, std::memory_order_release);
  bell_.notify_one();
}

void PeerExchange::Ring() {
  const std::lock_guard lock(mutex_);
  news_.store(true, std::memory_order_release);
  bell_.notify_one();
}

void PeerExchange::Close() {
  closed_ = true;
  Ring();
}

bool PeerExchange::Avoids(PeerIndex peer) const {
  const std::lock_guard lock(mutex_);
  return lateness_.Avoids(peer, Now());
}

std::vector<PeerIndex> PeerExchange::Late() const {
  const std::lock_guard lock(mutex_);
  return lateness_.Slow(Now());
}

PeerExchange::Stats PeerExchange::stats() const {
  const std::lock_guard lock(mutex_);
  return stats_;
}

}  // namespace conclave::worker

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
      pieces_(limits),
      row_index_(limits.rows, -1),
      lateness_(options.lateness) {
  workers_.reserve(limits.routes);
  local_routes_.reserve(limits.routes);
  local_outputs_.reserve(limits.routes);
  body_rows_.reserve(limits.rows);
}

void PeerExchange::ForgetLosses() {
  const std::lock_guard lock(mutex_);
  lost_.clear();
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
    given_.resize(workers);
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
                                    std::span<const scheduler::ExpertId> experts,
                                    std::span<const float> weights, int32_t top_k) {
  CONCLAVE_CHECK(experts.size() == static_cast<size_t>(x.rows * top_k));
  CONCLAVE_CHECK(weights.size() == experts.size());
  CONCLAVE_CHECK(experts.size() <= limits_.routes && x.rows <= static_cast<int64_t>(limits_.rows));
  CONCLAVE_CHECK(questions_.empty());
  layer_ = layer;
  top_k_ = top_k;
  x_ = x;
  experts_ = experts;
  weights_ = weights;
  local_routes_.clear();
  local_outputs_.clear();
  unasked_.clear();
  missing_ = 0;
  redo_ = absl::OkStatus();
  lacking_.reset();
  TakeLosses();
  CONCLAVE_RETURN_IF_ERROR(Choose());
  if (missing_ == 0) return absl::OkStatus();
  {
    const std::lock_guard lock(mutex_);
    waiting_ = true;
  }
  for (size_t worker = 0; worker < given_.size(); ++worker) {
    if (!given_[worker].empty() && static_cast<int32_t>(worker) != table_.self)
      Ask(static_cast<int32_t>(worker), given_[worker], 0);
  }
  return absl::OkStatus();
}

// Every route to this worker's own server, or, with others, to a peer's list.
absl::Status PeerExchange::Choose() {
  const auto keep = [this](int32_t piece) {
    for (const int32_t route : pieces_.RoutesOf(piece)) {
      local_routes_.push_back({static_cast<uint32_t>(route) / static_cast<uint32_t>(top_k_),
                               experts_[static_cast<size_t>(route)]});
      local_outputs_.push_back(route);
    }
  };
  if (!rule_ && table_.waits) return absl::UnavailableError("the worker has no placement yet");
  pieces_.Begin(table_.placement.get(), experts_, top_k_);
  if (!rule_) {
    for (int32_t piece = pieces_.first(); piece < pieces_.end(); ++piece) keep(piece);
    return absl::OkStatus();
  }
  for (std::vector<int32_t>& given : given_) given.clear();
  if (limits_.returns == Returns::kRows) {
    CONCLAVE_RETURN_IF_ERROR(ChooseForRows());
  } else {
    for (int32_t piece = pieces_.first(); piece < pieces_.end(); ++piece) {
      if (!Assign(piece)) return NoOwnerOf(piece);
    }
  }
  for (size_t worker = 0; worker < given_.size(); ++worker) {
    for (const int32_t piece : given_[worker]) {
      if (static_cast<int32_t>(worker) == table_.self) {
        keep(piece);
      } else {
        missing_ += pieces_.RoutesOf(piece).size();
      }
    }
  }
  return absl::OkStatus();
}

absl::Status PeerExchange::ChooseForRows() {
  workers_.resize(experts_.size());
  const auto k = static_cast<size_t>(top_k_);
  for (size_t token = 0; token < experts_.size(); token += k) {
    rule_->Choose(*table_.placement, experts_.subspan(token, k), {workers_.data() + token, k});
  }
  for (size_t route = 0; route < experts_.size(); ++route) {
    if (workers_[route] == scheduler::DispatchRule::kNobody) return NoOwner(experts_[route]);
    Give(workers_[route], static_cast<int32_t>(route));
  }
  return absl::OkStatus();
}

void PeerExchange::Ask(int32_t worker, std::span<const int32_t> pieces, uint32_t attempt) {
  const PeerIndex peer = table_.peers[static_cast<size_t>(worker)];
  Question question = {
      .worker = worker, .peer = peer, .attempt = attempt, .pieces = {pieces.begin(), pieces.end()}};
  std::sort(question.pieces.begin(), question.pieces.end());
  FrameHeader header = HeaderFor(question.pieces);
  header.attempt = attempt;
  std::optional<FrameBody> body = transport_->Reserve(peer, header.body_bytes);
  if (body) FillBody(header, question.pieces, body->bytes());
  for (const uint32_t row : body_rows_) row_index_[row] = -1;
  if (!body || !transport_->Send(peer, header, *std::move(body))) {
    rule_->SetAlive(worker, false);
    for (const int32_t piece : pieces) {
      if (pieces_.asked(piece) == 0) NoteUnasked(piece);
    }
    return;
  }
  question.number = header.request;
  question.asked = Clock::now();
  question.routes = header.routes;
  for (const int32_t piece : pieces) ++pieces_.asked(piece);
  questions_.push_back(std::move(question));
  const std::lock_guard lock(mutex_);
  ++stats_.frames;
  stats_.rows += header.rows;
  stats_.routes += header.routes;
  stats_.bytes += header.body_bytes;
}

// And in body_rows_ and row_index_ the rows of its body.
FrameHeader PeerExchange::HeaderFor(std::span<const int32_t> pieces) {
  body_rows_.clear();
  size_t routes = 0;
  for (const int32_t piece : pieces) {
    const std::span<const int32_t> of = pieces_.RoutesOf(piece);
    routes += of.size();
    int32_t& index = row_index_[static_cast<size_t>(of[0] / top_k_)];  // all are of one row
    if (index >= 0) continue;
    index = static_cast<int32_t>(body_rows_.size());
    body_rows_.push_back(static_cast<uint32_t>(of[0] / top_k_));
  }
  const bool sums = limits_.returns == Returns::kSums;
  FrameHeader header = {.kind = sums ? FrameKind::kTerms : FrameKind::kRows,
                        .type = limits_.type,
                        .layer = static_cast<uint32_t>(layer_),
                        .epoch = table_.placement->epoch,
                        .plan = table_.placement->plan,
                        .request = next_number_++,
                        .step = step_,
                        .rows = static_cast<uint32_t>(body_rows_.size()),
                        .routes = static_cast<uint32_t>(routes),
                        .sums = sums ? static_cast<uint32_t>(pieces.size()) : 0,
                        .dim = limits_.dim};
  header.body_bytes = BodyBytes(header);
  return header;
}

void PeerExchange::FillBody(const FrameHeader& header, std::span<const int32_t> pieces,
                            std::span<std::byte> body) {
  const std::span<FrameRoute> to = MutableRoutesOf(header, body);
  const std::span<FrameTerm> terms =
      header.kind == FrameKind::kTerms ? MutableTermsOf(header, body) : std::span<FrameTerm>();
  size_t at = 0;
  for (size_t i = 0; i < pieces.size(); ++i) {
    const std::span<const int32_t> routes = pieces_.RoutesOf(pieces[i]);
    for (const int32_t route : routes) {
      const auto r = static_cast<size_t>(route);
      to[at] = {static_cast<uint32_t>(row_index_[static_cast<size_t>(route / top_k_)]),
                experts_[r]};
      if (!terms.empty()) {
        // A row that home is to sum itself comes as it is.
        const float weight = pieces_.IsPart(pieces[i]) ? weights_[r] : 1.0f;
        terms[at] = {.weight = weight, .sum = static_cast<uint32_t>(i)};
      }
      ++at;
    }
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
  if (status.ok() && limits_.returns == Returns::kSums) pieces_.Sum(weights_, outputs);
  questions_.clear();  // an answer that still comes is nobody's
  const std::lock_guard lock(mutex_);
  waiting_ = false;
  stats_.stale += inbox_.size();
  inbox_.clear();
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
  LoseAll();
  return any;
}

void PeerExchange::TakeLosses() {
  {
    const std::lock_guard lock(mutex_);
    losses_.swap(lost_);
  }
  LoseAll();
}

bool PeerExchange::Fits(const FrameHeader& answer, const Question& question) {
  const bool sums = answer.kind == FrameKind::kSums;
  return answer.routes == question.routes &&
         (sums ? answer.sums : answer.routes) == question.pieces.size();
}

void PeerExchange::Take(const Answer& answer, Rows outputs) {
  const FrameHeader& header = answer.header;
  const auto found =
      std::find_if(questions_.begin(), questions_.end(), [&](const Question& question) {
        return question.number == header.request && question.peer == answer.from;
      });
  const bool refused = header.kind == FrameKind::kRefusal;
  const bool fits =
      found != questions_.end() && header.step == step_ && (refused || Fits(header, *found));
  {
    const std::lock_guard lock(mutex_);
    stats_.bytes += header.body_bytes;
    stats_.home_bytes += header.body_bytes;
    stats_.stale += !fits;
    stats_.refusals += fits && refused;
    if (fits && !found->late) lateness_.NotePrompt(answer.from);
  }
  if (!fits) return;
  const auto index = static_cast<size_t>(found - questions_.begin());
  if (refused) {
    TakeRefusal(*found, header);
    return Drop(index);
  }
  const double seconds = std::chrono::duration<double>(Clock::now() - found->asked).count();
  mean_seconds_ += (seconds - mean_seconds_) / 32;
  TakeRows(*found, answer, outputs);
  Drop(index);
}

void PeerExchange::TakeRefusal(const Question& question, const FrameHeader& refusal) {
  if (refusal.refusal == Refusal::kBusy) return;
  const std::string& worker = table_.placement->workers[static_cast<size_t>(question.worker)];
  redo_ = absl::AbortedError(absl::StrCat("worker ", worker, " refused rows of epoch ",
                                          table_.placement->epoch, ", its own is ", refusal.epoch,
                                          ": ", std::string(NameOf(refusal.refusal))));
  if (refusal.refusal != Refusal::kLacking) return;
  const bool asked =
      std::any_of(question.pieces.begin(), question.pieces.end(), [&](int32_t piece) {
        const std::span<const int32_t> routes = pieces_.RoutesOf(piece);
        return std::any_of(routes.begin(), routes.end(), [&](int32_t route) {
          return experts_[static_cast<size_t>(route)] == refusal.lacking;
        });
      });
  if (asked) lacking_ = {refusal.lacking, worker};
}

void PeerExchange::TakeRows(const Question& question, const Answer& answer, Rows outputs) {
  const std::byte* row = RowsOf(answer.header, answer.body.bytes()).data();
  for (const int32_t piece : question.pieces) {
    if (pieces_.Needed(piece)) {
      UnpackRow(row, limits_.dim, limits_.type, outputs.row(pieces_.RoutesOf(piece)[0]));
      missing_ -= pieces_.NoteCome(piece);
    }
    row += limits_.dim * SizeOf(limits_.type);
  }
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

PeerExchange::Stats PeerExchange::stats() const {
  const std::lock_guard lock(mutex_);
  return stats_;
}

}  // namespace conclave::worker

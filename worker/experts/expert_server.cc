#include "worker/experts/expert_server.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <numeric>
#include <utility>

#include "scheduler/check.h"

namespace conclave::worker {
namespace {

using scheduler::Micros;

constexpr PeerIndex kOwnHome = -1;

Micros Now() {
  return std::chrono::duration_cast<Micros>(std::chrono::steady_clock::now().time_since_epoch());
}

}  // namespace

ExpertServer::ExpertServer(const Options& options, const FrameLimits& limits,
                           std::vector<const FfnWeights*> experts, Device& device,
                           Transport* transport, Judge judge)
    : options_(options),
      limits_(limits),
      device_(device),
      transport_(transport),
      judge_(std::move(judge)),
      experts_(std::move(experts)),
      brought_(experts_.size()),
      count_(experts_.size()),
      gather_(options.gather, static_cast<int32_t>(std::max(1U, limits.layers))) {
  CONCLAVE_CHECK(options_.max_rows >= static_cast<int32_t>(limits_.rows));
  CONCLAVE_CHECK(options_.max_routes >= static_cast<int32_t>(limits_.routes));
  const auto routes = static_cast<size_t>(options_.max_routes);
  rows_.reset(new float[static_cast<size_t>(options_.max_rows) * limits_.dim]);
  const bool sums = limits_.returns == Returns::kSums;
  results_.reset(new float[(sums ? routes : kResultRows) * limits_.dim]);
  if (sums) {
    sum_.resize(limits_.dim);
    terms_.reserve(routes);
  }
  every_row_.resize(kResultRows);
  std::iota(every_row_.begin(), every_row_.end(), 0);
  routes_.reserve(routes);
  touched_.reserve(experts_.size());
  inputs_.resize(routes);
  outputs_.resize(routes);
  order_.resize(routes);
  places_.reserve(routes);
  copied_.reserve(routes);
  work_.reserve(experts_.size());
  local_.reserve(1);
  remote_.reserve(static_cast<size_t>(options_.max_waiting));
  if (options_.start_thread) thread_ = std::thread([this] { Run(); });
}

ExpertServer::~ExpertServer() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void ExpertServer::Submit(LocalJob* job) {
  job->done.store(false, std::memory_order_relaxed);
  job->urgent = false;
  const std::lock_guard lock(mutex_);
  gather_.Ask(kOwnHome, job->layer, static_cast<int32_t>(job->x.rows), Now());
  local_.push_back(job);  // its home serves when it waits: nobody is woken
}

void ExpertServer::Withdraw(LocalJob* job) {
  std::unique_lock lock(mutex_);
  if (std::erase(local_, job) > 0) {
    gather_.Serve(kOwnHome);
    job->done.store(true, std::memory_order_release);
    return;
  }
  done_.wait(lock, [&] { return job->done.load(std::memory_order_acquire); });
}

void ExpertServer::Submit(RemoteJob job) {
  bool taken = false;
  {
    const std::lock_guard lock(mutex_);
    taken = remote_.size() < static_cast<size_t>(options_.max_waiting);
    if (taken) {
      const FrameHeader& header = job.header;
      gather_.Ask(job.from, static_cast<int32_t>(header.layer), static_cast<int32_t>(header.rows),
                  Now());
      remote_.push_back(std::move(job));
      if (watcher_ != nullptr) watcher_->OnWork();
    }
  }
  if (!taken) return Refuse(job, Refusal::kBusy);
  wake_.notify_one();
}

bool ExpertServer::Due(const LocalJob* job, Micros now) const {
  return job->urgent || gather_.Due(kOwnHome, now) <= now;
}

bool ExpertServer::Due(const RemoteJob& job, Micros now) const {
  return gather_.Due(job.from, now) <= now;
}

std::optional<ExpertServer::Clock::time_point> ExpertServer::NextDue() const {
  const std::lock_guard lock(mutex_);
  if (!Waiting()) return std::nullopt;
  const Micros now = Now();
  Micros due = Micros::max();
  if (!local_.empty()) due = gather_.Due(kOwnHome, now);
  for (const RemoteJob& job : remote_) due = std::min(due, gather_.Due(job.from, now));
  return Clock::time_point(due);
}

bool ExpertServer::Waits(const LocalJob& job) const {
  const std::lock_guard lock(mutex_);
  return std::find(local_.begin(), local_.end(), &job) != local_.end() && !Due(&job, Now());
}

void ExpertServer::SetWatcher(Watcher* watcher) {
  bool waiting = false;
  {
    const std::lock_guard lock(mutex_);
    watcher_ = watcher;
    waiting = watcher == nullptr && Waiting();
  }
  if (waiting) wake_.notify_one();
}

void ExpertServer::Run() {
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [this] { return stopping_ || (!remote_.empty() && watcher_ == nullptr); });
    if (stopping_) return;
    lock.unlock();
    const bool served = Serve();
    const auto due = served ? std::nullopt : NextDue();
    if (!served) std::this_thread::yield();  // somebody else is serving what waits
    lock.lock();
    if (due && *due > Clock::now() && !stopping_) wake_.wait_until(lock, *due);
  }
}

bool ExpertServer::Serve() {
  const std::unique_lock serving(serving_, std::try_to_lock);
  return serving.owns_lock() && Pass();
}

void ExpertServer::Quiet(const std::function<void()>& call) {
  const std::lock_guard serving(serving_);
  call();
}

void ExpertServer::SetWeights(scheduler::ExpertId expert, const FfnWeights* weights) {
  CONCLAVE_CHECK(expert < limits_.experts);
  if (expert >= experts_.size()) {
    if (weights == nullptr) return;
    experts_.resize(size_t{expert} + 1);
    count_.resize(experts_.size());
    brought_.resize(experts_.size());
  }
  experts_[expert] = weights;
  brought_[expert] = false;
}

void ExpertServer::Finish(LocalJob* job) {
  {
    const std::lock_guard lock(mutex_);
    job->urgent = true;
  }
  while (!job->done.load(std::memory_order_acquire)) {
    const std::lock_guard serving(serving_);
    if (!job->done.load(std::memory_order_acquire)) Pass();
  }
}

bool ExpertServer::Pass() {
  Take();
  if (local_now_.empty() && remote_now_.empty()) return false;
  const Micros begin = Now();
  Compute();
  const Micros took = Now() - begin;
  Answer();
  if (taken_rows_ <= options_.gather.rows) {
    const std::lock_guard lock(mutex_);
    gather_.Took(took);
  }
  return true;
}

void ExpertServer::TakeDue() {
  local_now_.clear();
  remote_now_.clear();
  const std::lock_guard lock(mutex_);
  const Micros now = Now();
  // All are judged by how things stand before one of them is taken.
  due_.clear();
  for (const RemoteJob& job : remote_) due_.push_back(Due(job, now));
  int64_t rows = 0, routes = 0;  // two jobs: rows of its own, and such as a lost peer owed it
  std::erase_if(local_, [&](LocalJob* job) {
    if (!Due(job, now) || rows + job->x.rows > options_.max_rows ||
        routes + std::ssize(job->routes) > options_.max_routes) {
      return false;
    }
    rows += job->x.rows;
    routes += std::ssize(job->routes);
    local_now_.push_back(job);
    return true;
  });
  size_t at = 0;
  std::erase_if(remote_, [&](RemoteJob& job) {
    if (!due_[at++]) return false;
    gather_.Serve(job.from);
    remote_now_.push_back(std::move(job));
    return true;
  });
  if (!local_now_.empty() && local_.empty()) gather_.Serve(kOwnHome);
}

// As many jobs as fit a pass, the own home's first; frames that may not be served are answered.
void ExpertServer::Take() {
  TakeDue();
  copied_.clear();
  terms_.clear();
  int64_t rows = 0, routes = 0;
  for (const LocalJob* job : local_now_) {
    rows += job->x.rows;
    routes += std::ssize(job->routes);
  }
  std::vector<RemoteJob> later;
  std::erase_if(remote_now_, [&](RemoteJob& job) {
    if (rows + job.header.rows > options_.max_rows ||
        routes + job.header.routes > options_.max_routes) {
      later.push_back(std::move(job));
      return true;
    }
    const size_t before = copied_.size(), terms = terms_.size();
    scheduler::ExpertId lacking = 0;
    if (const Refusal refusal = CopyRoutes(job, &lacking); refusal != Refusal::kNone) {
      copied_.resize(before);
      terms_.resize(terms);
      Refuse(job, refusal, lacking);
      return true;
    }
    rows += job.header.rows;
    routes += job.header.routes;
    return false;
  });
  taken_rows_ = rows;
  if (later.empty()) return;
  const std::lock_guard lock(mutex_);
  remote_.insert(remote_.begin(), std::make_move_iterator(later.begin()),
                 std::make_move_iterator(later.end()));
}

// What is judged is what is computed: whoever shares the body's memory can write to it at any time.
Refusal ExpertServer::CopyRoutes(const RemoteJob& job, scheduler::ExpertId* lacking) {
  const bool sums = limits_.returns == Returns::kSums;
  // Transports let no other frame pass, so routes and terms are copied to the same places.
  CONCLAVE_CHECK(job.header.kind == (sums ? FrameKind::kTerms : FrameKind::kRows));
  const size_t before = copied_.size();
  const std::span<const FrameRoute> shared = RoutesOf(job.header, job.body.bytes());
  copied_.insert(copied_.end(), shared.begin(), shared.end());
  const std::span<const FrameRoute> routes = std::span(copied_).subspan(before);
  if (!CheckRoutes(job.header, routes, limits_).ok()) return Refusal::kChanged;
  if (sums) {
    const std::span<const FrameTerm> terms = TermsOf(job.header, job.body.bytes());
    terms_.insert(terms_.end(), terms.begin(), terms.end());
    if (!CheckTerms(job.header, routes, std::span(terms_).subspan(before)).ok())
      return Refusal::kChanged;
  }
  if (const Refusal refusal = judge_(job.from, job.header, routes); refusal != Refusal::kNone)
    return refusal;
  const auto away = std::find_if(routes.begin(), routes.end(), [&](const FrameRoute& route) {
    return route.expert >= experts_.size() || experts_[route.expert] == nullptr;
  });
  if (away == routes.end()) return Refusal::kNone;
  *lacking = away->expert;
  return Refusal::kLacking;
}

void ExpertServer::Answer() {
  uint64_t own = 0, served = 0, rows = 0, lost = 0;
  for (const LocalJob* job : local_now_) own += job->routes.size();
  for (size_t i = 0; i < remote_now_.size(); ++i) {
    FrameHeader header = remote_now_[i].header;
    header.kind = AnswerTo(header.kind);
    served += header.routes;
    rows += header.rows;
    std::optional<FrameBody>& body = replies_[i];
    if (!body || !transport_->Send(remote_now_[i].from, header, *std::move(body))) ++lost;
  }
  replies_.clear();
  remote_now_.clear();  // their bodies go back
  const std::lock_guard lock(mutex_);
  ++stats_.passes;
  stats_.own_rows += own;
  stats_.routes += served;
  stats_.rows += rows;
  stats_.replies_lost += lost;
  stats_.weights_read += touched_.size();
  for (LocalJob* job : local_now_) job->done.store(true, std::memory_order_release);
  if (!local_now_.empty()) done_.notify_all();
  // Whoever found this pass in the way looks again.
  if (Waiting() && watcher_ != nullptr) watcher_->OnWork();
}

void ExpertServer::Refuse(const RemoteJob& job, Refusal why, scheduler::ExpertId lacking) {
  FrameHeader header = job.header;
  header.kind = FrameKind::kRefusal;
  header.refusal = why;
  header.lacking = lacking;
  header.rows = header.routes = header.sums = 0;
  transport_->Send(job.from, header, {});
  const std::lock_guard lock(mutex_);
  ++stats_.refused[static_cast<size_t>(why)];
}

ExpertServer::Stats ExpertServer::stats() const {
  const std::lock_guard lock(mutex_);
  return stats_;
}

}  // namespace conclave::worker

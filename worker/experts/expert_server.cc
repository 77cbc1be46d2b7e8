#include "worker/experts/expert_server.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "scheduler/check.h"

namespace conclave::worker {
namespace {

constexpr PeerIndex kOwnHome = -1;
// Who has asked within this time is expected to ask again.
constexpr std::chrono::milliseconds kActive{20};

}  // namespace

ExpertServer::ExpertServer(const Options& options, const FrameLimits& limits,
                           std::vector<const FfnWeights*> experts, Device& device,
                           Transport* transport, Judge judge)
    : options_(options),
      limits_(limits),
      experts_(std::move(experts)),
      device_(device),
      transport_(transport),
      judge_(std::move(judge)),
      count_(experts_.size()) {
  CONCLAVE_CHECK(options_.max_rows >= static_cast<int32_t>(limits_.rows));
  CONCLAVE_CHECK(options_.max_routes >= static_cast<int32_t>(limits_.routes));
  const auto routes = static_cast<size_t>(options_.max_routes);
  rows_.reset(new float[static_cast<size_t>(options_.max_rows) * limits_.dim]);
  results_.reset(new float[routes * limits_.dim]);
  routes_.reserve(routes);
  touched_.reserve(experts_.size());
  inputs_.resize(routes);
  outputs_.resize(routes);
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
  {
    const std::lock_guard lock(mutex_);
    NoteAsked(kOwnHome);
    local_.push_back(job);  // its home serves when it waits: nobody is woken
  }
  came_.notify_one();
}

void ExpertServer::Withdraw(LocalJob* job) {
  std::unique_lock lock(mutex_);
  if (std::erase(local_, job) > 0) {
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
      NoteAsked(job.from);
      remote_.push_back(std::move(job));
      if (watcher_ != nullptr) watcher_->OnWork();
    }
  }
  if (!taken) return Refuse(job, Refusal::kBusy);
  came_.notify_one();
  wake_.notify_one();
}

void ExpertServer::NoteAsked(PeerIndex home) {
  if (options_.gather.count() == 0) return;
  const auto now = std::chrono::steady_clock::now();
  std::erase_if(asked_, [&](const auto& entry) {
    return entry.first == home || now - entry.second > kActive;
  });
  asked_.emplace_back(home, now);
}

// Everybody who asked lately has asked again.
bool ExpertServer::AllAreHere() const {
  return std::all_of(asked_.begin(), asked_.end(), [&](const auto& entry) {
    if (entry.first == kOwnHome) return !local_.empty();
    return std::any_of(remote_.begin(), remote_.end(),
                       [&](const RemoteJob& job) { return job.from == entry.first; });
  });
}

void ExpertServer::Gather() {
  std::unique_lock lock(mutex_);
  if (!Waiting()) return;
  came_.wait_for(lock, options_.gather, [this] { return stopping_ || AllAreHere(); });
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
    if (!Serve()) std::this_thread::yield();  // somebody else is serving what waits
    lock.lock();
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

void ExpertServer::Finish(LocalJob* job) {
  while (!job->done.load(std::memory_order_acquire)) {
    const std::lock_guard serving(serving_);
    if (!job->done.load(std::memory_order_acquire)) Pass();
  }
}

bool ExpertServer::Pass() {
  if (options_.gather.count() > 0) Gather();
  Take();
  if (local_now_.empty() && remote_now_.empty()) return false;
  Compute();
  Answer();
  return true;
}

// As many jobs as fit a pass, the own home's first; frames that may not be served are answered.
void ExpertServer::Take() {
  local_now_.clear();
  remote_now_.clear();
  {
    const std::lock_guard lock(mutex_);
    local_now_.swap(local_);
    remote_now_.swap(remote_);
  }
  int64_t rows = 0, routes = 0;
  for (const LocalJob* job : local_now_) {
    rows += job->x.rows;
    routes += std::ssize(job->routes);
  }
  std::vector<RemoteJob> later;
  std::erase_if(remote_now_, [&](RemoteJob& job) {
    const Refusal refusal = judge_(job.from, job.header, RoutesOf(job.header, job.body.bytes()));
    if (refusal != Refusal::kNone) {
      Refuse(job, refusal);
      return true;
    }
    if (rows + job.header.rows > options_.max_rows ||
        routes + job.header.routes > options_.max_routes) {
      later.push_back(std::move(job));
      return true;
    }
    rows += job.header.rows;
    routes += job.header.routes;
    return false;
  });
  if (later.empty()) return;
  const std::lock_guard lock(mutex_);
  remote_.insert(remote_.begin(), std::make_move_iterator(later.begin()),
                 std::make_move_iterator(later.end()));
}

void ExpertServer::Load(const LocalJob& job) {
  for (const FrameRoute& route : job.routes) {
    routes_.push_back({route.row + static_cast<uint32_t>(loaded_rows_), route.expert});
  }
  for (int64_t row = 0; row < job.x.rows; ++row, ++loaded_rows_) {
    std::memcpy(rows_.get() + static_cast<size_t>(loaded_rows_) * limits_.dim, job.x.row(row),
                limits_.dim * sizeof(float));
  }
}

void ExpertServer::Load(const RemoteJob& job) {
  const FrameHeader& header = job.header;
  for (const FrameRoute& route : RoutesOf(header, job.body.bytes())) {
    routes_.push_back({route.row + static_cast<uint32_t>(loaded_rows_), route.expert});
  }
  const std::span<const std::byte> rows = RowsOf(header, job.body.bytes());
  const size_t bytes = limits_.dim * SizeOf(limits_.type);
  for (size_t row = 0; row < header.rows; ++row, ++loaded_rows_) {
    UnpackRow(rows.data() + row * bytes, limits_.dim, limits_.type,
              rows_.get() + static_cast<size_t>(loaded_rows_) * limits_.dim);
  }
}

// routes_ -> work_, experts ascending; result i is that of routes_[i], or where a local job that is
// alone wants it.
void ExpertServer::GroupByExpert() {
  touched_.clear();
  work_.clear();
  for (const FrameRoute& route : routes_) {
    if (count_[route.expert]++ == 0) touched_.push_back(route.expert);
  }
  std::sort(touched_.begin(), touched_.end());
  size_t start = 0;
  for (const scheduler::ExpertId id : touched_) {
    const auto rows = static_cast<size_t>(std::exchange(count_[id], static_cast<int32_t>(start)));
    work_.push_back(
        {experts_[id], {inputs_.data() + start, rows}, {outputs_.data() + start, rows}});
    start += rows;
  }
  for (size_t i = 0; i < routes_.size(); ++i) {
    const auto at = static_cast<size_t>(count_[routes_[i].expert]++);
    inputs_[at] = static_cast<int32_t>(routes_[i].row);
    outputs_[at] = own_alone_ ? local_now_[0]->outputs[i] : static_cast<int32_t>(i);
  }
  for (const scheduler::ExpertId id : touched_) count_[id] = 0;
}

void ExpertServer::Compute() {
  routes_.clear();
  loaded_rows_ = 0;
  own_alone_ = remote_now_.empty() && local_now_.size() == 1;
  if (own_alone_) {
    routes_.assign(local_now_[0]->routes.begin(), local_now_[0]->routes.end());
  } else {
    for (const LocalJob* job : local_now_) Load(*job);
    for (const RemoteJob& job : remote_now_) Load(job);
  }
  GroupByExpert();
  const auto dim = static_cast<int64_t>(limits_.dim);
  if (own_alone_) {
    device_.Experts(local_now_[0]->x, work_, local_now_[0]->out);
    return;
  }
  const Rows results = {results_.get(), std::ssize(routes_), dim, dim};
  device_.Experts({rows_.get(), loaded_rows_, dim, dim}, work_, results);
}

void ExpertServer::Answer() {
  const size_t dim = limits_.dim;
  const float* result = results_.get();
  uint64_t own = 0, served = 0, rows = 0, lost = 0;
  for (LocalJob* job : local_now_) {
    own += job->routes.size();
    if (own_alone_) break;
    for (const int32_t output : job->outputs) {
      std::memcpy(job->out.row(output), result, dim * sizeof(float));
      result += dim;
    }
  }
  const size_t bytes = dim * SizeOf(limits_.type);
  for (RemoteJob& job : remote_now_) {
    FrameHeader header = job.header;
    header.kind = FrameKind::kResults;
    served += header.routes;
    rows += header.rows;
    const float* own_result = std::exchange(result, result + header.routes * dim);
    std::optional<FrameBody> body = transport_->Reserve(job.from, header.routes * bytes);
    if (body) {
      for (size_t i = 0; i < header.routes; ++i) {
        PackRow(own_result + i * dim, dim, limits_.type, body->bytes().data() + i * bytes);
      }
    }
    if (!body || !transport_->Send(job.from, header, *std::move(body))) ++lost;
  }
  remote_now_.clear();  // their bodies go back
  const std::lock_guard lock(mutex_);
  ++stats_.passes;
  stats_.own_rows += own;
  stats_.routes += served;
  stats_.rows += rows;
  stats_.replies_lost += lost;
  stats_.weights_read += work_.size();
  for (LocalJob* job : local_now_) job->done.store(true, std::memory_order_release);
  if (!local_now_.empty()) done_.notify_all();
  // Whoever found this pass in the way looks again.
  if (Waiting() && watcher_ != nullptr) watcher_->OnWork();
}

void ExpertServer::Refuse(const RemoteJob& job, Refusal why) {
  FrameHeader header = job.header;
  header.kind = FrameKind::kRefusal;
  header.refusal = why;
  header.rows = header.routes = 0;
  transport_->Send(job.from, header, {});
  const std::lock_guard lock(mutex_);
  ++stats_.refused[static_cast<size_t>(why)];
}

ExpertServer::Stats ExpertServer::stats() const {
  const std::lock_guard lock(mutex_);
  return stats_;
}

}  // namespace conclave::worker

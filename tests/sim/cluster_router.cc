#include "tests/sim/cluster_router.h"

#include <algorithm>
#include <iterator>

#include "tests/sim/cluster_scheduler.h"
#include "tests/sim/cluster_worker.h"

namespace conclave::sim {

using std::chrono::milliseconds;

namespace {

// Longer than faults last, and than the longest request after them.
constexpr Micros kAwayMost = std::chrono::seconds(40);

}  // namespace

void SimRouter::Begin() { Ask(); }

void SimRouter::Ask() {
  scheduler::AdapterCatalogue::Report said{.view = view_->version};
  std::set<std::string> waiting, running;
  for (const auto& [id, request] : live_) {
    if (request.version == 0) continue;
    const std::string digest = DigestOf(request.version);
    said.in_use.push_back(digest);
    (request.home < 0 && IsAway(request) ? waiting : running).insert(digest);
  }
  std::set_difference(waiting.begin(), waiting.end(), running.begin(), running.end(),
                      std::back_inserter(said.waiting));
  world_.wire.Send(world_.router_node(), world_.scheduler_node(), [this, said] {
    world_.scheduler->Take([this, said] { world_.scheduler->OnRouterAsks(said); });
  });
  world_.timeline.After(milliseconds(60), [this] { Ask(); });
}

void SimRouter::OnView(const SharedView& view) {
  if (view->version <= view_->version) return;
  view_ = view;
  std::vector<uint64_t> lost;
  for (const auto& [id, request] : live_) {
    if (request.home < 0) continue;
    for (const View::Worker& worker : view->workers) {
      const bool home = worker.id == NameOf(request.home);
      if (home && (!worker.alive || worker.incarnation != request.home_incarnation))
        lost.push_back(id);
    }
  }
  for (const uint64_t id : lost) Move(id);
}

void SimRouter::Submit(int32_t tokens) {
  const uint64_t id = next_++;
  std::vector<uint64_t> versions = {0};
  for (const scheduler::AdapterRow& adapter : view_->adapters) {
    if (adapter.active) versions.push_back(VersionOf(adapter.digest));
  }
  const auto chosen = world_.random.Between(0, static_cast<int32_t>(versions.size()) - 1);
  live_[id] = {.version = versions[static_cast<size_t>(chosen)],
               .last = Mix(id ^ world_.random.Next()),
               .left = tokens,
               .began = world_.timeline.now()};
  ++world_.totals.requests;
  Place(id);
}

// On the worker with the fewest requests of ours of those that are ready; later, if none is.
void SimRouter::Place(uint64_t id) {
  const auto found = live_.find(id);
  if (found == live_.end() || found->second.home >= 0) return;
  Request& request = found->second;
  const View::Worker* best = nullptr;
  int64_t least = 0;
  for (const View::Worker& worker : view_->workers) {
    if (!worker.ready) continue;
    const auto ours = std::count_if(live_.begin(), live_.end(), [&](const auto& other) {
      return other.second.home == IndexOf(worker.id);
    });
    if (best == nullptr || ours < least) {
      best = &worker;
      least = ours;
    }
  }
  const bool away = IsAway(request);
  if (away && world_.timeline.now() - request.began > kAwayMost) {
    Expect(view_->lost.contains(DigestOf(request.version)),
           "who waits for memory gets it, unless there is never enough");
    ++world_.totals.gave_up;
    live_.erase(found);
    return;
  }
  if (best == nullptr || away) {
    world_.timeline.After(milliseconds(30), [this, id] { Place(id); });
    return;
  }
  request.home = IndexOf(best->id);
  request.home_incarnation = best->incarnation;
  const SimWorker::Submit submit{.request = id,
                                 .attempt = ++request.attempt,
                                 .version = request.version,
                                 .last = request.last,
                                 .index = request.index,
                                 .tokens = request.left};
  const int32_t home = request.home;
  world_.wire.Stream(world_.router_node(), home,
                     [this, home, submit, incarnation = best->incarnation] {
                       SimWorker& worker = *world_.workers[static_cast<size_t>(home)];
                       if (!worker.up() || worker.incarnation() != incarnation) {
                         OnRefused(home, submit.request, submit.attempt);  // nobody is there
                       } else {
                         worker.Take([&worker, submit] { worker.OnSubmit(submit); });
                       }
                     });
}

void SimRouter::Move(uint64_t id) {
  const auto found = live_.find(id);
  if (found == live_.end() || found->second.home < 0) return;
  CancelAt(found->second.home, id, found->second.attempt);
  found->second.home = -1;
  ++world_.totals.moved;
  world_.timeline.After(milliseconds(1), [this, id] { Place(id); });
}

void SimRouter::CancelAt(int32_t worker, uint64_t request, uint32_t attempt) {
  world_.wire.Stream(world_.router_node(), worker, [this, worker, request, attempt] {
    SimWorker& process = *world_.workers[static_cast<size_t>(worker)];
    process.Take([&process, request, attempt] { process.OnCancel(request, attempt); });
  });
}

void SimRouter::Cancel() {
  if (live_.empty()) return;
  const auto at = world_.random.Between(0, static_cast<int32_t>(live_.size()) - 1);
  const auto chosen = std::next(live_.begin(), at);
  if (chosen->second.home >= 0)
    CancelAt(chosen->second.home, chosen->first, chosen->second.attempt);
  Expect(ended_.insert(chosen->first).second, "a request ends once");
  ++world_.totals.cancelled;
  live_.erase(chosen);
}

void SimRouter::Tell(int32_t worker, const Token& token) {
  world_.wire.Stream(worker, world_.router_node(),
                     [this, worker, token] { OnToken(worker, token); });
}

void SimRouter::OnToken(int32_t worker, const Token& token) {
  const auto found = live_.find(token.request);
  if (found == live_.end() || found->second.attempt != token.attempt ||
      found->second.home != worker)
    return;  // of a home it has left
  Request& request = found->second;
  Expect(token.index == request.index, "each token comes once and in order");
  Expect(token.token == world_.model.Next(request.last, request.version),
         "a token is the one that the request gives alone, through the version it began with");
  request.last = token.token;
  ++request.index;
  ++world_.totals.tokens;
  if (--request.left > 0) return;
  Expect(ended_.insert(token.request).second, "a request ends once");
  ++world_.totals.completed;
  live_.erase(found);
}

void SimRouter::OnRefused(int32_t worker, uint64_t request, uint32_t attempt) {
  const auto found = live_.find(request);
  if (found == live_.end() || found->second.attempt != attempt || found->second.home != worker)
    return;
  found->second.home = -1;
  world_.timeline.After(milliseconds(30), [this, request] { Place(request); });
}

bool SimRouter::Holds(uint64_t version) const {
  return std::any_of(live_.begin(), live_.end(),
                     [&](const auto& request) { return request.second.version == version; });
}

bool SimRouter::Runs(uint64_t version) const {
  return std::any_of(live_.begin(), live_.end(), [&](const auto& request) {
    const Request& one = request.second;
    return one.version == version && one.attempt > 0 && !(one.home < 0 && IsAway(one));
  });
}

bool SimRouter::IsAway(const Request& request) const {
  const std::string digest = DigestOf(request.version);
  const bool on_disk = std::any_of(
      view_->adapters.begin(), view_->adapters.end(),
      [&](const auto& adapter) { return adapter.digest == digest && adapter.version.on_disk; });
  const bool placed = view_->placement && FindAdapter(*view_->placement, digest) != nullptr &&
                      !view_->lacking.contains(digest);
  return request.version != 0 && on_disk && !(request.attempt > 0 && placed);
}

void SimRouter::OnLinkBroken(int32_t worker, uint64_t incarnation) {
  std::vector<uint64_t> lost;
  for (const auto& [id, request] : live_) {
    if (request.home == worker && request.home_incarnation == incarnation) lost.push_back(id);
  }
  for (const uint64_t id : lost) Move(id);
}

}  // namespace conclave::sim

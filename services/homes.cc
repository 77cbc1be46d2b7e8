#include "services/homes.h"

#include <algorithm>
#include <utility>

#include "router/pick.h"
#include "services/convert_inference.h"

namespace conclave::services {

Homes::Homes(const Options& options, const Credentials& credentials,
             std::function<void()> on_change)
    : options_(options), credentials_(credentials), on_change_(std::move(on_change)) {}

Homes::Home& Homes::Find(const std::string& address) {
  Home& home = homes_[address];
  if (home.link != nullptr) return home;
  home.key = ++last_key_;
  WorkerLink::Options options = options_.link;
  options.address = address;
  home.link = std::make_shared<WorkerLink>(options, credentials_, on_change_);
  return home;
}

void Homes::SetView(const v1::ClusterView& view) {
  view_ = view;
  for (auto& [address, home] : homes_) home.listed = false;
  for (const v1::WorkerInfo& worker : view.workers()) {
    if (worker.address().empty()) continue;
    if (worker.state() == v1::WORKER_STATE_DEAD) {
      if (const auto home = homes_.find(worker.address()); home != homes_.end())
        home->second.state = worker.state();
      continue;
    }
    Home& home = Find(worker.address());
    home.listed = true;
    home.state = worker.state();
  }
}

v1::ClusterView Homes::view() const {
  v1::ClusterView view = view_;
  for (const auto& [key, home] : homes_) {
    const std::string& address = key;
    const auto same = [&](const v1::WorkerInfo& worker) { return worker.address() == address; };
    auto* const workers = view.mutable_workers();
    auto known = std::find_if(workers->begin(), workers->end(), same);
    const std::optional<v1::WorkerHello> hello = home.link->hello();
    if (known == workers->end() && !hello) continue;
    v1::WorkerInfo* const worker = known != workers->end() ? &*known : workers->Add();
    if (!hello) continue;
    if (worker->address().empty()) {
      worker->set_id(hello->worker_id());
      worker->set_incarnation(hello->incarnation());
      worker->set_address(address);
      worker->set_state(home.link->draining() ? v1::WORKER_STATE_DRAINING : v1::WORKER_STATE_READY);
    }
    *worker->mutable_model() = hello->model();
    *worker->mutable_load() = home.link->load();
  }
  return view;
}

bool Homes::Refresh() {
  views_.clear();
  std::vector<const Home*> seen;  // whom views_ are of
  std::shared_ptr<const ServedModel> first;
  bool still_served = false;
  for (const auto& [address, home] : homes_) {
    const std::optional<v1::WorkerHello> hello = home.link->hello();
    if (!hello) continue;
    const bool draining = home.link->draining() || home.state == v1::WORKER_STATE_DRAINING;
    router::WorkerView view{
        .key = home.key, .id = hello->worker_id(), .model = ModelKey(hello->model())};
    const bool doubted = !home.listed || home.state == v1::WORKER_STATE_SUSPECT;
    view.suspect = home.hesitates || (doubted && !home.fixed);
    view.ready = !draining && !home.quiet && home.state != v1::WORKER_STATE_JOINING;
    still_served = still_served || (served_ && served_->key == view.model);
    if (first == nullptr) first = ModelOf(*hello);
    views_.push_back(std::move(view));
    seen.push_back(&home);
  }
  // The model changes only when nobody serves the old one any more.
  if (!still_served && first != nullptr) served_ = first;
  for (router::WorkerView& view : views_) view.ready = view.ready && view.model == served_->key;
  NoteLoads();
  if (AnyReady()) return true;
  // Who was admitted may still go where nobody new does.
  for (size_t i = 0; i < views_.size(); ++i) {
    views_[i].ready =
        !seen[i]->quiet && seen[i]->link->takes_leftovers() && views_[i].model == served_->key;
  }
  return false;
}

void Homes::NoteLoads() {
  for (router::WorkerView& view : views_) {
    const std::shared_ptr<WorkerLink> link = LinkOf(view.key);
    if (link == nullptr) continue;
    const std::optional<v1::WorkerHello> hello = link->hello();
    const v1::WorkerLoad load = link->load();
    view.room.reset();
    if (hello && load.kv_blocks() > 0) {
      const int64_t free = int64_t{load.kv_blocks()} - load.kv_blocks_used();
      view.room = free * hello->kv_block_size();
    }
    view.finds_late = {load.late().begin(), load.late().end()};
    view.lacks = !load.lacks().empty();
  }
  router::NoteLate(views_);
}

void Homes::NoteCredits() {
  for (router::WorkerView& view : views_) {
    const std::shared_ptr<WorkerLink> link = LinkOf(view.key);
    if (link != nullptr) view.credit = link->credit();
  }
}

std::shared_ptr<const ServedModel> Homes::ModelOf(const v1::WorkerHello& hello) const {
  const v1::ModelInfo& info = hello.model();
  const std::string& name = options_.model_name.empty() ? info.name() : options_.model_name;
  return std::make_shared<ServedModel>(ServedModel{info, name, ModelKey(info)});
}

Homes::Links Homes::LateLinks() const {
  Links late;
  for (const router::WorkerView& view : views_) {
    if (!view.late) continue;
    const bool others = std::any_of(views_.begin(), views_.end(), [&](const auto& other) {
      return other.ready && !other.suspect && !other.late && other.model == view.model;
    });
    if (others) late.push_back(LinkOf(view.key));
  }
  return late;
}

bool Homes::AnyReady() const {
  return std::any_of(views_.begin(), views_.end(), [](const auto& view) { return view.ready; });
}

bool Homes::AnyGoesOn(const WorkerLink& except) const {
  return std::any_of(views_.begin(), views_.end(), [&](const router::WorkerView& view) {
    const bool trusted = view.ready && !view.suspect;
    const std::shared_ptr<WorkerLink> link = trusted ? LinkOf(view.key) : nullptr;
    return link != nullptr && link.get() != &except && link->load().lacks().empty();
  });
}

std::string Homes::AllLack() const {
  std::string lacks;
  for (const router::WorkerView& view : views_) {
    const std::shared_ptr<WorkerLink> link = view.ready ? LinkOf(view.key) : nullptr;
    if (link == nullptr) continue;
    lacks = link->load().lacks();
    if (lacks.empty()) break;
  }
  return lacks;
}

bool Homes::OthersServe(const Home& home) const {
  return std::any_of(views_.begin(), views_.end(), [&](const router::WorkerView& view) {
    return view.ready && !view.suspect && view.key != home.key;
  });
}

std::shared_ptr<WorkerLink> Homes::LinkOf(uint64_t key) const {
  const auto home = std::find_if(homes_.begin(), homes_.end(),
                                 [&](const auto& entry) { return entry.second.key == key; });
  return home == homes_.end() ? nullptr : home->second.link;
}

std::optional<uint64_t> Homes::KeeperOf(const std::string& request_id) const {
  for (const auto& [address, home] : homes_) {
    if (home.link->keeps(request_id)) return home.key;
  }
  return std::nullopt;
}

void Homes::AnswerDrains(size_t waiting) {
  for (const auto& [address, home] : homes_) {
    if (!home.link->draining()) continue;
    const auto elsewhere = std::any_of(views_.begin(), views_.end(), [&](const auto& view) {
      return view.ready && view.key != home.key;
    });
    home.link->AnswerDrain(elsewhere ? 0 : waiting);
  }
}

bool Homes::WatchSilence() {
  bool changed = false;
  for (auto& [address, home] : homes_) {
    const bool lost = home.state == v1::WORKER_STATE_SUSPECT || home.state == v1::WORKER_STATE_DEAD;
    const bool silent = lost && home.link->silence() > options_.silence;
    const bool quiet = silent && home.link->stats().sequences > 0;
    const Micros silence = home.link->pulses() ? home.link->silence() : Micros(0);
    const bool hesitates = silence > options_.suspicion;
    changed = changed || quiet != home.quiet || hesitates != home.hesitates;
    home.quiet = quiet;
    home.hesitates = hesitates;
    const bool dead = silent && home.state == v1::WORKER_STATE_DEAD;
    if (dead || (silence > options_.give_up && OthersServe(home))) home.link->Break();
  }
  return changed;
}

Homes::Links Homes::links() const {
  Links links;
  for (const auto& [address, home] : homes_) links.push_back(home.link);
  return links;
}

Homes::Links Homes::TakeGone() {
  Links gone;
  std::erase_if(homes_, [&](const auto& entry) {
    const Home& home = entry.second;
    const bool used = home.fixed || home.listed || home.link->hello();
    if (!used) gone.push_back(home.link);
    return !used;
  });
  return gone;
}

}  // namespace conclave::services

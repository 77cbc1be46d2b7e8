// What becomes of rows whose peer is lost or late: they are asked of others that own the experts.

#include <algorithm>
#include <map>
#include <utility>

#include "worker/experts/peer_exchange.h"

namespace conclave::worker {

void PeerExchange::Lose(PeerIndex peer) {
  uint64_t lost = 0;
  for (size_t i = questions_.size(); i-- > 0;) {
    if (questions_[i].peer != peer) continue;
    rule_->SetAlive(questions_[i].worker, false);
    Drop(i);
    ++lost;
  }
  const std::lock_guard lock(mutex_);
  stats_.rerouted += lost;
}

// Forgets a question; what it asked for and nobody else was asked for is to be asked again.
void PeerExchange::Drop(size_t question) {
  for (const int32_t route : questions_[question].routes) {
    const auto r = static_cast<size_t>(route);
    if (--asked_[r] == 0 && !arrived_[r]) unasked_.push_back(route);
  }
  std::swap(questions_[question], questions_.back());
  questions_.pop_back();
}

absl::Status PeerExchange::AskUnasked(Rows outputs) {
  for (std::vector<int32_t>& routes : routes_of_) routes.clear();
  std::vector<int32_t> unasked = std::exchange(unasked_, {});
  std::sort(unasked.begin(), unasked.end());
  for (const int32_t route : unasked) {
    const auto r = static_cast<size_t>(route);
    if (arrived_[r]) continue;
    int32_t worker = scheduler::DispatchRule::kNobody;
    rule_->Choose(*table_.placement, experts_.subspan(r, 1), {&worker, 1});
    if (worker == scheduler::DispatchRule::kNobody) return NoOwner(experts_[r]);
    routes_of_[static_cast<size_t>(worker)].push_back(route);
  }
  for (size_t worker = 0; worker < routes_of_.size(); ++worker) {
    const std::vector<int32_t>& routes = routes_of_[worker];
    if (routes.empty()) continue;
    if (static_cast<int32_t>(worker) == table_.self) {
      ComputeHere(routes, outputs);
    } else {
      Ask(static_cast<int32_t>(worker), routes, 1);
    }
  }
  return absl::OkStatus();
}

void PeerExchange::ComputeHere(std::span<const int32_t> routes, Rows outputs) {
  again_routes_.clear();
  for (const int32_t route : routes) {
    const auto r = static_cast<size_t>(route);
    again_routes_.push_back({static_cast<uint32_t>(route / top_k_), experts_[r]});
    arrived_[r] = 1;
  }
  again_.layer = layer_;
  again_.x = x_;
  again_.routes = again_routes_;
  again_.outputs = routes;
  again_.out = outputs;
  server_.Submit(&again_);
  server_.Finish(&again_);
  missing_ -= routes.size();
}

PeerExchange::Clock::duration PeerExchange::LateAfter() const {
  const auto usual = std::chrono::duration_cast<Clock::duration>(
      std::chrono::duration<double>(options_.late_factor * mean_seconds_));
  return std::max<Clock::duration>(options_.late, usual);
}

void PeerExchange::AskReplicasOfLate(Rows outputs) {
  const auto late = Clock::now() - LateAfter();
  std::vector<size_t> owed;
  for (size_t i = 0; i < questions_.size(); ++i) {
    if (questions_[i].late || questions_[i].asked > late) continue;
    NoteLate(questions_[i]);
    owed.push_back(i);
  }
  for (const size_t i : owed) AskReplicas(i, outputs);
}

// From here on, and in the steps to come, others are asked rather than it.
void PeerExchange::NoteLate(Question& question) {
  question.late = true;
  rule_->SetLate(question.worker, true);
  const std::lock_guard lock(mutex_);
  stats_.avoided += lateness_.NoteLate(question.peer, Now());
}

void PeerExchange::AskReplicas(size_t question, Rows outputs) {
  std::map<int32_t, std::vector<int32_t>> again;  // routes by worker
  for (const int32_t route : questions_[question].routes) {
    if (arrived_[static_cast<size_t>(route)]) continue;
    const int32_t worker = ChooseAnother(route);
    if (worker != scheduler::DispatchRule::kNobody) again[worker].push_back(route);
  }
  if (again.empty()) return;
  const uint32_t attempt = questions_[question].attempt + 1;
  for (const auto& [worker, routes] : again) {
    if (worker == table_.self) {
      ComputeHere(routes, outputs);
    } else {
      Ask(worker, routes, attempt);
    }
  }
  const std::lock_guard lock(mutex_);
  ++stats_.late;
}

// Who can compute it and owes it to nobody yet; kNobody: all that can were asked.
int32_t PeerExchange::ChooseAnother(int32_t route) {
  std::vector<int32_t> asked;
  for (const Question& question : questions_) {
    if (!std::binary_search(question.routes.begin(), question.routes.end(), route)) continue;
    asked.push_back(question.worker);
    rule_->SetAlive(question.worker, false);
  }
  int32_t another = scheduler::DispatchRule::kNobody;
  rule_->Choose(*table_.placement, experts_.subspan(static_cast<size_t>(route), 1), {&another, 1});
  for (const int32_t worker : asked) rule_->SetAlive(worker, true);
  return another;
}

}  // namespace conclave::worker

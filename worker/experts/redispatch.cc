// What becomes of rows whose peer is lost or late: they are asked of others that own the experts.

#include <algorithm>
#include <utility>

#include "scheduler/check.h"
#include "worker/experts/peer_exchange.h"

namespace conclave::worker {

void PeerExchange::LoseAll() {
  if (losses_.empty()) return;
  uint64_t owed = 0;
  for (const PeerIndex peer : losses_) owed += Lose(peer);
  losses_.clear();
  const std::lock_guard lock(mutex_);
  stats_.rerouted += owed;
}

// Whether it owes anything or not, it is asked nothing more in this step.
uint64_t PeerExchange::Lose(PeerIndex peer) {
  const auto known = std::find(table_.peers.begin(), table_.peers.end(), peer);
  if (known == table_.peers.end() || !rule_) return 0;
  rule_->SetAlive(static_cast<int32_t>(known - table_.peers.begin()), false);
  uint64_t owed = 0;
  for (size_t i = questions_.size(); i-- > 0;) {
    if (questions_[i].peer != peer) continue;
    Drop(i);
    ++owed;
  }
  return owed;
}

// Forgets a question; what it asked for and nobody else was asked for is to be asked again.
void PeerExchange::Drop(size_t question) {
  for (const int32_t piece : questions_[question].pieces) {
    if (--pieces_.asked(piece) == 0) NoteUnasked(piece);
  }
  std::swap(questions_[question], questions_.back());
  questions_.pop_back();
}

void PeerExchange::NoteUnasked(int32_t piece) {
  if (!pieces_.split(piece)) {
    if (pieces_.Needed(piece)) unasked_.push_back(piece);
    return;
  }
  for (const int32_t route : pieces_.RoutesOf(piece)) {
    if (pieces_.asked(route) == 0 && pieces_.Needed(route)) unasked_.push_back(route);
  }
}

std::vector<int32_t> PeerExchange::OwnersOfAll(std::span<const int32_t> routes) const {
  const scheduler::Placement& placement = *table_.placement;
  const auto first = scheduler::OwnersOf(placement, experts_[static_cast<size_t>(routes[0])]);
  std::vector<int32_t> owners(first.begin(), first.end());
  for (const int32_t route : routes.subspan(1)) {
    std::erase_if(owners, [&](int32_t worker) {
      return !scheduler::Owns(placement, worker, experts_[static_cast<size_t>(route)]);
    });
  }
  return owners;
}

bool PeerExchange::Assign(int32_t piece) {
  return Assign(piece, /*late=*/false) || Assign(piece, /*late=*/true);
}

bool PeerExchange::Assign(int32_t piece, bool late) {
  const std::span<const int32_t> routes = pieces_.RoutesOf(piece);
  const int32_t worker = rule_->ChooseOne(OwnersOfAll(routes), late);
  if (worker != scheduler::DispatchRule::kNobody) {
    Give(worker, piece);
    return true;
  }
  const auto owners = [this](int32_t route) {
    return scheduler::OwnersOf(*table_.placement, experts_[static_cast<size_t>(route)]);
  };
  if (!pieces_.IsPart(piece) || !std::all_of(routes.begin(), routes.end(), [&](int32_t route) {
        return rule_->CanChoose(owners(route), late);
      })) {
    return false;
  }
  pieces_.Split(piece);
  for (const int32_t route : routes) Give(rule_->ChooseOne(owners(route), late), route);
  return true;
}

absl::Status PeerExchange::NoOwnerOf(int32_t piece) const {
  const std::span<const int32_t> routes = pieces_.RoutesOf(piece);
  const auto lost = std::find_if(routes.begin(), routes.end(), [this](int32_t route) {
    const scheduler::ExpertId expert = experts_[static_cast<size_t>(route)];
    return !rule_->CanChoose(scheduler::OwnersOf(*table_.placement, expert), /*late=*/true);
  });
  CONCLAVE_CHECK(lost != routes.end());
  return NoOwner(experts_[static_cast<size_t>(*lost)]);
}

absl::Status PeerExchange::AskUnasked(Rows outputs) {
  for (std::vector<int32_t>& given : given_) given.clear();
  std::vector<int32_t> unasked = std::exchange(unasked_, {});
  std::sort(unasked.begin(), unasked.end());
  unasked.erase(std::unique(unasked.begin(), unasked.end()), unasked.end());
  for (const int32_t piece : unasked) {
    if (!pieces_.Needed(piece)) continue;
    // A row of a late sum may yet come in it.
    const bool owed = pieces_.asked(pieces_.WholeOf(piece)) > 0;
    if (owed) {
      AssignToAnother(piece);
    } else if (!Assign(piece)) {
      return NoOwnerOf(piece);
    }
  }
  AskGiven(/*attempt=*/1, outputs);
  return absl::OkStatus();
}

void PeerExchange::AskGiven(uint32_t attempt, Rows outputs) {
  for (size_t worker = 0; worker < given_.size(); ++worker) {
    const std::vector<int32_t>& pieces = given_[worker];
    if (pieces.empty()) continue;
    if (static_cast<int32_t>(worker) == table_.self) {
      ComputeHere(pieces, outputs);
    } else {
      Ask(static_cast<int32_t>(worker), pieces, attempt);
    }
  }
}

void PeerExchange::ComputeHere(std::span<const int32_t> pieces, Rows outputs) {
  again_routes_.clear();
  again_outputs_.clear();
  for (const int32_t piece : pieces) {
    for (const int32_t route : pieces_.RoutesOf(piece)) {
      again_routes_.push_back(
          {static_cast<uint32_t>(route / top_k_), experts_[static_cast<size_t>(route)]});
      again_outputs_.push_back(route);
      missing_ -= pieces_.NoteCome(route);
    }
  }
  again_.layer = layer_;
  again_.x = x_;
  again_.routes = again_routes_;
  again_.outputs = again_outputs_;
  again_.out = outputs;
  server_.Submit(&again_);
  server_.Finish(&again_);
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

bool PeerExchange::Avoids(PeerIndex peer) const {
  const std::lock_guard lock(mutex_);
  return lateness_.Avoids(peer, Now());
}

std::vector<PeerIndex> PeerExchange::Late() const {
  const std::lock_guard lock(mutex_);
  return lateness_.Slow(Now());
}

void PeerExchange::AskReplicas(size_t question, Rows outputs) {
  for (std::vector<int32_t>& given : given_) given.clear();
  bool any = false;
  for (const int32_t piece : questions_[question].pieces) {
    if (!pieces_.Needed(piece) || pieces_.split(piece)) continue;
    any |= AssignToAnother(piece);
  }
  if (!any) return;
  AskGiven(questions_[question].attempt + 1, outputs);
  const std::lock_guard lock(mutex_);
  ++stats_.late;
}

// To who can compute it and owes it to nobody yet; false: all that can were asked.
bool PeerExchange::AssignToAnother(int32_t piece) {
  std::vector<int32_t> asked;
  for (const Question& question : questions_) {
    const auto holds = [&question](int32_t p) {
      return std::binary_search(question.pieces.begin(), question.pieces.end(), p);
    };
    if (!holds(piece) && !holds(pieces_.WholeOf(piece))) continue;
    asked.push_back(question.worker);
    rule_->SetAlive(question.worker, false);
  }
  const bool given = Assign(piece);
  for (const int32_t worker : asked) rule_->SetAlive(worker, true);
  return given;
}

}  // namespace conclave::worker
